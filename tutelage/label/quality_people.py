"""Figures of each person: agreement with others, reliability, checks, repeats, habits. Signs are evidence for somebody
to read, never a verdict: whoever differs from the others and agrees with herself may hold a view.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

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


def _by_labeler(rows: Iterable[GivenAnswer] | Iterable[Pair]) -> defaultdict[str, list]:  # type: ignore[type-arg]
    found = defaultdict(list)
    for row in rows:
        found[row.labeler].append(row)
    return found
