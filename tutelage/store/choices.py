"""How the task behind a judgement was chosen, and with which probability: what judgements are weighed by."""

from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from tutelage.store import desk_schema
from tutelage.store.db import Store, chunks
from tutelage.types import StoredFeedback


@dataclass(frozen=True, slots=True)
class Choice:
    """Example: `Choice("random", 0.004)`: one of 250 tasks of its kind, chosen blindly."""

    policy: str  # random, priority, check, repeat, practice
    probability: float  # given the kind of task, which is drawn first; of a check or a repeat, the share of such


def choice_counts(store: Store, project_id: int) -> dict[str, int]:
    """How many answers of a project, skips among them, came by each policy."""
    task, assignment = desk_schema.task, desk_schema.assignment
    query = (
        sa.select(assignment.c.policy, sa.func.count().label("n"))
        .join(task, task.c.id == assignment.c.task_id)
        .where(task.c.project_id == project_id, assignment.c.state.in_(("answered", "skipped")))
        .group_by(assignment.c.policy)
        .order_by(assignment.c.policy)
    )
    with store.read() as conn:
        return {row.policy: int(row.n) for row in conn.execute(query)}


_OF = (
    sa.select(
        desk_schema.task.c.prompt_id,
        desk_schema.assignment.c.labeler,
        desk_schema.assignment.c.answer_key,
        desk_schema.assignment.c.policy,
        desk_schema.assignment.c.probability,
    )
    .join(desk_schema.task, desk_schema.task.c.id == desk_schema.assignment.c.task_id)
    .where(
        desk_schema.task.c.prompt_id.in_(sa.bindparam("prompts", expanding=True)),
        desk_schema.assignment.c.answer_key.is_not(None),
    )
)


def choices(store: Store, given: Sequence[StoredFeedback]) -> dict[int, Choice]:
    """By seq; nothing of a judgement that was not given at the desk."""
    found: dict[tuple[str, str, str], Choice] = {}
    for part in chunks({one.feedback.prompt_id for one in given}):
        with store.read() as conn:
            for row in conn.execute(_OF, {"prompts": part}):
                key = row.answer_key.rsplit(":", 1)[0]  # behind it stands the fingerprint of the body
                found[row.prompt_id, row.labeler, key] = Choice(row.policy, row.probability)
    told = {}
    for one in given:
        f = one.feedback
        key = (f.prompt_id, f.labeler, f.idempotency_key.partition(":")[0])  # of the answer: its events are `key:1`, …
        if key in found:
            told[one.seq] = found[key]
    return told
