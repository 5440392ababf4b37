"""Figures of each person: agreement with others, reliability, checks, repeats, habits. Signs are evidence for somebody
to read, never a verdict: whoever differs from the others and agrees with herself may hold a view.
"""

import itertools
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from tutelage.label.quality_counts import (
    Pair,
    Timing,
    first_best,
    first_chance,
    late,
    longer_better,
    share,
    skipped,
    ties,
    timing,
)
from tutelage.label.quality_models import RewardCard
from tutelage.stats.agreement import Rate
from tutelage.stats.reliability import dawid_skene, fit_noisy_bt
from tutelage.store.quality_facts import GivenAnswer

ENOUGH = 20  # comparisons or answers, below which no sign is given
ENOUGH_CHECKS = 5
NEAR_CHANCE = 0.6  # of the chance to choose the better answer: an interval that ends below says next to nothing
FAST = 1 / 3  # of everybody's median time at the same kinds of task


@dataclass(frozen=True, slots=True)
class Reliability:
    """By a noisy Bradley-Terry model. `right`: the chance to choose what is better to all; half is a coin."""

    value: float  # -1 to 1
    right: float
    low: float  # of right
    high: float
    n: int
    weight: float  # in training, the mean person's is 1


@dataclass(frozen=True, slots=True)
class FlagHabit:
    """By Dawid and Skene's model: of what should be flagged, what share is; of what should not, what share is too."""

    found: float
    false: float
    n: int  # texts and flags that somebody else looked at too


@dataclass(frozen=True, slots=True)
class PersonFigures:
    """One pseudonym. None: not enough to say."""

    labeler: str
    answers: int
    agreement: Rate | None  # with others on the same pairs, a tie against a preference as half
    reliability: Reliability | None
    checks: Rate | None  # mean score against known answers
    repeats: Rate | None  # agreement with herself when asked again
    reward: Rate | None  # how often the reward model orders held-out pairs as she did
    flags: FlagHabit | None
    timing: Timing | None
    ties: Rate | None
    first_best: Rate | None
    first_chance: float | None
    longer_better: Rate | None
    skipped: Rate | None
    late: Rate | None
    signs: tuple[str, ...]


def people_figures(
    worked: Sequence[GivenAnswer], ranked: Sequence[GivenAnswer], pairs: Sequence[Pair], reward: RewardCard | None
) -> tuple[PersonFigures, ...]:
    """By pseudonym: an order by number of answers would be a race.

    worked  everything but practice; `ranked` and `pairs` are its ordinary rankings
    """
    own = _by_labeler(worked)
    own_ranked, own_pairs = _by_labeler(ranked), _by_labeler(pairs)
    agreed, reliable, repeats = _agreement(pairs), _reliability(pairs), _repeats(worked)
    flags, usual = flag_habits(ranked), _usual_seconds(worked)
    found = []
    for name in sorted(own):
        mine, my_ranked, my_pairs = own[name], own_ranked[name], own_pairs[name]
        scored = [a for a in mine if a.is_check and a.score is not None]
        person = PersonFigures(
            labeler=name,
            answers=sum(not a.is_skipped for a in mine),
            agreement=agreed[name] if name in agreed else None,
            reliability=reliable[name] if name in reliable else None,
            checks=share([a.score for a in scored if a.score is not None], [a.task_id for a in scored]),
            repeats=repeats[name] if name in repeats else None,
            reward=reward.by_labeler[name] if reward and name in reward.by_labeler else None,
            flags=flags[name] if name in flags else None,
            timing=timing(mine),
            ties=ties(my_pairs),
            first_best=first_best(my_ranked),
            first_chance=first_chance(my_ranked),
            longer_better=longer_better(my_pairs),
            skipped=skipped(mine),
            late=late(mine),
            signs=(),
        )
        found.append(_with_signs(person, _haste(mine, usual)))
    return tuple(found)


T = TypeVar("T", GivenAnswer, Pair)


def _by_labeler(rows: Iterable[T]) -> defaultdict[str, list[T]]:
    found: defaultdict[str, list[T]] = defaultdict(list)
    for row in rows:
        found[row.labeler].append(row)
    return found


def _agreement(pairs: Iterable[Pair]) -> dict[str, Rate]:
    """Agreement of each person with everybody else who placed the same two completions."""
    by_pair: defaultdict[tuple[str, str], list[Pair]] = defaultdict(list)
    for p in pairs:
        by_pair[p.first, p.second].append(p)
    values: defaultdict[str, list[float]] = defaultdict(list)
    prompts: defaultdict[str, list[str]] = defaultdict(list)
    for same in by_pair.values():
        for x, y in itertools.combinations(same, 2):
            if x.labeler != y.labeler:
                for one in (x, y):
                    values[one.labeler].append(1 - abs(x.sign - y.sign) / 2)
                    prompts[one.labeler].append(one.prompt_id)
    return {name: rate for name in values if (rate := share(values[name], prompts[name])) is not None}


def _reliability(pairs: Iterable[Pair]) -> dict[str, Reliability]:
    """Of those who met somebody on a pair that both told apart."""
    told = [p for p in pairs if p.sign]
    people = sorted({p.labeler for p in told})
    items = {name: i for i, name in enumerate(sorted({i for p in told for i in (p.first, p.second)}))}
    who = {name: i for i, name in enumerate(people)}
    where = {name: i for i, name in enumerate(dict.fromkeys(p.prompt_id for p in told))}
    better = [items[p.first if p.sign > 0 else p.second] for p in told]
    worse = [items[p.second if p.sign > 0 else p.first] for p in told]
    fit = fit_noisy_bt(
        better, worse, [who[p.labeler] for p in told], [where[p.prompt_id] for p in told], n_labelers=len(people)
    )
    return {
        name: Reliability(
            value=float(fit.reliability[i]),
            right=float(fit.right[i]),
            low=float(1 + fit.low[i]) / 2,
            high=float(1 + fit.high[i]) / 2,
            n=int(fit.n[i]),
            weight=float(fit.weights[i]),
        )
        for name, i in who.items()
        if fit.n[i]
    }


def _repeats(worked: Iterable[GivenAnswer]) -> dict[str, Rate]:
    """Agreement of each person's blind repeats with what she said the first time."""
    first = {(a.task_id, a.labeler): a for a in worked if a.is_counted and a.tiers}
    again = [a for a in worked if a.is_repeat and a.tiers and (a.task_id, a.labeler) in first]
    values: defaultdict[str, list[float]] = defaultdict(list)
    tasks: defaultdict[str, list[int]] = defaultdict(list)
    for a in again:
        before = first[a.task_id, a.labeler].tiers
        for x, y in itertools.combinations(sorted(a.tiers.keys() & before.keys()), 2):
            signs = [int(np.sign(tiers[y] - tiers[x])) for tiers in (a.tiers, before)]
            values[a.labeler].append(1 - abs(signs[0] - signs[1]) / 2)
            tasks[a.labeler].append(a.task_id)
    return {name: rate for name in values if (rate := share(values[name], tasks[name])) is not None}


def flag_habits(ranked: Sequence[GivenAnswer]) -> dict[str, FlagHabit]:
    """Of all flags together, over texts that two people or more looked at; empty where nothing was flagged."""
    categories = sorted({category for a in ranked for _, category in a.flags})
    seen: defaultdict[str, set[str]] = defaultdict(set)
    for a in ranked:
        for text in a.tiers:
            seen[text].add(a.labeler)
    shared = [(a, text) for a in ranked for text in a.tiers if len(seen[text]) > 1]
    if not categories or not shared:
        return {}
    people = sorted({a.labeler for a, _ in shared})
    who = {name: i for i, name in enumerate(people)}
    item = {key: i for i, key in enumerate(itertools.product(sorted({t for _, t in shared}), categories))}
    rows = [(item[t, c], who[a.labeler], int((t, c) in a.flags)) for a, t in shared for c in categories]
    fit = dawid_skene(*zip(*rows, strict=True), n_classes=2, n_labelers=len(people))
    return {
        name: FlagHabit(float(fit.confusion[i, 1, 1]), float(fit.confusion[i, 0, 1]), int(fit.n[i]))
        for name, i in who.items()
    }


# Signs.


def _usual_seconds(worked: Iterable[GivenAnswer]) -> dict[str, float]:
    """Everybody's median time by kind of task."""
    by_kind: defaultdict[str, list[GivenAnswer]] = defaultdict(list)
    for a in worked:
        by_kind[a.kind].append(a)
    return {kind: found.median_s for kind, some in by_kind.items() if (found := timing(some)) is not None}


def _haste(mine: Iterable[GivenAnswer], usual: Mapping[str, float]) -> float | None:
    """Median of own time over everybody's at that kind of task; None of too few."""
    told = [a.active_ms / 1000 / usual[a.kind] for a in mine if a.active_ms > 0 and not a.is_skipped]
    return float(np.median(told)) if len(told) >= ENOUGH else None


def _with_signs(p: PersonFigures, haste: float | None) -> PersonFigures:
    signs = []
    if p.reliability is not None and p.reliability.n >= ENOUGH:
        if p.reliability.high < 0.5:
            signs.append("mostly chooses what others find worse: an order turned round, or a view of their own")
        elif p.reliability.high < NEAR_CHANCE:
            signs.append("choices are close to chance where others agree")
    if p.checks is not None and p.checks.n >= ENOUGH_CHECKS and p.checks.high < NEAR_CHANCE:
        signs.append("known answers are often missed")
    if p.repeats is not None and p.repeats.n >= ENOUGH and p.repeats.high < NEAR_CHANCE:
        signs.append("answers differ when the same task is asked again")
    if p.first_best and p.first_chance and p.first_best.n >= ENOUGH and p.first_best.low > p.first_chance + 0.1:
        signs.append("the answer shown first is ranked best too often")
    if haste is not None and haste < FAST:
        signs.append("much faster than others")
    return replace(p, signs=tuple(signs))
