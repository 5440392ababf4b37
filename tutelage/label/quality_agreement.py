"""How far people agree, as the quality page and a data card tell it: raw shares, and coefficients beyond chance.

A coefficient that the answers cannot determine is None, and says why. Knows rankings; knows no task and no store.
"""

import itertools
from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tutelage.stats.agreement import Coefficient, Judgement, Level, Rate, alpha_with_interval, pairwise_agreement
from tutelage.stats.intervals import cluster_bootstrap
from tutelage.stats.rank_agreement import kendall_w, mean_tau_b

ALL_THE_SAME = "undefined: everyone gave the same answer"
NOTHING_TWICE = "undefined: nothing was judged by two people yet"
Tiers = Mapping[str, int]  # of each text, 1 is best


@dataclass(frozen=True, slots=True)
class Known:
    """A coefficient, or why there is none."""

    found: Coefficient | None
    why: str = ""


@dataclass(frozen=True, slots=True)
class Agreed:
    """Raw agreement of people on pairs of answers. `exact`: better, tie and worse are three answers; `half`: a tie
    against a preference counts half; `untied`: pairs in which either saw a tie are left out.
    """

    n_prompts: int
    exact: Rate | None
    half: Rate | None
    untied: Rate | None


def agreed(ranked: Iterable[Judgement]) -> Agreed:
    found = pairwise_agreement(ranked)
    return Agreed(found.n_prompts, found.exact, found.half, found.untied)


def half_agreed(said: Sequence[Tiers]) -> float | None:
    """`Agreed.half` of what each person said of the same texts, the bare figure; None of one person."""
    values = []
    for one, other in itertools.combinations(said, 2):
        for x, y in itertools.combinations(sorted(one.keys() & other.keys()), 2):
            values.append(1 - abs(_sign(one, x, y) - _sign(other, x, y)) / 2)
    return sum(values) / len(values) if values else None


def _sign(tiers: Tiers, x: str, y: str) -> int:
    """1 x is better, 0 a tie, -1 y is better."""
    return (tiers[y] > tiers[x]) - (tiers[y] < tiers[x])


def known_alpha(rows: Iterable[tuple[Hashable, str, str, float]], level: Level) -> Known:
    """Krippendorff's alpha, or why there is none.

    rows  (what was rated, its prompt, who rated it, the rating); of two by the same person the later one counts
    """
    by_unit: defaultdict[Hashable, dict[str, float]] = defaultdict(dict)
    prompt_of: dict[Hashable, str] = {}
    for what, prompt, labeler, rating in rows:
        by_unit[what][labeler] = rating
        prompt_of[what] = prompt
    if not any(len(unit) > 1 for unit in by_unit.values()):
        return Known(None, NOTHING_TWICE)
    units = [list(unit.values()) for unit in by_unit.values()]
    found = alpha_with_interval(units, [prompt_of[what] for what in by_unit], level)
    return Known(found, "" if found else ALL_THE_SAME)


def signs(ranked: Iterable[Judgement]) -> Iterator[tuple[Hashable, str, str, float]]:
    """Every pair of every ranking as a rating of that pair: 1 the smaller id is better, 0 a tie, -1 it is worse."""
    for labeler, prompt, tiers in ranked:
        for x, y in itertools.combinations(sorted(tiers), 2):
            yield (x, y), prompt, labeler, float(_sign(tiers, x, y))


def concordance(groups: Iterable[tuple[str, Sequence[Tiers]]]) -> tuple[Known, Known]:
    """Kendall's W and tau-b, means over groups that two people or more ranked.

    groups  (prompt, what each person said of the same texts)
    """
    shared = [(prompt, some) for prompt, some in groups if len(some) > 1]
    if not shared:
        return Known(None, NOTHING_TWICE), Known(None, NOTHING_TWICE)
    tables = [[[tiers[i] for i in sorted(some[0])] for tiers in some] for _, some in shared]
    prompts = [prompt for prompt, _ in shared]
    return _mean([kendall_w(t) for t in tables], prompts), _mean([mean_tau_b(t) for t in tables], prompts)


def _mean(values: Sequence[float | None], prompts: Sequence[str]) -> Known:
    kept = [(v, p) for v, p in zip(values, prompts, strict=True) if v is not None]
    if not kept:
        return Known(None, "undefined: everyone tied everything")
    numbers = [v for v, _ in kept]
    low, high = cluster_bootstrap(numbers, [p for _, p in kept], seed=0)
    return Known(Coefficient(float(np.mean(numbers)), low, high, len(kept)))
