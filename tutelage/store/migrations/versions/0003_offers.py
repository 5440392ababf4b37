"""The third schema: indexes by which a task is found among a hundred thousand, most of them done, and counted.

What is open and still wanted is a small part of a desk that has been at work for long, so the indexes hold that alone.
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

WANTED = sa.text("state = 'open' AND slots > 0")


def upgrade() -> None:
    for by in ("place", "priority"):
        op.drop_index(f"ix_task_open_{by}", "task")
        op.create_index(
            f"ix_task_wanted_{by}",
            "task",
            ["project_id", "kind", "is_check", by],
            sqlite_where=WANTED,
            postgresql_where=WANTED,
        )
    op.create_index("ix_task_prompt_id", "task", ["prompt_id"])
    # A labeler's own texts, and one answer's events, by both names at once.
    for first, second in (("labeler", "kind"), ("prompt_id", "labeler")):
        op.drop_index(f"ix_event_{first}", "event")
        op.create_index(f"ix_event_{first}_{second}", "event", [first, second])
