"""The figures of a project's quality page, as one pure function of what its people said. Knows no page and no request.

A figure that the answers cannot determine is None, and says why; a share never stands without its n and its interval.
Checks with a known answer, practice and repeats are counted apart: nobody's work is compared on them.
"""

import threading
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from weakref import WeakKeyDictionary

import numpy as np

from tutelage.label.quality_models import RewardCard, VersionFigures, newest_reward_card, version_figures
from tutelage.label.quality_pairs import Pair, pairs_of, share
from tutelage.label.quality_people import PersonFigures, Timing, people_figures, timing
from tutelage.stats.agreement import Coefficient, Level, Rate, alpha_with_interval, pairwise_agreement
from tutelage.stats.intervals import cluster_bootstrap
from tutelage.stats.rank_agreement import kendall_w, mean_tau_b
from tutelage.stats.reliability import dawid_skene
from tutelage.store.db import Store
from tutelage.store.feedback import head
from tutelage.store.quality_facts import GivenAnswer, QualityFacts, read_quality_facts

ALL_THE_SAME = "undefined: everyone gave the same answer"
NOTHING_TWICE = "undefined: nothing was judged by two people yet"


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


@dataclass(frozen=True, slots=True)
class KindFigures:
    """One kind of task. Agreement and ties only where answers are ranked."""

    kind: str
    answers: int
    skipped: Rate | None
    late: Rate | None
    timing: Timing | None
    agreed: Agreed | None
    ties: Rate | None


@dataclass(frozen=True, slots=True)
class AspectFigures:
    """Agreement of grades on one aspect: ordinal alpha."""

    aspect: str
    grades: int
    alpha: Known


@dataclass(frozen=True, slots=True)
class FlagFigures:
    """One flag: how often it is raised, whether people agree, and how often it applies by Dawid and Skene's model."""

    category: str
    raised: Rate
    alpha: Known
    applies: float | None


@dataclass(frozen=True, slots=True)
class Quality:
    """Everything that the page shows, counted up to event `seq`."""

    seq: int
    answers: int
    checks: int
    repeats: int
    agreed: Agreed
    alpha_nominal: Known  # of pairs: better, tie, worse
    alpha_ordinal: Known
    concordance: Known  # mean of Kendall's W over ranking tasks
    tau: Known  # mean of tau-b over people and ranking tasks
    ties: Rate | None
    skipped: Rate | None
    late: Rate | None
    timing: Timing | None
    first_best: Rate | None  # how often the answer shown first was ranked best; a shared best place counts in part
    first_chance: float | None
    longer_better: Rate | None  # of pairs with a winner and different lengths
    kinds: tuple[KindFigures, ...]
    aspects: tuple[AspectFigures, ...]
    flags: tuple[FlagFigures, ...]
    people: tuple[PersonFigures, ...]  # by pseudonym
    versions: tuple[VersionFigures, ...]  # best first
    reward: RewardCard | None


def measure(facts: QualityFacts, reward: RewardCard | None = None) -> Quality:
    """Counts everything anew. The same facts give the same figures: what is drawn at random has a fixed seed."""
    worked = [a for a in facts.answers if not a.is_practice]
    counted = [a for a in worked if a.is_counted]
    ranked = [a for a in counted if a.tiers]
    pairs = pairs_of(ranked, facts.texts)
    nominal, ordinal = (_alpha_of_pairs(pairs, level) for level in ("nominal", "ordinal"))
    concordance, tau = _concordance(ranked)
    return Quality(
        seq=facts.seq,
        answers=len(counted),
        checks=sum(a.is_check and not a.is_skipped for a in worked),
        repeats=sum(a.is_repeat and not a.is_skipped for a in worked),
        agreed=_agreed(ranked),
        alpha_nominal=nominal,
        alpha_ordinal=ordinal,
        concordance=concordance,
        tau=tau,
        ties=ties_of(pairs),
        skipped=skipped_of(worked),
        late=late_of(worked),
        timing=timing(worked),
        first_best=first_best_of(ranked),
        first_chance=float(np.mean([1 / len(a.tiers) for a in ranked])) if ranked else None,
        longer_better=longer_of(pairs),
        kinds=tuple(_kinds(worked, ranked, pairs)),
        aspects=tuple(_aspects(counted)),
        flags=tuple(_flags(ranked)),
        people=people_figures(worked, ranked, pairs, reward),
        versions=version_figures(pairs, facts.texts),
        reward=reward,
    )
