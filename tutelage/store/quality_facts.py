"""What a project's people said, laid out for counting: each answer once, as it stands now, with what its texts are.

Reads only. Knows no figure: agreement, reliability and the rest are counted elsewhere.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import sqlalchemy as sa

from tutelage.store import desk_schema, schema
from tutelage.store.adjudications import DECISION
from tutelage.store.assignments import Held, answer_key, answers_of
from tutelage.store.db import Store, chunks
from tutelage.store.feedback import event_id, events, head, stored_row
from tutelage.store.projects import TaskKind
from tutelage.types import Adjudication, Critique, Flag, Ranking, Rating, StoredFeedback


@dataclass(frozen=True, slots=True)
class GivenAnswer:
    """One task answered, or skipped, by one person.

    tiers  of each card that was shown, in the order of presentation, under its first completion; 1 is best. Empty for
           a task that ranks nothing, and for an answer that was taken back.
    """

    key: str  # of its main event
    task_id: int
    kind: TaskKind
    source: str
    prompt_id: str
    labeler: str
    tiers: Mapping[str, int]
    event: str = ""  # id of the ranking
    none_acceptable: bool = False
    is_skipped: bool = False
    is_repeat: bool = False  # her own old task, asked again unseen
    is_check: bool = False  # with a known answer
    is_practice: bool = False
    is_late: bool = False
    score: float | None = None  # of a check, 0 to 1
    active_ms: int = 0  # at work on it the first time; 0: not known
    ratings: tuple[tuple[str, str, float], ...] = ()  # completion, aspect, value
    flags: tuple[tuple[str, str], ...] = ()  # completion and category
    critiques: tuple[tuple[str, str], ...] = ()  # completion and what was written of it

    @property
    def is_counted(self) -> bool:
        """Whether it is an ordinary judgement: no check, no practice, no repeat, not skipped."""
        return not (self.is_skipped or self.is_repeat or self.is_check or self.is_practice)


@dataclass(frozen=True, slots=True)
class JudgedText:
    """What a completion is: who wrote it, and how long it is in characters."""

    model_version: str | None
    origin: str
    length: int


@dataclass(frozen=True, slots=True)
class Decision:
    """What a reviewer decided of a task."""

    task_id: int
    seq: int
    labeler: str
    tiers: Mapping[str, int]  # of every completion of the task
    decided: tuple[str, ...]
    rationale: str
    at: str


@dataclass(frozen=True, slots=True)
class QualityFacts:
    """Everything that the figures of a project are counted from, up to event `seq`."""

    seq: int
    answers: tuple[GivenAnswer, ...]
    texts: Mapping[str, JudgedText]  # by completion
    decisions: Mapping[int, Decision]  # by task


def read_quality_facts(store: Store, project_id: int, before: QualityFacts | None = None) -> QualityFacts:
    """The project's answers as they stand, oldest first. A page of events is one transaction: nobody waits for long.

    before  what was read earlier: only what came since is read then, and the result is the same
    """
    upto = head(store).seq
    held, sources = answers_of(store, project_id), _sources(store, project_id)
    said: dict[str, list[StoredFeedback]] = {}
    decisions = dict(before.decisions) if before else {}
    for one in events(store, sources=sources, after_seq=before.seq if before else 0, upto_seq=upto):
        if isinstance(one.feedback.judgement, Adjudication):
            decisions |= _decision(one, one.feedback.judgement)
        else:
            said.setdefault(_key(one), []).append(one)
    known = {a.key: a for a in before.answers} if before else {}
    said |= _all_of(store, said.keys() & known.keys(), upto)
    answers = []
    for this in held:
        key = answer_key(this)
        if key in said:
            answers.append(_answer(this, key, said[key]))
        elif key in known:  # neither: the answer is newer than `upto`
            answers.append(known[key])
    wanted = {i for a in answers for i in a.tiers}
    texts = {i: t for i, t in before.texts.items() if i in wanted} if before else {}
    texts |= _texts(store, wanted - texts.keys())
    return QualityFacts(upto, tuple(answers), texts, decisions)


def _sources(store: Store, project_id: int) -> list[str]:
    task = desk_schema.task
    with store.read() as conn:
        return list(conn.scalars(sa.select(task.c.source).where(task.c.project_id == project_id).distinct()))


def _key(one: StoredFeedback) -> str:
    """The key of the answer that an event belongs to; its own is `key`, `key:1` or `key:rREVISION:0`."""
    return one.feedback.idempotency_key.partition(":")[0]


def _all_of(store: Store, keys: Iterable[str], upto: int) -> dict[str, list[StoredFeedback]]:
    """All events of answers that were revised, in order."""
    event, found = schema.event, dict[str, list[StoredFeedback]]()
    for part in chunks(sorted(keys), 50):
        own = [sa.and_(event.c.idempotency_key >= k, event.c.idempotency_key < f"{k};") for k in part]  # ; follows :
        with store.read() as conn:
            wanted = [sa.or_(*own), event.c.seq <= upto, event.c.kind != "adjudication"]
            rows = conn.execute(sa.select(event).where(*wanted).order_by(event.c.seq)).all()
        for one in map(stored_row, rows):
            if _key(one) in part:
                found.setdefault(_key(one), []).append(one)
    return found


def _answer(held: Held, key: str, said: list[StoredFeedback]) -> GivenAnswer:
    replaced = {one.feedback.supersedes for one in said}
    now = [one.feedback for one in said if one.seq not in replaced]
    ranked = next((f for f in now if isinstance(f.judgement, Ranking)), None)
    tiers: dict[str, int] = {}
    if ranked is not None and isinstance(ranked.judgement, Ranking):
        tier_of = {i.completion_id: i.tier for i in ranked.judgement.items}
        tiers = {card[0]: tier_of[card[0]] for card in held.cards}
    judged = [f.judgement for f in now]
    return GivenAnswer(
        key=key,
        task_id=held.task.id,
        kind=held.task.kind,
        source=held.task.source,
        prompt_id=held.task.prompt_id,
        labeler=held.labeler,
        tiers=tiers,
        event=event_id(ranked) if ranked else "",
        none_acceptable=any(isinstance(j, Ranking) and j.none_acceptable for j in judged),
        is_skipped=held.state == "skipped",
        is_repeat=held.repeat > 0,
        is_check=held.task.gold is not None and not held.task.is_practice,
        is_practice=held.task.is_practice,
        is_late=held.is_late,
        score=held.score,
        active_ms=said[0].feedback.active_ms,
        ratings=tuple((j.completion_id, j.aspect, j.value) for j in judged if isinstance(j, Rating)),
        flags=tuple((j.completion_id, j.category) for j in judged if isinstance(j, Flag) and j.completion_id),
        critiques=tuple((j.completion_id, j.text) for j in judged if isinstance(j, Critique)),
    )


def _texts(store: Store, ids: Iterable[str]) -> dict[str, JudgedText]:
    """Versions and lengths. The texts stay in the database: they are JSON there, each escape one character more."""
    c = schema.completion.c
    raw = sa.cast(c.text, sa.Text)
    paired = sa.func.replace(raw, "\\\\", "_")  # an escaped backslash is one character; what is left begins an escape
    length = (sa.func.length(sa.func.replace(paired, "\\", "")) - 2).label("length")
    found: dict[str, JudgedText] = {}
    for part in chunks(dict.fromkeys(ids)):
        with store.read() as conn:
            for r in conn.execute(sa.select(c.id, c.model_version, c.origin, length).where(c.id.in_(part))):
                found[r.id] = JudgedText(r.model_version, r.origin, int(r.length))
    return found


def _decision(one: StoredFeedback, j: Adjudication) -> dict[int, Decision]:
    """A reviewer's decision by its task; nothing for one that came from elsewhere."""
    name, _, rest = one.feedback.idempotency_key.partition(":")
    number = rest.partition(":")[0]
    if name != DECISION or not number.isdigit():
        return {}
    tiers = {i.completion_id: i.tier for i in j.items}
    return {int(number): Decision(int(number), one.seq, one.feedback.labeler, tiers, j.decided, j.rationale, one.at)}
