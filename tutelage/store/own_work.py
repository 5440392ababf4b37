"""What one person did in a project, and what is left to do in it. Hidden checks are told apart by nobody here."""

import sqlalchemy as sa

from tutelage.store import desk_schema
from tutelage.store.db import Store

assignment, task = desk_schema.assignment, desk_schema.task
PRACTICE = 2  # of `is_check`


def own_counts(store: Store, project_id: int, labeler: str) -> list[tuple[str, str, int]]:
    """(kind of task, state, number) of one person's work in a project."""
    query = (
        sa.select(task.c.kind, assignment.c.state, sa.func.count().label("n"))
        .join(task, task.c.id == assignment.c.task_id)
        .where(
            assignment.c.labeler == labeler,
            assignment.c.state.in_(("answered", "skipped")),
            task.c.project_id == project_id,
        )
        .group_by(task.c.kind, assignment.c.state)
    )
    with store.read() as conn:
        return [(r.kind, r.state, int(r.n)) for r in conn.execute(query)]


def practice_scores(store: Store, project_id: int, labeler: str) -> list[float]:
    """Scores, 0 to 1, of the practice tasks that this person answered. Those of hidden checks would give them away."""
    query = (
        sa.select(assignment.c.score)
        .join(task, task.c.id == assignment.c.task_id)
        .where(
            assignment.c.labeler == labeler,
            assignment.c.state == "answered",
            assignment.c.score.is_not(None),
            task.c.project_id == project_id,
            task.c.is_check == PRACTICE,
        )
    )
    with store.read() as conn:
        return [float(score) for score in conn.scalars(query)]


def tasks_left(store: Store, project_id: int) -> dict[str, int]:
    """Open tasks by kind that want another answer which nobody has in hand. Checks and practice do not count."""
    query = (
        sa.select(task.c.kind, sa.func.count().label("n"))
        .where(task.c.project_id == project_id, desk_schema.WANTED, task.c.is_check == 0)
        .group_by(task.c.kind)
        .order_by(task.c.kind)
    )
    with store.read() as conn:
        return {row.kind: int(row.n) for row in conn.execute(query)}
