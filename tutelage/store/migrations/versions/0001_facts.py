"""The first schema: people, material, facts with their triggers, snapshots.

Written out in full and never edited: a store made by this version must be made the same way for ever.
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

FACTS = ("prompt", "completion", "model_version", "guideline", "event", "ranking_entry", "rating", "snapshot")


def upgrade() -> None:
    _people()
    _material()
    _facts()
    for table in FACTS:
        _refuse(table, "UPDATE", "UPDATE")
        _refuse(table, "DELETE", "DELETE")
    _refuse("labeler", "UPDATE", "UPDATE OF pseudonym, kind")
    _refuse("labeler", "DELETE", "DELETE")


def _people() -> None:
    op.create_table(
        "account",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("email", sa.String, nullable=False, unique=True),
        sa.Column("state", sa.String, nullable=False),
    )
    op.create_table(
        "labeler",
        sa.Column("pseudonym", sa.String, primary_key=True),
        sa.Column("kind", sa.String, nullable=False),
        sa.Column("account_id", sa.Integer, sa.ForeignKey("account.id", ondelete="SET NULL"), nullable=True),
    )


def _material() -> None:
    op.create_table(
        "prompt",
        sa.Column("n", sa.Integer, primary_key=True),
        sa.Column("id", sa.String, nullable=False, unique=True),
        sa.Column("messages", sa.Text, nullable=False),
        sa.Column("source", sa.String, nullable=False, index=True),
        sa.Column("norm_sha", sa.String, nullable=False, index=True),
    )
    op.create_table(
        "completion",
        sa.Column("n", sa.Integer, primary_key=True),
        sa.Column("id", sa.String, nullable=False, unique=True),
        sa.Column("prompt_id", sa.String, sa.ForeignKey("prompt.id"), nullable=False, index=True),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("origin", sa.String, nullable=False),
        sa.Column("model_version", sa.String, nullable=True, index=True),
        sa.Column("token_ids", sa.Text, nullable=True),
        sa.Column("logp", sa.Text, nullable=True),
        sa.Column("finish_reason", sa.String, nullable=True),
        sa.Column("temperature", sa.Double, nullable=True),
        sa.Column("seed", sa.Text, nullable=True),
        sa.Column("sample", sa.Integer, nullable=False),
        sa.Column("parent", sa.String, sa.ForeignKey("completion.id"), nullable=True),
    )
    op.create_table(
        "model_version",
        sa.Column("n", sa.Integer, primary_key=True),
        sa.Column("id", sa.String, nullable=False, unique=True),
        sa.Column("stage", sa.String, nullable=False),
        sa.Column("weights_sha", sa.String, nullable=False, index=True),
        sa.Column("parent", sa.String, sa.ForeignKey("model_version.id"), nullable=True),
        sa.Column("snapshot", sa.String, nullable=True),
        sa.Column("reward_model", sa.String, nullable=True),
        sa.Column("path", sa.String, nullable=False),
        sa.Column("created_at", sa.String, nullable=False),
    )
    op.create_table(
        "guideline",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("text", sa.Text, nullable=False),
    )


def _facts() -> None:
    op.create_table(
        "event",
        sa.Column("seq", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("at", sa.String, nullable=False),
        sa.Column("prev_hash", sa.String, nullable=False),
        sa.Column("hash", sa.String, nullable=False, unique=True),
        sa.Column("idempotency_key", sa.String, nullable=False, unique=True),
        sa.Column("body_sha", sa.String, nullable=False),
        sa.Column("labeler", sa.String, sa.ForeignKey("labeler.pseudonym"), nullable=False, index=True),
        sa.Column("prompt_id", sa.String, sa.ForeignKey("prompt.id"), nullable=False, index=True),
        sa.Column("source", sa.String, nullable=False, index=True),
        sa.Column("kind", sa.String, nullable=False, index=True),
        sa.Column("supersedes", sa.Integer, sa.ForeignKey("event.seq"), nullable=True, unique=True),
        sa.Column("payload", sa.Text, nullable=False),
    )
    op.create_table(
        "ranking_entry",
        sa.Column("event", sa.Integer, sa.ForeignKey("event.seq"), primary_key=True),
        sa.Column("completion", sa.String, sa.ForeignKey("completion.id"), primary_key=True, index=True),
        sa.Column("tier", sa.Integer, nullable=False),
    )
    op.create_table(
        "rating",
        sa.Column("event", sa.Integer, sa.ForeignKey("event.seq"), primary_key=True),
        sa.Column("completion", sa.String, sa.ForeignKey("completion.id"), nullable=False, index=True),
        sa.Column("aspect", sa.String, nullable=False),
        sa.Column("value", sa.Double, nullable=False),
    )
    op.create_table(
        "snapshot",
        sa.Column("hash", sa.String, primary_key=True),
        sa.Column("path", sa.String, nullable=False),
        sa.Column("seq_upto", sa.Integer, nullable=False),
        sa.Column("chain_hash", sa.String, nullable=False),
        sa.Column("query", sa.Text, nullable=False),
        sa.Column("at", sa.String, nullable=False),
    )


def _refuse(table: str, verb: str, when: str) -> None:
    """A trigger that ends the statement: a fact is replaced by a later fact, never changed."""
    name = f"{table}_no_{verb.lower()}"
    message = f"{table} is append-only: {verb} refused"
    if op.get_bind().dialect.name == "sqlite":
        op.execute(f"CREATE TRIGGER {name} BEFORE {when} ON {table} BEGIN SELECT RAISE(ABORT, '{message}'); END")
        return
    op.execute(
        f"CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION '{message}'; END $$"
    )
    op.execute(f"CREATE TRIGGER {name} BEFORE {when} ON {table} FOR EACH ROW EXECUTE FUNCTION {name}()")
    if verb == "DELETE":
        op.execute(f"CREATE TRIGGER {table}_no_truncate BEFORE TRUNCATE ON {table} EXECUTE FUNCTION {name}()")
