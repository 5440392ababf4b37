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

from tutelage.label.quality_agreement import NOTHING_TWICE, Agreed, Known, agreed, concordance, half_agreed, known_alpha
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
from tutelage.stats.agreement import Judgement, Level, Rate
from tutelage.stats.reliability import dawid_skene
from tutelage.store.db import Store
from tutelage.store.feedback import head
from tutelage.store.quality_facts import GivenAnswer, QualityFacts, read_quality_facts

LEAST_AGREED = 20  # tasks that are named


@dataclass(frozen=True, slots=True)
class KindFigures:
    """One kind of task. Agreement and ties only where answers are ranked."""

    kind: str
    answers: int
    skipped: Rate | None
    late: Rate | None
    timing: Timing | None
    agreed: Agreed | None
    alpha: Known | None  # ordinal, of pairs
    tau: Known | None  # of rankings of several answers
    ties: Rate | None


@dataclass(frozen=True, slots=True)
class TaskAgreement:
    """How far the people who ranked one task agree: of pairs, a tie against a preference as half."""

    task_id: int
    kind: str
    people: int
    half: float


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
    least_agreed: tuple[TaskAgreement, ...]  # worst first
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
        agreed=agreed(_judged(ranked)),
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
        least_agreed=tuple(_least_agreed(ranked)),
        kinds=tuple(_kinds(worked, ranked, pairs)),
        aspects=tuple(_aspects(counted)),
        flags=tuple(_flags(ranked)),
        people=people_figures(worked, ranked, pairs, reward),
        versions=version_figures(pairs, facts.texts),
        reward=reward,
    )


def _judged(ranked: Iterable[GivenAnswer]) -> list[Judgement]:
    return [(a.labeler, a.prompt_id, a.tiers) for a in ranked]


def _alpha_of_pairs(pairs: Iterable[Pair], level: Level) -> Known:
    return known_alpha((((p.first, p.second), p.prompt_id, p.labeler, p.sign) for p in pairs), level)


def _by_task(ranked: Iterable[GivenAnswer]) -> list[list[GivenAnswer]]:
    found: defaultdict[int, list[GivenAnswer]] = defaultdict(list)
    for a in ranked:
        found[a.task_id].append(a)
    return list(found.values())


def _concordance(ranked: Iterable[GivenAnswer]) -> tuple[Known, Known]:
    """Of ranking tasks: what two answers are worth to one another is told by alpha."""
    tasks = _by_task(a for a in ranked if a.kind == "rank")
    return concordance((some[0].prompt_id, [a.tiers for a in some]) for some in tasks)


def _least_agreed(ranked: Iterable[GivenAnswer]) -> Iterator[TaskAgreement]:
    """The tasks whose people differ most, worst first; those in which all agree are none of them."""
    told = []
    for some in _by_task(ranked):
        half = half_agreed([a.tiers for a in some])
        if half is not None and half < 1:
            told.append(TaskAgreement(some[0].task_id, some[0].kind, len(some), half))
    yield from sorted(told, key=lambda t: (t.half, t.task_id))[:LEAST_AGREED]


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
            agreed=agreed(_judged(own_ranked)) if own_ranked else None,
            alpha=_alpha_of_pairs(own_pairs, "ordinal") if own_ranked else None,
            tau=_concordance(own_ranked)[1] if kind == "rank" else None,
            ties=ties(own_pairs),
        )


def _aspects(counted: Iterable[GivenAnswer]) -> Iterator[AspectFigures]:
    rows: defaultdict[str, list[tuple[Hashable, str, str, float]]] = defaultdict(list)
    for a in counted:
        for text, aspect, value in a.ratings:
            rows[aspect].append((text, a.prompt_id, a.labeler, value))
    for aspect, some in sorted(rows.items()):
        yield AspectFigures(aspect, len(some), known_alpha(some, "ordinal"))


def _flags(ranked: Sequence[GivenAnswer]) -> Iterator[FlagFigures]:
    """Each flag that was raised, over all texts that were ranked: who ranked a text and did not flag it said no."""
    for category in sorted({category for a in ranked for _, category in a.flags}):
        rows = [(t, a.prompt_id, a.labeler, float((t, category) in a.flags)) for a in ranked for t in a.tiers]
        raised = share([r[3] for r in rows], [r[1] for r in rows])
        assert raised is not None, "a flag that was raised was raised on a text"
        alpha = known_alpha(rows, "nominal")
        yield FlagFigures(category, raised, alpha, None if alpha.why == NOTHING_TWICE else _applies(rows))


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
