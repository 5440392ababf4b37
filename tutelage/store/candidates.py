"""Demonstrations that wait for a reviewer: what a person wrote at her desk, a file brought or a model proposed.

Accepted or edited, one becomes a demonstration in the log; rejected, it is kept with the reason and trains nothing.
A person's own is in the log already, as a proposal. The candidate's key is that event's name, and the key of the
demonstration that follows holds it in turn, so the log alone tells whose words were accepted.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy import Connection

from tutelage.errors import ConflictError, StoreError
from tutelage.store import desk_schema
from tutelage.store.completions import add_within
from tutelage.store.db import Added, Store, chunks
from tutelage.store.feedback import EVENT, event_id, record_within
from tutelage.store.prompts import add_prompts
from tutelage.types import (
    Completion,
    DemonstrationGiven,
    DemonstrationProposed,
    Feedback,
    Prompt,
    StoredFeedback,
    digest,
)

candidate = desk_schema.candidate
Decision = Literal["accepted", "edited", "rejected"]
ACCEPTED = "candidate:"  # begins the key of the demonstration that a candidate became; the candidate's key follows
REPLACED = "replaced"  # the state of what its author revised or took back before anybody decided


@dataclass(frozen=True, slots=True)
class NewCandidate:
    """One proposed demonstration. `author` is a pseudonym, or the name of the model that wrote it."""

    prompt: Prompt
    text: str
    origin: Literal["import", "model"]  # what a person writes at her desk comes by `propose_within`
    author: str
    findings: tuple[dict[str, Any], ...] = ()  # what the checks point out
    project: str = ""  # its slug: the same proposal can wait in two projects

    @property
    def key(self) -> str:
        return digest("candidate", self.prompt.id, self.text, self.author, *filter(None, [self.project]))


@dataclass(frozen=True, slots=True)
class Candidate:
    id: int
    prompt_id: str
    text: str
    origin: Literal["human", "import", "model"]
    author: str
    findings: list[dict[str, Any]]
    state: str

    @property
    def reason(self) -> str:
        """Why it was rejected."""
        return next((f["detail"] for f in self.findings if f["kind"] == "rejected"), "")


def _row(row: sa.Row[Any]) -> Candidate:
    return Candidate(row.id, row.prompt_id, row.text, row.origin, row.author, row.findings, row.state)


def add_candidates(store: Store, project_id: int, given: Sequence[NewCandidate]) -> Added:
    """Puts proposals into the queue, each once."""
    added = Added()
    for chunk in chunks(given):
        add_prompts(store, (c.prompt for c in chunk))
        with store.write() as conn:
            rows = {
                c.key: {
                    "project_id": project_id, "key": c.key, "prompt_id": c.prompt.id, "text": c.text,
                    "origin": c.origin, "author": c.author, "findings": list(c.findings), "state": "pending",
                }
                for c in chunk
            }  # fmt: skip
            there = set(conn.scalars(sa.select(candidate.c.key).where(candidate.c.key.in_(rows))))
            new = [row for key, row in rows.items() if key not in there]
            if new:
                conn.execute(sa.insert(candidate), new)
            added += Added(len(new), len(chunk) - len(new))
    return added


def propose_within(
    conn: Connection, project_id: int, stored: Sequence[StoredFeedback], written: Sequence[Completion]
) -> None:
    """Queues the proposals among the events of an answer, in the transaction that stores them."""
    text_of = {c.id: c.text for c in written}
    for one in stored:
        j = one.feedback.judgement
        if isinstance(j, DemonstrationProposed):
            row = {
                "project_id": project_id, "key": event_id(one.feedback), "prompt_id": one.feedback.prompt_id,
                "text": text_of[j.completion_id], "origin": "human", "author": one.feedback.labeler, "findings": [],
                "state": "pending",
            }  # fmt: skip
            conn.execute(sa.insert(candidate).values(**row))


def take_back_within(conn: Connection, stored: Sequence[StoredFeedback]) -> None:
    """Takes the proposals among these events out of the queue, as their author says something else now.

    Raises ConflictError when a reviewer has decided one: what she accepted is hers as well.
    """
    for one in stored:
        if isinstance(one.feedback.judgement, DemonstrationProposed):
            of = candidate.c.key == event_id(one.feedback)
            if conn.scalar(sa.select(candidate.c.state).where(of)) != "pending":
                raise ConflictError("a reviewer has decided about this answer already. Ask her to change it.")
            conn.execute(sa.update(candidate).where(of).values(state=REPLACED))


def review_of(store: Store, answer_key: str) -> Candidate | None:
    """What became of the demonstration in an answer or in its newest revision; None where it waits for nobody."""
    key = f"{EVENT}{answer_key}"
    query = sa.select(candidate).where(
        (candidate.c.key == key) | candidate.c.key.startswith(f"{key}:", autoescape=True),
        candidate.c.state != REPLACED,
    )
    with store.read() as conn:
        row = conn.execute(query.order_by(candidate.c.id.desc()).limit(1)).first()
    return _row(row) if row else None


def known_candidates(store: Store, keys: Iterable[str]) -> set[str]:
    """Those of the keys under which a proposal is there already."""
    found: set[str] = set()
    with store.read() as conn:
        for part in chunks(keys):
            found |= set(conn.scalars(sa.select(candidate.c.key).where(candidate.c.key.in_(part))))
    return found


def pending(store: Store, project_id: int, *, reviewer: str = "", after: int = 0, limit: int = 20) -> list[Candidate]:
    """Proposals that nobody has decided, oldest first, without those that the reviewer wrote herself."""
    query = sa.select(candidate).where(
        candidate.c.project_id == project_id,
        candidate.c.state == "pending",
        candidate.c.id > after,
        ~_by_person(reviewer),
    )
    with store.read() as conn:
        return [_row(r) for r in conn.execute(query.order_by(candidate.c.id).limit(limit))]


def own_pending(store: Store, project_id: int, author: str) -> int:
    """How many of somebody's own demonstrations wait for another person."""
    query = sa.select(sa.func.count()).where(
        candidate.c.project_id == project_id, candidate.c.state == "pending", _by_person(author)
    )
    with store.read() as conn:
        return int(conn.execute(query).scalar_one())


def _by_person(author: str) -> sa.ColumnElement[bool]:
    return sa.and_(candidate.c.origin == "human", candidate.c.author == author)


def find_candidate(store: Store, project_id: int, number: int) -> Candidate | None:
    """A proposal of this project, whatever became of it."""
    query = sa.select(candidate).where(candidate.c.id == number, candidate.c.project_id == project_id)
    with store.read() as conn:
        row = conn.execute(query).first()
    return _row(row) if row else None


def counts(store: Store, project_id: int) -> dict[str, int]:
    """Proposals by state."""
    query = sa.select(candidate.c.state, sa.func.count().label("n")).where(candidate.c.project_id == project_id)
    with store.read() as conn:
        return {row.state: int(row.n) for row in conn.execute(query.group_by(candidate.c.state))}


def texts(store: Store, project_id: int, *, besides: int = 0) -> list[tuple[int, str]]:
    """Number and text of all that was proposed and stands: what near duplicates are looked for among."""
    query = sa.select(candidate.c.id, candidate.c.text).where(
        candidate.c.project_id == project_id,
        candidate.c.state.not_in(("rejected", REPLACED)),
        candidate.c.id != besides,
    )
    with store.read() as conn:
        return [(row.id, row.text) for row in conn.execute(query.order_by(candidate.c.id))]


def decide(
    store: Store,
    project_id: int,
    number: int,
    decision: Decision,
    *,
    reviewer: str,
    source: str,
    text: str | None = None,
    reason: str = "",
) -> StoredFeedback | None:
    """Decides one proposal, once. Accepted or edited, it becomes a demonstration by the reviewer's judgement.

    text    what the reviewer made of it, for `edited`
    reason  why not, for `rejected`: it joins the findings

    Raises ConflictError when it waits no more, StoreError when the reviewer wrote it herself.
    """
    with store.write() as conn:
        row = conn.execute(
            sa.select(candidate).where(candidate.c.id == number, candidate.c.project_id == project_id)
        ).first()
        if row is None or row.state != "pending":
            raise ConflictError("this proposal waits no more: another reviewer decided it, or its author revised it.")
        if row.origin == "human" and row.author == reviewer:
            raise StoreError("you wrote this yourself, so somebody else decides it.")
        stored = None
        if decision != "rejected":
            made = Completion(prompt_id=row.prompt_id, text=row.text, origin=row.origin)
            if decision == "edited" and text is not None:
                # What a person wrote is in the store already, so the edited text names it; what was brought is not.
                parent = made.id if row.origin == "human" else None
                made = Completion(prompt_id=row.prompt_id, text=text, origin="edited", parent=parent)
            add_within(conn, [made])
            feedback = Feedback(
                labeler=reviewer,
                prompt_id=row.prompt_id,
                judgement=DemonstrationGiven(completion_id=made.id),
                idempotency_key=f"{ACCEPTED}{row.key}",
                source=source,
            )
            stored = record_within(conn, store.now(), [feedback])[0]
        conn.execute(
            sa.update(candidate)
            .where(candidate.c.id == number)
            .values(
                state=decision,
                decided_by=reviewer,
                decided_at=store.now(),
                findings=[*row.findings, *([{"kind": "rejected", "detail": reason}] if reason else [])],
            )
        )
    return stored
