"""Charts as inline SVG: lines, points and intervals, labelled where they end. Knows no run; colours are CSS classes.

Coordinates are those of the viewBox: a chart is shown at about W pixels, so that its text stays legible.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from tutelage.report.text import clean

W, H = 360, 228
LEFT, TOP, BOTTOM = 46, 14, 38
CHAR = 6.1  # width of a character of a label
MAX_POINTS = 300  # of a line; more are averaged in equal parts

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Series:
    """One line. Example: `Series("round 1", "c-round-1", ((0, 1.4), (1, 1.3)))`."""

    label: str
    css: str
    points: tuple[Point, ...]
    band: tuple[tuple[float, float, float], ...] = ()  # x, low, high
    has_dots: bool = False
    is_line: bool = True
    is_dashed: bool = False
    unit: str = ""  # of x, for the text at a point
    hints: tuple[str, ...] = ()  # further text at each point


@dataclass(frozen=True, slots=True)
class Rule:
    """A horizontal limit, such as the KL target."""

    y: float
    label: str


@dataclass(frozen=True, slots=True)
class Mark:
    """A vertical line at something that happened. Example: `Mark(12, "best", "m-best")`."""

    x: float
    label: str
    css: str
    is_foot: bool = False  # its label stands at the foot of the plot


@dataclass(frozen=True, slots=True)
class Plot:
    """What a chart shows. `x_title` and `y_title` name the unit."""

    title: str
    x_title: str
    y_title: str
    series: tuple[Series, ...]
    rules: tuple[Rule, ...] = ()
    marks: tuple[Mark, ...] = ()
    is_share: bool = False  # y in percent
    y_range: tuple[float, float] | None = None
    x_range: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class Frame:
    """From values to places on the canvas."""

    x0: float
    x1: float
    y0: float
    y1: float
    right: float

    def x(self, value: float) -> float:
        return LEFT + (value - self.x0) / (self.x1 - self.x0) * (W - LEFT - self.right)

    def y(self, value: float) -> float:
        return H - BOTTOM - (value - self.y0) / (self.y1 - self.y0) * (H - TOP - BOTTOM)


def draw(plot: Plot) -> Markup:
    """The chart, or nothing where no series has a finite point."""
    series = tuple(s for s in (_finite(s) for s in plot.series) if s.points)
    if not series:
        return Markup("")
    frame = _frame(plot, series)
    rules = [r for r in plot.rules if frame.y0 <= r.y <= frame.y1]
    parts = [*_axes(plot, frame)]
    parts += [_rule(r, frame) for r in rules]
    parts += _marks([m for m in plot.marks if frame.x0 <= m.x <= frame.x1], frame)
    parts += [part for s in series for part in _series(plot, s, frame)]
    parts += _labels(series, frame)
    return svg("".join(parts), W, H, _summary(plot, series))


def svg(inside: str, width: float, height: float, summary: str) -> Markup:
    """The element around a drawing; `summary` is what a screen reader says."""
    return Markup(
        f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(clean(summary))}">{inside}</svg>'
    )


def words(x: float, y: float, text: str, css: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{css}" text-anchor="{anchor}">{escape(clean(text))}</text>'


def line(x0: float, y0: float, x1: float, y1: float, css: str) -> str:
    return f'<line x1="{x0:.1f}" y1="{y0:.1f}" x2="{x1:.1f}" y2="{y1:.1f}" class="{css}"/>'


def dot(x: float, y: float, css: str, hint: str, radius: float = 3.2) -> str:
    tip = f"<title>{escape(clean(hint))}</title>"
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}" class="dot {css}">{tip}</circle>'


def ticks(low: float, high: float, n: int = 5) -> list[float]:
    """Round numbers within the range, about `n` of them."""
    raw = (high - low) / n
    power = 10 ** math.floor(math.log10(raw))
    step = min((m * power for m in (1, 2, 2.5, 5, 10)), key=lambda s: abs(math.log(s / raw)))
    first = math.ceil(low / step - 1e-9)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]


def tick_text(value: float, step: float, is_share: bool) -> str:
    if is_share:
        return f"{value * 100:.{0 if step >= 0.00999 else 1}f}%"
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    digits += 0 if abs(step * 10**digits - round(step * 10**digits)) < 1e-9 else 1
    return f"{value:,.{digits}f}".replace("-", "−") if digits <= 4 else f"{value:.0e}"


def _finite(series: Series) -> Series:
    points = _thinned([p for p in series.points if all(map(math.isfinite, p))])
    band = tuple(b for b in series.band if all(map(math.isfinite, b)))
    return Series(
        series.label, series.css, points, band, series.has_dots, series.is_line, series.is_dashed, series.unit,
        series.hints if len(points) == len(series.points) else (),
    )  # fmt: skip


def _thinned(points: Sequence[Point]) -> tuple[Point, ...]:
    size = -(-len(points) // MAX_POINTS) or 1
    parts = [points[i : i + size] for i in range(0, len(points), size)]
    return tuple((sum(x for x, _ in p) / len(p), sum(y for _, y in p) / len(p)) for p in parts)


def _frame(plot: Plot, series: Sequence[Series]) -> Frame:
    xs = [x for s in series for x, _ in s.points] + [x for s in series for x, _, _ in s.band]
    ys = [y for s in series for _, y in s.points] + [y for s in series for _, *b in s.band for y in b]
    x0, x1 = plot.x_range or (min(xs), max(xs))
    if plot.y_range:
        y0, y1 = plot.y_range
    else:
        # A limit far above the curve would press the curve flat; the caption names it instead.
        reach = max(map(abs, ys))
        ys += [r.y for r in plot.rules if abs(r.y) <= 1.6 * reach]
        y0, y1 = min(ys), max(ys)
        y0 = 0.0 if 0 <= y0 < 0.5 * y1 or (plot.is_share and 0 <= y0 == y1 < 0.5) else y0
        room = 0.06 * (y1 - y0) or 0.1 * abs(y1) or 1.0
        is_whole = plot.is_share and y1 <= 1
        y0, y1 = (y0 if y0 == 0 else y0 - room), (min(1.0, y1 + room) if is_whole else y1 + room)
    x1 = x1 if x1 > x0 else x0 + 1
    longest = max((len(s.label) for s in series), default=0)
    return Frame(x0, x1, y0, y1, min(108.0, 10 + CHAR * longest) if longest else 12.0)


def _axes(plot: Plot, f: Frame) -> Iterable[str]:
    ys, xs = ticks(f.y0, f.y1, 4), ticks(f.x0, f.x1, 5)
    for y in ys:
        yield line(LEFT, f.y(y), W - f.right, f.y(y), "grid")
        yield words(LEFT - 6, f.y(y) + 3.8, tick_text(y, _step(ys), plot.is_share), "tick", "end")
    for x in xs:
        yield words(f.x(x), H - BOTTOM + 15, tick_text(x, _step(xs), False), "tick", "middle")
    yield line(LEFT, H - BOTTOM, W - f.right, H - BOTTOM, "axis")
    yield words((LEFT + W - f.right) / 2, H - 6, plot.x_title, "title", "middle")


def _step(values: Sequence[float]) -> float:
    return values[1] - values[0] if len(values) > 1 else max(abs(values[0]), 1e-9) if values else 1.0


def _rule(rule: Rule, f: Frame) -> str:
    y = f.y(rule.y)
    return line(LEFT, y, W - f.right, y, "rule") + words(LEFT + 4, y - 4, rule.label, "note halo")


def _marks(marks: Sequence[Mark], f: Frame) -> Iterable[str]:
    """Lines with their labels: the first kind above the plot, others at its foot, where they have room."""
    taken: dict[float, list[tuple[float, float]]] = {}
    for mark in sorted(marks, key=lambda m: m.x):
        x, is_foot = f.x(mark.x), mark.is_foot
        yield line(x, TOP, x, H - BOTTOM, f"mark {mark.css}")
        y, width = (H - BOTTOM - 5 if is_foot else TOP - 3), CHAR * len(mark.label)
        is_left = x + width > W - f.right
        left = x - 4 - width if is_left else x + 4
        if all(left > b or left + width < a for a, b in taken.setdefault(y, [])):
            taken[y].append((left, left + width))
            yield words(
                x + (-4 if is_left else 4), y, mark.label, f"note halo {mark.css}", "end" if is_left else "start"
            )


def _series(plot: Plot, s: Series, f: Frame) -> Iterable[str]:
    if s.band:
        upper = " ".join(f"{f.x(x):.1f},{f.y(high):.1f}" for x, _, high in s.band)
        lower = " ".join(f"{f.x(x):.1f},{f.y(low):.1f}" for x, low, _ in reversed(s.band))
        if s.is_line:
            yield f'<polygon points="{upper} {lower}" class="band {s.css}"/>'
        else:
            yield from (line(f.x(x), f.y(low), f.x(x), f.y(high), f"bar {s.css}") for x, low, high in s.band)
    if s.is_line and len(s.points) > 1:
        path = " ".join(f"{f.x(x):.1f},{f.y(y):.1f}" for x, y in s.points)
        yield f'<polyline points="{path}" class="line {s.css}{" dashed" if s.is_dashed else ""}"/>'
    if s.has_dots or len(s.points) == 1:
        for i, (x, y) in enumerate(s.points):
            value = f"{y:.1%}" if plot.is_share else f"{y:.3g}"
            hint = f" {s.hints[i]}" if s.hints else ""
            yield dot(f.x(x), f.y(y), s.css, f"{s.label}: {value} at {x:.3g} {s.unit}{hint}".strip())


def _labels(series: Sequence[Series], f: Frame) -> list[str]:
    """Each label beside the end of its line; those that would touch are moved apart."""
    named = [(f.y(s.points[-1][1]), f.x(s.points[-1][0]), s) for s in series if s.label]
    ends = sorted(named, key=lambda end: end[0])
    placed: list[tuple[float, float, Series]] = []
    for y, x, s in ends:
        near = [p for p, px, _ in placed if abs(px - x) < 60]
        placed.append((max([y, *(p + 13 for p in near)]), x, s))
    over = max([0.0, *(y - (H - BOTTOM + 4) for y, _, _ in placed)])
    return [words(x + 6, y - over + 4, s.label, f"label halo t-{s.css}") for y, x, s in placed]


def _summary(plot: Plot, series: Sequence[Series]) -> str:
    def course(s: Series) -> str:
        first, last = s.points[0], s.points[-1]
        form = ".1%" if plot.is_share else ".3g"
        name = s.label or plot.y_title
        return (
            f"{name} {last[1]:{form}}" if len(s.points) == 1 else f"{name} from {first[1]:{form}} to {last[1]:{form}}"
        )

    limits = "".join(f"; {r.label}" for r in plot.rules)
    marks = "".join(f"; {m.label} at {m.x:.3g}" for m in plot.marks if m.label)
    return f"{plot.title} ({plot.y_title}) against {plot.x_title}: {'; '.join(map(course, series))}{limits}{marks}"
