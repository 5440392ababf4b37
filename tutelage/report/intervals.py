"""Charts of shares with their intervals, and the reliability diagram. Knows no run."""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from tutelage.report.chart import BOTTOM, TOP, H, W, dot, line, svg, words
from tutelage.report.text import percent, span

ROW = 30


@dataclass(frozen=True, slots=True)
class Estimate:
    """A share with its 95 % interval. Example: `Estimate("round 1 against SFT", "c-round-1", .81, .77, .85)`."""

    label: str
    css: str
    value: float
    low: float
    high: float


def dot_chart(title: str, rows: Sequence[Estimate]) -> Markup:
    """One row an estimate: its name above, the interval as a bar, the value as a dot; chance is dashed."""
    if not rows:
        return Markup("")
    left, right, top = 8.0, 52.0, 6
    height = top + len(rows) * (ROW + 8) + 24

    def x(share: float) -> float:
        return left + share * (W - left - right)

    floor = height - 22
    parts = []
    for i in range(5):
        share = i / 4
        parts.append(line(x(share), top, x(share), floor, "grid"))
        parts.append(words(x(share), floor + 15, f"{share:.0%}", "tick", "start" if i == 0 else "middle"))
    parts.append(line(x(0.5), top, x(0.5), floor, "rule"))
    for i, r in enumerate(rows):
        y = top + i * (ROW + 8) + 24
        parts.append(words(left, y - 10, r.label, f"label halo t-{r.css}"))
        parts.append(line(x(r.low), y, x(r.high), y, f"bar {r.css}"))
        parts.append(dot(x(r.value), y, r.css, f"{r.label}: {percent(r.value)} ({span(r.low, r.high)})", 5))
        parts.append(words(W - 46, y + 4, percent(r.value), "value"))
    told = "; ".join(f"{r.label} {percent(r.value)}, interval {span(r.low, r.high)}" for r in rows)
    return svg("".join(parts), W, height, f"{title}: {told}")


def reliability_chart(bins: Sequence[Sequence[float]]) -> Markup:
    """Share right against the probability that the model gave; on the diagonal it means what it says."""
    if not bins:
        return Markup("")
    left, side = 46, H - TOP - BOTTOM
    low = min(0.4, *(b[1] for b in bins))

    def x(p: float) -> float:
        return left + (p - 0.5) / 0.5 * side

    def y(p: float) -> float:
        return H - BOTTOM - (p - low) / (1 - low) * side

    parts = [line(x(0.5), y(0.5), x(1), y(1), "rule")]
    for p in (0.5, 0.75, 1.0):
        parts += [line(left, y(p), left + side, y(p), "grid"), words(left - 6, y(p) + 4, f"{p:.0%}", "tick", "end")]
        parts.append(words(x(p), H - BOTTOM + 15, f"{p:.0%}", "tick", "middle"))
    parts += [line(left, H - BOTTOM, left + side, H - BOTTOM, "axis")]
    parts.append(words(left + side / 2, H - 6, "predicted by the model", "title", "middle"))
    total = sum(n for _, _, n in bins)
    for p, right, n in bins:
        hint = f"predicted {percent(p)}, right {percent(right)}, {n:.0f} pairs"
        parts.append(dot(x(p), y(right), "c-proxy", hint, 2.5 + 9 * (n / total) ** 0.5))
    told = "; ".join(f"predicted {percent(p)}, right {percent(right)} of {n:.0f} pairs" for p, right, n in bins)
    return svg("".join(parts), W, H, f"Reliability: {told}")
