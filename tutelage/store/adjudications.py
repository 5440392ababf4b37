"""A reviewer's decision of a task whose answers contradict each other: a new event beside the raw ones, which stay."""

import sqlalchemy as sa

from tutelage.errors import ConflictError, StoreError
from tutelage.store import desk_schema, schema
from tutelage.store.db import Store
from tutelage.store.feedback import record_within
from tutelage.store.tasks import Task
from tutelage.types import Adjudication, Feedback, StoredFeedback

DECISION = "adjudication"  # begins the key of a decision; the number of the task follows


def seen_by(store: Store, task_id: int) -> set[str]:
    """Who answered, skipped or holds this task: whoever judges it herself does not decide between the others."""
    c = desk_schema.assignment.c
    with store.read() as conn:
        return set(conn.scalars(sa.select(c.labeler).where(c.task_id == task_id, c.state != "expired")))


def decide(
    store: Store, task: Task, reviewer: str, judgement: Adjudication, *, key: str, guideline: str | None = None
) -> StoredFeedback:
    """Stores a decision; a reviewer's second one of a task replaces her first. The same key again changes nothing.

    Raises ConflictError when another reviewer has decided it, StoreError when this one judged the task herself.
    """
    if reviewer in seen_by(store, task.id):
        raise StoreError("you were given this task to judge, so somebody else decides it.")
    event, prefix = schema.event, f"{DECISION}:{task.id}:"
    feedback = Feedback(
        labeler=reviewer,
        prompt_id=task.prompt_id,
        judgement=judgement,
        idempotency_key=prefix + key,
        source=task.source,
        guideline=guideline,
    )
    with store.write() as conn:
        query = sa.select(event.c.seq, event.c.labeler, event.c.idempotency_key, event.c.supersedes).where(
            event.c.kind == "adjudication",
            event.c.prompt_id == task.prompt_id,
            event.c.idempotency_key.startswith(prefix),
        )
        known = conn.execute(query.order_by(event.c.seq.desc()).limit(1)).first()
        if known is not None and known.labeler != reviewer:
            raise ConflictError(f"{known.labeler} has decided this task already. Reload the page.")
        before = known.seq if known is not None else None
        if known is not None and known.idempotency_key == prefix + key:
            before = known.supersedes  # sent again
        return record_within(conn, store.now(), [feedback.model_copy(update={"supersedes": before})])[0]
