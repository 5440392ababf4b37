"""Over-optimisation: what the policy gained on the reward that it optimised, and on rewards that it never saw.

d is the root of the KL to the reference in nats (Gao et al. 2022, arXiv:2210.10760).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from tutelage.report.chart import Mark, Plot, Point, Rule, Series, draw
from tutelage.report.curves import policy_css
from tutelage.report.read import Facts, Round, RunFacts
from tutelage.report.text import number, signed
from tutelage.stats.overoptimisation import ScalingFit, fit_rl

D = "√KL to the reference (√nats)"
MIN_POINTS = 4  # at different distances above 0, for two coefficients
MUCH = 0.25  # share of the gain that must be lost again before the page speaks of a peak
KINDS = (
    ("optimised", "eval_proxy", "c-proxy"),
    ("held-out", "eval_held_out", "c-held-out"),
    ("gold", "eval_gold", "c-gold"),
)


@dataclass(frozen=True, slots=True)
class Seen:
    """An evaluation along the way. Example: after 10 updates, d 1.3, rewards by kind, best so far or not."""

    updates: int
    d: float
    row: Facts


@dataclass(frozen=True, slots=True)
class FitRow:
    """One kind of reward: how it went, and Gao's curve through it where there are enough points."""

    kind: str
    css: str
    first: float
    last: float
    best: float
    best_updates: int
    fit: ScalingFit | None
    reach: float  # the largest d that was measured


@dataclass(frozen=True, slots=True)
class Gauge:
    """Everything about one round. `reading` is the same in words."""

    i: int
    rewards: Markup
    gold: Markup
    fits: tuple[FitRow, ...]
    best_updates: int | None
    reading: str


def evaluations(rows: Sequence[Facts]) -> list[Seen]:
    """The rows that hold an evaluation. One without rollouts was made before the first update."""
    return [
        Seen(int(row["step"]) + (1 if "kl" in row else 0), math.sqrt(max(float(row["eval_kl"]), 0.0)), row)
        for row in rows
        if "eval_held_out" in row
    ]


def gauges(run: RunFacts) -> list[Gauge]:
    found = (_gauge(run, r) for r in run.rounds)
    return [g for g in found if g is not None]


def best_updates(run: RunFacts, r: Round) -> int | None:
    """After how many updates the policy was best: as published, or by the same rule so far."""
    if r.rl is None:
        return None
    if r.rl.facts is not None:
        return int(r.rl.facts["best_step"])
    budget = run.config["kl"]["budget"]
    # The policy before the first update is the first best, whatever its KL.
    allowed = [s for s in evaluations(r.rl.rows) if s.updates == 0 or s.row["eval_kl"] <= budget]
    return max(allowed, key=lambda s: float(s.row["eval_held_out"])).updates if allowed else None


def _gauge(run: RunFacts, r: Round) -> Gauge | None:
    seen = evaluations(r.rl.rows) if r.rl else []
    if not seen or r.rl is None:
        return None
    best = best_updates(run, r)
    marks = [Mark(s.d, f"best: {best}", "m-best") for s in seen if s.updates == best]
    d_at = {int(row["step"]): math.sqrt(max(float(row["kl"]), 0.0)) for row in r.rl.rows if "kl" in row}
    # One mark a distance: alarms that rang at the same update stand on one line.
    rang = sorted({a["step"] for a in r.alarms if a["step"] in d_at})
    marks += [Mark(d_at[step], f"alarm: {step}", "m-alarm", is_foot=True) for step in rang]
    fits = tuple(f for f in (_fit_row(seen, *kind) for kind in KINDS) if f is not None)
    watched, gold = [f for f in fits if f.kind != "gold"], [f for f in fits if f.kind == "gold"]
    return Gauge(
        r.i,
        _chart(f"Rewards of round {r.i}", "change from the start, standard deviations", seen, watched, marks),
        _chart(f"Gold reward of round {r.i}", "change from the start, units of the simulated taste", seen, gold, marks),
        fits,
        best,
        _reading(fits, len(seen)),
    )


def _fit_row(seen: Sequence[Seen], kind: str, key: str, css: str) -> FitRow | None:
    known = [s for s in seen if key in s.row and math.isfinite(s.row[key])]
    if not known:
        return None
    first = float(known[0].row[key])
    best = max(known, key=lambda s: float(s.row[key]))
    ds = [s.d for s in known]
    enough = len({d for d in ds if d > 1e-6}) >= MIN_POINTS
    fit = fit_rl(ds, [float(s.row[key]) - first for s in known]) if enough else None
    return FitRow(kind, css, first, float(known[-1].row[key]), float(best.row[key]), best.updates, fit, max(ds))


def _chart(title: str, unit: str, seen: Sequence[Seen], rows: Sequence[FitRow], marks: Sequence[Mark]) -> Markup:
    key_of = {kind: key for kind, key, _ in KINDS}
    series = []
    for row in rows:
        known = [s for s in seen if key_of[row.kind] in s.row]
        path = tuple((s.d, float(s.row[key_of[row.kind]]) - row.first) for s in known)
        band: tuple[tuple[float, float, float], ...] = ()
        if row.kind == "held-out":
            band = tuple(
                (d, y - 1.96 * s.row["eval_held_out_se"], y + 1.96 * s.row["eval_held_out_se"])
                for (d, y), s in zip(path, known, strict=True)
            )
        if row.fit is not None:
            series.append(Series("", f"{row.css} fit", _curve(row), is_dashed=True))
        hints = tuple(f"after {s.updates} updates" for s in known)
        series.append(Series(row.kind, row.css, path, band, has_dots=True, unit="√nats", hints=hints))
    return draw(Plot(title, D, unit, tuple(series), (Rule(0.0, ""),), tuple(marks)))


def _curve(row: FitRow) -> tuple[Point, ...]:
    assert row.fit is not None, "only a fit has a curve"
    ds = [row.reach * (i + 1) / 60 for i in range(60)]
    return tuple((d, d * (row.fit.a - row.fit.b * math.log(d))) for d in ds)


def _reading(fits: Sequence[FitRow], n: int) -> str:
    if n < 2:
        return "Only one evaluation so far; the curve needs more."
    parts = [
        f"the {f.kind} reward went from {number(f.first)} to {number(f.last)} ({signed(f.last - f.first)})"
        for f in fits
    ]
    text = ", ".join(parts)
    text = text[0].upper() + text[1:] + "."
    proxy, others = fits[0], fits[1:]
    fell = [f for f in others if f.best > f.first and f.last < f.best - MUCH * (f.best - f.first)]
    if proxy.last > proxy.first and any(f.last < f.first for f in others):
        return f"{text} In the end the policy had gained what it optimised and lost what it did not: over-optimisation."
    if proxy.last > proxy.first and fell:
        peaks = " and ".join(f"{f.kind} after {f.best_updates} updates" for f in fell)
        return f"{text} Rewards that it never saw had their peak before ({peaks}): what followed was over-optimisation."
    if proxy.last > proxy.first:
        return f"{text} What it never saw rose with what it optimised: no sign of over-optimisation within this KL."
    return f"{text} The optimised reward did not rise: RL learned little here."


def frontier(run: RunFacts) -> Markup:
    """Win rate against SFT and the KL that it cost: rounds of RL beside best of n."""
    series = []
    for r in run.measured:
        figures = r.figures
        assert figures is not None, "measured rounds have figures"
        name = figures["newest"]
        win = figures["win_rates"][f"{name} against SFT"]
        d = math.sqrt(max(figures["kl"]["kl"], 0.0))
        series.append(_at(name, policy_css(name), [(d, win)], is_line=False))
    if not series:
        return Markup("")
    best_of = [(math.sqrt(b["kl"]), b) for b in (run.measured[-1].figures or {})["best_of_n"]]
    if best_of:
        # The label stands at the last point, which is that of the last n.
        series.append(_at(f"best of {run.config['evaluation']['best_of'][-1]}", "c-bon", best_of, is_line=True))
    furthest = max(x for s in series for x, _ in s.points)
    plot = Plot(
        "Win rate against SFT", D, "win rate against SFT", tuple(series), (Rule(0.5, "as good as SFT"),),
        is_share=True, x_range=(0.0, furthest * 1.05 or 1.0),
    )  # fmt: skip
    return draw(plot)


def _at(label: str, css: str, wins: Sequence[tuple[float, Facts]], *, is_line: bool) -> Series:
    band = tuple((d, float(w["low"]), float(w["high"])) for d, w in wins)
    dots = tuple((d, float(w["rate"])) for d, w in wins)
    return Series(label, css, dots, band, has_dots=True, is_line=is_line, unit="√nats")
