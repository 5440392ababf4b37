"""Who holds which task: leases that run out, drafts, answers. A task is never held by more people than it wants.

Every change is one writing transaction, and writers come one at a time, so two people never get the last slot. An
answer and its assignment are stored together: what was acknowledged is there, once.
"""

import hashlib
import secrets
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy import Connection

from tutelage.errors import ConflictError, StoreError
from tutelage.store import desk_schema, schema
from tutelage.store.candidates import propose_within, take_back_within
from tutelage.store.completions import add_within
from tutelage.store.db import Store
from tutelage.store.feedback import record_within, stored_row
from tutelage.store.tasks import Task, task_row
from tutelage.types import Completion, Feedback, Skip, StoredFeedback

task, assignment, draft = desk_schema.task, desk_schema.assignment, desk_schema.draft

MAX_HELD = 6  # leases of one labeler at a time: one on screen, one ready, and some whose answers are on their way

WITHDRAWN = "withdrawn"  # the reason of the event that takes back an answer, or a part of it

Cards = list[list[str]]  # completion ids; those of one text are one card


@dataclass(frozen=True, slots=True)
class Held:
    """A task in somebody's hands."""

    id: str
    task: Task
    labeler: str
    state: Literal["leased", "answered", "skipped", "expired"]
    cards: Cards  # in the order of presentation
    lease_until: float
    offered_at: float
    answered_at: float | None
    repeat: int
    policy: str
    probability: float
    is_late: bool
    score: float | None
    answer_key: str | None


def held_row(row: sa.Row[Any], of: Task) -> Held:
    return Held(
        id=row.id,
        task=of,
        labeler=row.labeler,
        state=row.state,
        cards=row.shown,
        lease_until=row.lease_until,
        offered_at=row.offered_at,
        answered_at=row.answered_at,
        repeat=row.repeat,
        policy=row.policy,
        probability=row.probability,
        is_late=bool(row.is_late),
        score=row.score,
        answer_key=row.answer_key,
    )


# The statements of what every labeler does all day stand ready: to put one together takes longer than to run it.

_BY_NUMBER = sa.select(assignment).where(assignment.c.id == sa.bindparam("number"))
_CHANGE = sa.update(assignment).where(assignment.c.id == sa.bindparam("number"))
_TASK = sa.select(task).where(task.c.id == sa.bindparam("number"))
_MORE_SLOTS = (
    sa.update(task).where(task.c.id == sa.bindparam("number")).values(slots=task.c.slots + sa.bindparam("more"))
)
_OF_TASK = sa.select(assignment.c.id, assignment.c.state).where(
    assignment.c.task_id == sa.bindparam("task"),
    assignment.c.labeler == sa.bindparam("labeler"),
    assignment.c.repeat == sa.bindparam("repeat"),
)
_OVER = (
    sa.select(assignment.c.id, assignment.c.task_id, assignment.c.repeat)
    .where(assignment.c.state == "leased", assignment.c.lease_until < sa.bindparam("now"))
    .limit(500)
)
_IN_HAND = (
    sa.select(assignment)
    .join(task, task.c.id == assignment.c.task_id)
    .where(
        assignment.c.labeler == sa.bindparam("labeler"),
        assignment.c.state == "leased",
        task.c.project_id == sa.bindparam("project"),
    )
    .order_by(assignment.c.offered_at, assignment.c.id)
)
_DRAFT_GONE = sa.delete(draft).where(draft.c.assignment_id == sa.bindparam("number"))
_DRAFTS = sa.select(draft).where(draft.c.assignment_id.in_(sa.bindparam("ids", expanding=True)))


def lease(
    conn: Connection,
    of: Task,
    labeler: str,
    cards: Cards,
    *,
    now: float,
    seconds: float,
    policy: str,
    probability: float,
    repeat: int = 0,
) -> Held:
    """Puts a task into somebody's hands; its own earlier lease that ran out is taken up again."""
    values = {
        "state": "leased", "lease_until": now + seconds, "offered_at": now, "shown": cards, "policy": policy,
        "probability": probability, "is_late": 0,
    }  # fmt: skip
    old = conn.execute(_OF_TASK, {"task": of.id, "labeler": labeler, "repeat": repeat}).first()
    if old is None:
        number = secrets.token_hex(12)
        conn.execute(
            sa.insert(assignment), {"id": number, "task_id": of.id, "labeler": labeler, "repeat": repeat, **values}
        )
    else:
        assert old.state == "expired", f"assignment {old.id} is {old.state}; only an expired one is leased again"
        number = old.id
        conn.execute(_CHANGE, {"number": number, **values})
    if repeat == 0:
        conn.execute(_MORE_SLOTS, {"number": of.id, "more": -1})
    return Held(
        number, of, labeler, "leased", cards, now + seconds, now, None, repeat, policy, probability, False, None, None
    )


def expire(conn: Connection, now: float) -> int:
    """Takes back every lease that has run out, so that others can have the task."""
    over = conn.execute(_OVER, {"now": now}).all()
    for row in over:
        conn.execute(_CHANGE, {"number": row.id, "state": "expired"})
        if row.repeat == 0:
            conn.execute(_MORE_SLOTS, {"number": row.task_id, "more": 1})
    return len(over)


def hold_until(conn: Connection, number: str, until: float) -> None:
    conn.execute(_CHANGE, {"number": number, "lease_until": until})


def held_by(conn: Connection, project_id: int, labeler: str) -> list[Held]:
    """What somebody holds now, oldest first."""
    rows = conn.execute(_IN_HAND, {"labeler": labeler, "project": project_id}).all()
    return [held_row(row, _task_of(conn, row.task_id)) for row in rows]


def _task_of(conn: Connection, number: int) -> Task:
    return task_row(conn.execute(_TASK, {"number": number}).one())


def find_held(store: Store, project_id: int, labeler: str, number: str) -> Held | None:
    """An assignment of this labeler in this project; None for anybody else's."""
    with store.read() as conn:
        return find_within(conn, project_id, labeler, number)


def find_within(conn: Connection, project_id: int, labeler: str, number: str) -> Held | None:
    row = conn.execute(_BY_NUMBER, {"number": number}).first()
    if row is None or row.labeler != labeler:
        return None
    of = _task_of(conn, row.task_id)
    return held_row(row, of) if of.project_id == project_id else None


def renew(store: Store, project_id: int, labeler: str, number: str, *, seconds: float) -> bool:
    """Holds a task for longer. False when it is held no more."""
    with store.write(durable=False) as conn:
        found = find_within(conn, project_id, labeler, number)
        if found is None or found.state != "leased":
            return False
        hold_until(conn, number, store.seconds() + seconds)
    return True


def save_draft(store: Store, project_id: int, labeler: str, number: str, body: dict[str, Any]) -> None:
    """Keeps unfinished work. Raises ConflictError when the task was answered meanwhile."""
    with store.write(durable=False) as conn:
        found = find_within(conn, project_id, labeler, number)
        if found is None:
            raise StoreError("there is no such task in your hands.")
        if found.state in ("answered", "skipped"):
            raise ConflictError("this task was answered already, in another window perhaps.")
        conn.execute(_DRAFT_GONE, {"number": number})
        conn.execute(sa.insert(draft), {"assignment_id": number, "body": body, "saved_at": store.seconds()})


def drafts(store: Store, ids: Collection[str]) -> dict[str, dict[str, Any]]:
    """Unfinished work by assignment."""
    with store.read() as conn:
        return drafts_within(conn, ids)


def drafts_within(conn: Connection, ids: Collection[str]) -> dict[str, dict[str, Any]]:
    return {row.assignment_id: row.body for row in conn.execute(_DRAFTS, {"ids": list(ids)})}


def answer_mark(key: str, body: str) -> str:
    """Key and fingerprint of an answer as the browser sent it: what tells a repetition from another answer."""
    return f"{key}:{hashlib.sha256(body.encode()).hexdigest()[:20]}"


def answer(
    store: Store,
    held: Held,
    feedbacks: Sequence[Feedback],
    *,
    mark: str,
    written: Sequence[Completion] = (),
    score: float | None = None,
    state: Literal["answered", "skipped"] = "answered",
) -> list[StoredFeedback]:
    """Stores the judgements of one task and closes its assignment, in one transaction.

    mark     see `answer_mark`; the same mark again gives what is stored, another one is a ConflictError
    written  completions that the labeler wrote: demonstrations, corrections
    score    of a check
    """
    with store.write() as conn:
        row = conn.execute(_BY_NUMBER, {"number": held.id}).one()
        if row.state in ("answered", "skipped"):
            if row.answer_key == mark:
                return _stored(conn, held, mark)
            raise ConflictError("this task was answered already, in another window perhaps. Nothing was stored twice.")
        if written:
            add_within(conn, written)
        stored = record_within(conn, store.now(), feedbacks)
        propose_within(conn, held.task.project_id, stored, written)
        is_late = row.state == "expired"
        closed = {"state": state, "answered_at": store.seconds(), "is_late": int(is_late), "answer_key": mark}
        conn.execute(_CHANGE, {"number": held.id, "score": score, **closed})
        slots = (-1 if is_late else 0) + (1 if state == "skipped" else 0)  # a skipped task is wanted from another
        if slots and held.repeat == 0:
            conn.execute(_MORE_SLOTS, {"number": held.task.id, "more": slots})
        conn.execute(_DRAFT_GONE, {"number": held.id})
    return stored


def _stored(conn: Connection, held: Held, mark: str) -> list[StoredFeedback]:
    query = sa.select(schema.event).where(*_events_of(held, mark.rsplit(":", 1)[0]))
    return [stored_row(row) for row in conn.execute(query.order_by(schema.event.c.seq))]


def _events_of(held: Held, key: str) -> list[sa.ColumnElement[bool]]:
    """Events of one answer. Their keys begin with the answer's; prompt and labeler let an index find them."""
    event = schema.event
    return [
        event.c.prompt_id == held.task.prompt_id,
        event.c.labeler == held.labeler,
        (event.c.idempotency_key == key) | event.c.idempotency_key.startswith(f"{key}:"),
    ]


def answer_key(held: Held) -> str:
    """The idempotency key of an answer's main event."""
    assert held.answer_key, f"assignment {held.id} has no answer yet"
    return held.answer_key.rsplit(":", 1)[0]


def current_events(conn: Connection, held: Held) -> list[StoredFeedback]:
    """What an answer says now: its events, and those of its revisions, that nothing replaced. The main one is first."""
    event = schema.event
    heir = event.alias("heir")
    query = sa.select(event).where(
        *_events_of(held, answer_key(held)), ~sa.exists().where(heir.c.supersedes == event.c.seq)
    )
    return [stored_row(row) for row in conn.execute(query.order_by(event.c.seq))]


def says_now(store: Store, held: Held) -> list[StoredFeedback]:
    """`current_events` in a transaction of its own."""
    with store.read() as conn:
        return current_events(conn, held)


def revise(
    store: Store,
    held: Held,
    feedbacks: Sequence[Feedback],
    *,
    key: str,
    written: Sequence[Completion] = (),
) -> list[StoredFeedback]:
    """Replaces an answer by new events: each new judgement supersedes the old one of the same kind and object; an old
    one without a successor is superseded by a withdrawal. Nothing is overwritten.

    key  of this revision; the same again changes nothing
    """
    prefix = f"{answer_key(held)}:r{key}"
    with store.write() as conn:
        event = schema.event
        done = conn.scalar(
            sa.select(event.c.seq).where(*_events_of(held, answer_key(held)), event.c.idempotency_key == f"{prefix}:0")
        )
        if done is None:
            if written:
                add_within(conn, written)
            old = current_events(conn, held)
            take_back_within(conn, old)
            stored = record_within(conn, store.now(), _successors(held, old, feedbacks, prefix))
            propose_within(conn, held.task.project_id, stored, written)
        return current_events(conn, held)


def _about(feedback: Feedback) -> tuple[Any, ...]:
    """What a judgement is about: two of the same kind and object replace one another."""
    j = feedback.judgement
    rest = j.model_dump(mode="json", include={"completion_id", "aspect", "category"})
    return (j.kind, *sorted(rest.items(), key=str)) if j.kind in ("rating", "flag", "critique") else (j.kind,)


def _successors(held: Held, old: list[StoredFeedback], new: Sequence[Feedback], prefix: str) -> list[Feedback]:
    waiting: dict[tuple[Any, ...], list[StoredFeedback]] = {}
    for one in old:
        if not (one.feedback.judgement.kind == "skip" and one.feedback.judgement.reason == WITHDRAWN):
            waiting.setdefault(_about(one.feedback), []).append(one)
    made = []
    for i, feedback in enumerate(new):
        same = waiting[_about(feedback)] if _about(feedback) in waiting else []
        before = same.pop(0).seq if same else None
        made.append(feedback.model_copy(update={"idempotency_key": f"{prefix}:{i}", "supersedes": before}))
    left = [one for group in waiting.values() for one in group]
    for i, one in enumerate(left, start=len(made)):
        made.append(
            Feedback(
                labeler=held.labeler,
                prompt_id=held.task.prompt_id,
                judgement=Skip(reason=WITHDRAWN),
                idempotency_key=f"{prefix}:{i}",
                source=held.task.source,
                supersedes=one.seq,
            )
        )
    return made


def history(store: Store, project_id: int, labeler: str, *, before: float | None = None, limit: int = 30) -> list[Held]:
    """Own answers, newest first; `before` is the time of the last one of the page before."""
    query = (
        sa.select(assignment)
        .join(task, task.c.id == assignment.c.task_id)
        .where(
            assignment.c.labeler == labeler,
            assignment.c.state.in_(("answered", "skipped")),
            task.c.project_id == project_id,
        )
    )
    if before is not None:
        query = query.where(assignment.c.answered_at < before)
    with store.read() as conn:
        rows = conn.execute(query.order_by(assignment.c.answered_at.desc(), assignment.c.id).limit(limit)).all()
        return [held_row(row, _task_of(conn, row.task_id)) for row in rows]


def answers_of(store: Store, project_id: int) -> list[Held]:
    """Every answered assignment of a project, oldest first: what the quality page counts."""
    query = (
        sa.select(assignment)
        .join(task, task.c.id == assignment.c.task_id)
        .where(assignment.c.state.in_(("answered", "skipped")), task.c.project_id == project_id)
        .order_by(assignment.c.answered_at, assignment.c.id)
    )
    with store.read() as conn:
        rows = conn.execute(query).all()
        of = {r.id: task_row(r) for r in conn.execute(sa.select(task).where(task.c.project_id == project_id))}
    return [held_row(row, of[row.task_id]) for row in rows]


def answers_to(store: Store, task_number: int) -> list[Held]:
    """Every answer to one task and every skip of it, oldest first."""
    query = sa.select(assignment).where(
        assignment.c.task_id == task_number, assignment.c.state.in_(("answered", "skipped"))
    )
    with store.read() as conn:
        rows = conn.execute(query.order_by(assignment.c.answered_at, assignment.c.id)).all()
        return [held_row(row, _task_of(conn, row.task_id)) for row in rows]
