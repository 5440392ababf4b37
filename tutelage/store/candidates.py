"""Demonstrations that wait for a reviewer: what a file brought or a model proposed.

Accepted or edited, one becomes a demonstration in the log; rejected, it is kept with the reason and trains nothing.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import sqlalchemy as sa

from tutelage.errors import ConflictError
from tutelage.store import desk_schema
from tutelage.store.completions import add_within
from tutelage.store.db import Added, Store, chunks
from tutelage.store.feedback import record_within
from tutelage.store.prompts import add_prompts
from tutelage.types import Completion, DemonstrationGiven, Feedback, Prompt, StoredFeedback, digest

candidate = desk_schema.candidate
Decision = Literal["accepted", "edited", "rejected"]


@dataclass(frozen=True, slots=True)
class NewCandidate:
    """One proposed demonstration. `author` is a pseudonym, or the name of the model that wrote it."""

    prompt: Prompt
    text: str
    origin: Literal["import", "model"]
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
    origin: str
    author: str
    findings: list[dict[str, Any]]
    state: str


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


def known_candidates(store: Store, keys: Iterable[str]) -> set[str]:
    """Those of the keys under which a proposal is there already."""
    found: set[str] = set()
    with store.read() as conn:
        for part in chunks(keys):
            found |= set(conn.scalars(sa.select(candidate.c.key).where(candidate.c.key.in_(part))))
    return found


def pending(store: Store, project_id: int, *, after: int = 0, limit: int = 20) -> list[Candidate]:
    """Proposals that nobody has decided, oldest first."""
    query = sa.select(candidate).where(
        candidate.c.project_id == project_id, candidate.c.state == "pending", candidate.c.id > after
    )
    with store.read() as conn:
        return [_row(r) for r in conn.execute(query.order_by(candidate.c.id).limit(limit))]


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
    """Number and text of everything that was proposed and not rejected: what near duplicates are looked for among."""
    query = sa.select(candidate.c.id, candidate.c.text).where(
        candidate.c.project_id == project_id, candidate.c.state != "rejected", candidate.c.id != besides
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
    """
    with store.write() as conn:
        row = conn.execute(
            sa.select(candidate).where(candidate.c.id == number, candidate.c.project_id == project_id)
        ).first()
        if row is None or row.state != "pending":
            raise ConflictError("this proposal was decided already, by another reviewer perhaps.")
        stored = None
        if decision != "rejected":
            final = text if decision == "edited" and text is not None else row.text
            origin: Literal["import", "edited", "model"] = "edited" if decision == "edited" else row.origin
            made = Completion(prompt_id=row.prompt_id, text=final, origin=origin)
            add_within(conn, [made])
            feedback = Feedback(
                labeler=reviewer,
                prompt_id=row.prompt_id,
                judgement=DemonstrationGiven(completion_id=made.id),
                idempotency_key=f"candidate:{row.key}",
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
