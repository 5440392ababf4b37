"""What quality figures are counted from: answers taken apart into pairs, and shares of them with their intervals."""

import itertools
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tutelage.stats.agreement import Rate
from tutelage.stats.intervals import cluster_wilson
from tutelage.store.quality_facts import GivenAnswer, JudgedText


@dataclass(frozen=True, slots=True)
class Pair:
    """How one person placed two completions of a task; `first` is the smaller id, so that all people's pairs match."""

    task_id: int
    kind: str
    prompt_id: str
    labeler: str
    first: str
    second: str
    sign: int  # 1 the first is better, 0 a tie, -1 the second is better
    longer: int  # 1 the first is longer, 0 both are as long, -1 the second is longer


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds at work on a task."""

    median_s: float
    p90_s: float
    n: int


def pairs_of(ranked: Iterable[GivenAnswer], texts: Mapping[str, JudgedText]) -> list[Pair]:
    """Every pair of cards of every ranking."""
    found = []
    for a in ranked:
        for x, y in itertools.combinations(sorted(a.tiers), 2):
            sign = (a.tiers[y] > a.tiers[x]) - (a.tiers[y] < a.tiers[x])
            longer = (texts[x].length > texts[y].length) - (texts[x].length < texts[y].length)
            found.append(Pair(a.task_id, a.kind, a.prompt_id, a.labeler, x, y, sign, longer))
    return found


def share(values: Sequence[float], clusters: Sequence[Hashable]) -> Rate | None:
    """The mean of values from 0 to 1 with its interval over clusters; None of nothing."""
    if not values:
        return None
    low, high = cluster_wilson(values, clusters)
    return Rate(float(np.mean(values)), low, high, len(values))


def timing(answers: Iterable[GivenAnswer]) -> Timing | None:
    """Of answers whose time is known; None of none."""
    seconds = [a.active_ms / 1000 for a in answers if a.active_ms > 0 and not a.is_skipped]
    if not seconds:
        return None
    median, p90 = np.percentile(seconds, [50, 90])
    return Timing(float(median), float(p90), len(seconds))


def skipped(answers: Sequence[GivenAnswer]) -> Rate | None:
    return share([float(a.is_skipped) for a in answers], [a.prompt_id for a in answers])


def late(answers: Sequence[GivenAnswer]) -> Rate | None:
    """Answered after the lease had run out."""
    given = [a for a in answers if not a.is_skipped]
    return share([float(a.is_late) for a in given], [a.prompt_id for a in given])


def ties(pairs: Sequence[Pair]) -> Rate | None:
    return share([float(p.sign == 0) for p in pairs], [p.prompt_id for p in pairs])


def longer_better(pairs: Iterable[Pair]) -> Rate | None:
    """Of pairs with a winner and different lengths, those whose longer answer won. Half would be no bias at all."""
    told = [p for p in pairs if p.sign and p.longer]
    return share([float(p.sign == p.longer) for p in told], [p.prompt_id for p in told])


def first_best(ranked: Sequence[GivenAnswer]) -> Rate | None:
    """How often the card shown first was ranked best; of t cards that share the best place, 1 / t."""
    values = []
    for a in ranked:
        tiers = list(a.tiers.values())
        values.append(1 / tiers.count(min(tiers)) if tiers[0] == min(tiers) else 0.0)
    return share(values, [a.prompt_id for a in ranked])


def first_chance(ranked: Sequence[GivenAnswer]) -> float | None:
    """The same where the order of presentation plays no part."""
    return float(np.mean([1 / len(a.tiers) for a in ranked])) if ranked else None
