"""The second schema: who may come in (accounts, sessions, invitations, tokens) and what lies on the desk (projects,
tasks, assignments, drafts, candidates, endpoints, chats, jobs), and the audit of what was done.

None of these are facts: they change. What people say is an event of the first schema.
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    _accounts()
    _projects()
    _ways_in()
    _tasks()
    _work_in_hand()
    _tools()


def _accounts() -> None:
    for column in (
        sa.Column("password_hash", sa.String, nullable=True),
        sa.Column("totp_secret", sa.String, nullable=True),
        sa.Column("totp_last", sa.Integer, nullable=False, server_default="0"),
        sa.Column("oidc_subject", sa.String, nullable=True),
        sa.Column("is_owner", sa.Integer, nullable=False, server_default="0"),
        sa.Column("preferences", sa.Text, nullable=True),
        sa.Column("created_at", sa.String, nullable=False, server_default=""),
    ):
        op.add_column("account", column)
    op.create_index("ix_account_oidc_subject", "account", ["oidc_subject"], unique=True)
    op.create_table(
        "session",
        sa.Column("token_hash", sa.String, primary_key=True),
        sa.Column(
            "account_id", sa.Integer, sa.ForeignKey("account.id", ondelete="CASCADE"), nullable=False, index=True
        ),
        sa.Column("expires_at", sa.Double, nullable=False),
    )
    op.create_table(
        "setting",
        sa.Column("key", sa.String, primary_key=True),
        sa.Column("value", sa.Text, nullable=True),
    )


def _projects() -> None:
    op.create_table(
        "project",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("slug", sa.String, nullable=False, unique=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("settings", sa.Text, nullable=False),
        sa.Column("created_at", sa.String, nullable=False),
    )
    op.create_table(
        "member",
        sa.Column("project_id", sa.Integer, sa.ForeignKey("project.id"), primary_key=True),
        sa.Column("account_id", sa.Integer, sa.ForeignKey("account.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("role", sa.String, nullable=False),
        sa.Column("state", sa.String, nullable=False),
        sa.Column("joined_at", sa.String, nullable=False),
    )


def _ways_in() -> None:
    op.create_table(
        "invite",
        sa.Column("token_hash", sa.String, primary_key=True),
        sa.Column("project_id", sa.Integer, sa.ForeignKey("project.id"), nullable=False, index=True),
        sa.Column("role", sa.String, nullable=False),
        sa.Column("expires_at", sa.Double, nullable=False),
        sa.Column("used_at", sa.String, nullable=True),
    )
    op.create_table(
        "project_guideline",
        sa.Column("project_id", sa.Integer, sa.ForeignKey("project.id"), primary_key=True),
        sa.Column("version", sa.Integer, primary_key=True),
        sa.Column("guideline_id", sa.String, sa.ForeignKey("guideline.id"), nullable=False),
        sa.Column("published_at", sa.String, nullable=False),
    )
    op.create_table(
        "token",
        sa.Column("token_hash", sa.String, primary_key=True),
        sa.Column("project_id", sa.Integer, sa.ForeignKey("project.id"), nullable=False, index=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("scope", sa.String, nullable=False),
        sa.Column("expires_at", sa.Double, nullable=False),
        sa.Column("created_at", sa.String, nullable=False),
        sa.Column("revoked_at", sa.String, nullable=True),
    )


def _tasks() -> None:
    op.create_table(
        "task",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("key", sa.String, nullable=False, unique=True),
        sa.Column("project_id", sa.Integer, sa.ForeignKey("project.id"), nullable=False),
        sa.Column("kind", sa.String, nullable=False),
        sa.Column("source", sa.String, nullable=False, index=True),
        sa.Column("prompt_id", sa.String, sa.ForeignKey("prompt.id"), nullable=False),
        sa.Column("completions", sa.Text, nullable=False),
        sa.Column("slots", sa.Integer, nullable=False),
        sa.Column("overlap", sa.Integer, nullable=False),
        sa.Column("place", sa.Double, nullable=False),
        sa.Column("priority", sa.Double, nullable=False),
        sa.Column("gold", sa.Text, nullable=True),
        sa.Column("practice", sa.Text, nullable=True),
        sa.Column("is_check", sa.Integer, nullable=False),
        sa.Column("state", sa.String, nullable=False),
        sa.Column("created_at", sa.String, nullable=False),
    )
    op.create_index("ix_task_open_place", "task", ["project_id", "state", "kind", "is_check", "place"])
    op.create_index("ix_task_open_priority", "task", ["project_id", "state", "kind", "is_check", "priority"])
    op.create_index("ix_task_progress", "task", ["project_id", "is_check", "source", "kind", "overlap"])
    op.create_table(
        "assignment",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("task_id", sa.Integer, sa.ForeignKey("task.id"), nullable=False),
        sa.Column("labeler", sa.String, sa.ForeignKey("labeler.pseudonym"), nullable=False),
        sa.Column("repeat", sa.Integer, nullable=False),
        sa.Column("state", sa.String, nullable=False),
        sa.Column("lease_until", sa.Double, nullable=False),
        sa.Column("offered_at", sa.Double, nullable=False),
        sa.Column("answered_at", sa.Double, nullable=True),
        sa.Column("shown", sa.Text, nullable=False),
        sa.Column("policy", sa.String, nullable=False),
        sa.Column("probability", sa.Double, nullable=False),
        sa.Column("is_late", sa.Integer, nullable=False),
        sa.Column("score", sa.Double, nullable=True),
        sa.Column("answer_key", sa.String, nullable=True),
        sa.UniqueConstraint("task_id", "labeler", "repeat", name="uq_assignment"),
    )
    op.create_index("ix_assignment_labeler", "assignment", ["labeler", "state", "answered_at"])
    op.create_index("ix_assignment_lease", "assignment", ["state", "lease_until"])


def _work_in_hand() -> None:
    op.create_table(
        "draft",
        sa.Column("assignment_id", sa.String, sa.ForeignKey("assignment.id"), primary_key=True),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("saved_at", sa.Double, nullable=False),
    )
    op.create_table(
        "candidate",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("project_id", sa.Integer, sa.ForeignKey("project.id"), nullable=False),
        sa.Column("key", sa.String, nullable=False, unique=True),
        sa.Column("prompt_id", sa.String, sa.ForeignKey("prompt.id"), nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("origin", sa.String, nullable=False),
        sa.Column("author", sa.String, nullable=False),
        sa.Column("findings", sa.Text, nullable=False),
        sa.Column("state", sa.String, nullable=False),
        sa.Column("decided_by", sa.String, nullable=True),
        sa.Column("decided_at", sa.String, nullable=True),
    )
    op.create_index("ix_candidate_state", "candidate", ["project_id", "state", "id"])


def _tools() -> None:
    op.create_table(
        "endpoint",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("project_id", sa.Integer, sa.ForeignKey("project.id"), nullable=False, index=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("url", sa.Text, nullable=False),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("key_sealed", sa.Text, nullable=True),
        sa.Column("key_env", sa.String, nullable=True),
        sa.Column("state", sa.String, nullable=False),
        sa.Column("created_at", sa.String, nullable=False),
    )
    op.create_table(
        "chat",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("project_id", sa.Integer, sa.ForeignKey("project.id"), nullable=False),
        sa.Column("labeler", sa.String, sa.ForeignKey("labeler.pseudonym"), nullable=False, index=True),
        sa.Column("goal", sa.Text, nullable=False),
        sa.Column("endpoints", sa.Text, nullable=False),
        sa.Column("turns", sa.Text, nullable=False),
        sa.Column("state", sa.String, nullable=False),
        sa.Column("success", sa.Integer, nullable=True),
        sa.Column("created_at", sa.String, nullable=False),
    )
    op.create_table(
        "job",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("project_id", sa.Integer, sa.ForeignKey("project.id"), nullable=False, index=True),
        sa.Column("kind", sa.String, nullable=False),
        sa.Column("state", sa.String, nullable=False),
        sa.Column("done", sa.Integer, nullable=False),
        sa.Column("total", sa.Integer, nullable=False),
        sa.Column("request", sa.Text, nullable=False),
        sa.Column("result", sa.Text, nullable=True),
        sa.Column("created_at", sa.String, nullable=False),
    )
    op.create_table(
        "audit",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("at", sa.String, nullable=False),
        sa.Column("project_id", sa.Integer, nullable=True, index=True),
        sa.Column("account_id", sa.Integer, nullable=True),
        sa.Column("action", sa.String, nullable=False),
        sa.Column("object", sa.Text, nullable=False),
    )
