"""The figures of a project's quality page, as one pure function of what its people said. Knows no page and no request.

A figure that the answers cannot determine is None, and says why; a share never stands without its n and its interval.
Checks with a known answer, practice and repeats are counted apart: nobody's work is compared on them.
"""

import threading
import time
from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from weakref import WeakKeyDictionary

import numpy as np

from tutelage.label.quality_counts import (
    Pair,
    Timing,
    first_best,
    first_chance,
    late,
    longer_better,
    pairs_of,
    share,
    skipped,
    ties,
    timing,
)
from tutelage.label.quality_models import RewardCard, VersionFigures, newest_reward_card, version_figures
from tutelage.label.quality_people import PersonFigures, people_figures
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
        ties=ties(pairs),
        skipped=skipped(worked),
        late=late(worked),
        timing=timing(worked),
        first_best=first_best(ranked),
        first_chance=first_chance(ranked),
        longer_better=longer_better(pairs),
        kinds=tuple(_kinds(worked, ranked, pairs)),
        aspects=tuple(_aspects(counted)),
        flags=tuple(_flags(ranked)),
        people=people_figures(worked, ranked, pairs, reward),
        versions=version_figures(pairs, facts.texts),
        reward=reward,
    )


def _agreed(ranked: Iterable[GivenAnswer]) -> Agreed:
    found = pairwise_agreement((a.labeler, a.prompt_id, a.tiers) for a in ranked)
    return Agreed(found.n_prompts, found.exact, found.half, found.untied)


def _known(units: Sequence[Sequence[float]], prompts: Sequence[str], level: Level) -> Known:
    """Alpha, or why there is none."""
    if not any(len(unit) > 1 for unit in units):
        return Known(None, NOTHING_TWICE)
    found = alpha_with_interval(units, prompts, level)
    return Known(found, "" if found else ALL_THE_SAME)


def _units(rows: Iterable[tuple[Hashable, str, str, float]]) -> tuple[list[list[float]], list[str]]:
    """Ratings by what was rated, with its prompt; rows are (what, prompt, labeler, rating), one a labeler."""
    by_unit: defaultdict[Hashable, dict[str, float]] = defaultdict(dict)
    prompt_of: dict[Hashable, str] = {}
    for what, prompt, labeler, rating in rows:
        by_unit[what][labeler] = rating
        prompt_of[what] = prompt
    return [list(unit.values()) for unit in by_unit.values()], [prompt_of[what] for what in by_unit]


def _alpha_of_pairs(pairs: Iterable[Pair], level: Level) -> Known:
    return _known(*_units(((p.first, p.second), p.prompt_id, p.labeler, p.sign) for p in pairs), level)


def _concordance(ranked: Iterable[GivenAnswer]) -> tuple[Known, Known]:
    """Kendall's W and tau-b, means over the ranking tasks that two people or more ranked."""
    by_task: defaultdict[int, list[GivenAnswer]] = defaultdict(list)
    for a in ranked:
        if a.kind == "rank":
            by_task[a.task_id].append(a)
    shared = [some for some in by_task.values() if len(some) > 1]
    if not shared:
        return Known(None, NOTHING_TWICE), Known(None, NOTHING_TWICE)
    tables = [[[a.tiers[i] for i in sorted(some[0].tiers)] for a in some] for some in shared]
    prompts = [some[0].prompt_id for some in shared]
    return _mean([kendall_w(t) for t in tables], prompts), _mean([mean_tau_b(t) for t in tables], prompts)


def _mean(values: Sequence[float | None], prompts: Sequence[str]) -> Known:
    kept = [(v, p) for v, p in zip(values, prompts, strict=True) if v is not None]
    if not kept:
        return Known(None, "undefined: everyone tied everything")
    numbers = [v for v, _ in kept]
    low, high = cluster_bootstrap(numbers, [p for _, p in kept], seed=0)
    return Known(Coefficient(float(np.mean(numbers)), low, high, len(kept)))


def _kinds(
    worked: Sequence[GivenAnswer], ranked: Sequence[GivenAnswer], pairs: Sequence[Pair]
) -> Iterator[KindFigures]:
    for kind in dict.fromkeys(a.kind for a in worked):
        own = [a for a in worked if a.kind == kind]
        own_ranked, own_pairs = [a for a in ranked if a.kind == kind], [p for p in pairs if p.kind == kind]
        yield KindFigures(
            kind=kind,
            answers=sum(a.is_counted for a in own),
            skipped=skipped(own),
            late=late(own),
            timing=timing(own),
            agreed=_agreed(own_ranked) if own_ranked else None,
            ties=ties(own_pairs),
        )


def _aspects(counted: Iterable[GivenAnswer]) -> Iterator[AspectFigures]:
    rows: defaultdict[str, list[tuple[Hashable, str, str, float]]] = defaultdict(list)
    for a in counted:
        for text, aspect, value in a.ratings:
            rows[aspect].append((text, a.prompt_id, a.labeler, value))
    for aspect, some in sorted(rows.items()):
        yield AspectFigures(aspect, len(some), _known(*_units(some), "ordinal"))


def _flags(ranked: Sequence[GivenAnswer]) -> Iterator[FlagFigures]:
    """Each flag that was raised, over all texts that were ranked: who ranked a text and did not flag it said no."""
    for category in sorted({category for a in ranked for _, category in a.flags}):
        rows = [(t, a.prompt_id, a.labeler, float((t, category) in a.flags)) for a in ranked for t in a.tiers]
        raised = share([r[3] for r in rows], [r[1] for r in rows])
        assert raised is not None, "a flag that was raised was raised on a text"
        units, prompts = _units(rows)
        shared = [unit for unit in units if len(unit) > 1]
        yield FlagFigures(category, raised, _known(units, prompts, "nominal"), _applies(rows) if shared else None)


def _applies(rows: Iterable[tuple[str, str, str, float]]) -> float:
    """The share of texts to which a flag applies, when it is allowed for that some people see less than others."""
    known = list(rows)
    text, who = ({name: i for i, name in enumerate(dict.fromkeys(r[k] for r in known))} for k in (0, 2))
    fit = dawid_skene([text[r[0]] for r in known], [who[r[2]] for r in known], [int(r[3]) for r in known], n_classes=2)
    return float(fit.posterior[:, 1].mean())


# Kept while nobody said anything new.

LARGE = 1000  # answers: a smaller project is counted anew after every event
REST = 10  # a larger one's figures are shown for so many times as long as they took, though newer events are there


@dataclass(frozen=True, slots=True)
class _Counted:
    figures: Quality
    at: float
    took: float


class Figures:
    """The figures of each project of a store, counted when they are asked for. One counts, the others wait."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._facts: WeakKeyDictionary[Store, dict[int, QualityFacts]] = WeakKeyDictionary()
        self._counted: WeakKeyDictionary[Store, dict[int, _Counted]] = WeakKeyDictionary()

    def facts(self, store: Store, project_id: int) -> QualityFacts:
        """Up to the newest event."""
        with self._lock:
            return self._facts_now(store, project_id)

    def of(self, store: Store, project_id: int, run: Path | None) -> Quality:
        """run  the run directory whose reward models are shown beside the people"""
        reward = newest_reward_card(run) if run else None
        with self._lock:
            known = self._counted.setdefault(store, {})
            if project_id not in known or self._is_old(store, known[project_id], reward):
                began = time.monotonic()
                figures = measure(self._facts_now(store, project_id), reward)
                known[project_id] = _Counted(figures, time.monotonic(), time.monotonic() - began)
            return known[project_id].figures

    def _facts_now(self, store: Store, project_id: int) -> QualityFacts:
        known = self._facts.setdefault(store, {})
        before = known[project_id] if project_id in known else None
        if before is None or before.seq != head(store).seq:
            known[project_id] = read_quality_facts(store, project_id, before)
        return known[project_id]

    def _is_old(self, store: Store, counted: _Counted, reward: RewardCard | None) -> bool:
        if counted.figures.reward != reward:
            return True
        rests = counted.figures.answers > LARGE and time.monotonic() - counted.at < REST * counted.took
        return not rests and counted.figures.seq != head(store).seq


FIGURES = Figures()
