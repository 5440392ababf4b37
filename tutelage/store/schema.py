"""The tables of the store as they are today. The migrations make them; a test keeps the two alike.

Facts are never updated nor deleted: triggers refuse it. An account, which names a person, is no fact and lies apart.
"""

import json
from typing import Any

from sqlalchemy import Column, Double, ForeignKey, Index, Integer, MetaData, String, Table, Text
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator

from tutelage.errors import StoreError

# What the triggers guard. `labeler` is guarded but for the link to its account, which can be cut.
FACTS = (
    "prompt",
    "completion",
    "model_version",
    "guideline",
    "event",
    "ranking_entry",
    "rating",
    "snapshot",
)


def canonical(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal values have equal bytes."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))


class Json(TypeDecorator[Any]):
    """Any JSON value in a text column. Model text too: PostgreSQL refuses a bare NUL, JSON escapes it."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> str | None:
        return None if value is None else canonical(value)

    def process_result_value(self, value: str | None, dialect: Dialect) -> Any:
        return None if value is None else json.loads(value)


def plain(what: str, value: str) -> str:
    """A name as it can stand in a text column of both databases."""
    if "\x00" in value:
        raise StoreError(f"{what} {value!r} holds a NUL character, which PostgreSQL cannot store. Take it out.")
    return value


metadata = MetaData()

account = Table(
    "account",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("email", String, nullable=False, unique=True),  # lower case
    Column("state", String, nullable=False),  # active, closed
    Column("password_hash", String, nullable=True),  # argon2id; None: signs in elsewhere
    Column("totp_secret", String, nullable=True),  # sealed by the app's key
    Column("totp_last", Integer, nullable=False, server_default="0"),  # the last time step used, never used again
    Column("oidc_subject", String, nullable=True, unique=False),
    Column("is_owner", Integer, nullable=False, server_default="0"),  # of the whole installation
    Column("preferences", Json, nullable=True),
    Column("created_at", String, nullable=False, server_default=""),
    Index("ix_account_oidc_subject", "oidc_subject", unique=True),
)

labeler = Table(
    "labeler",
    metadata,
    Column("pseudonym", String, primary_key=True),
    Column("kind", String, nullable=False),
    Column("account_id", Integer, ForeignKey("account.id", ondelete="SET NULL"), nullable=True),
)

prompt = Table(
    "prompt",
    metadata,
    Column("n", Integer, primary_key=True),  # the order in which they came
    Column("id", String, nullable=False, unique=True),
    Column("messages", Json, nullable=False),
    Column("source", String, nullable=False, index=True),
    Column("norm_sha", String, nullable=False, index=True),  # of the normalised first user turn
)

completion = Table(
    "completion",
    metadata,
    Column("n", Integer, primary_key=True),
    Column("id", String, nullable=False, unique=True),
    Column("prompt_id", String, ForeignKey("prompt.id"), nullable=False, index=True),
    Column("text", Json, nullable=False),
    Column("origin", String, nullable=False),
    Column("model_version", String, nullable=True, index=True),
    Column("token_ids", Json, nullable=True),
    Column("logp", Json, nullable=True),
    Column("finish_reason", String, nullable=True),
    Column("temperature", Double, nullable=True),
    Column("seed", Json, nullable=True),  # a seed may have more than 63 bits
    Column("sample", Integer, nullable=False),
    Column("parent", String, ForeignKey("completion.id"), nullable=True),
)

model_version = Table(
    "model_version",
    metadata,
    Column("n", Integer, primary_key=True),
    Column("id", String, nullable=False, unique=True),
    Column("stage", String, nullable=False),
    Column("weights_sha", String, nullable=False, index=True),
    Column("parent", String, ForeignKey("model_version.id"), nullable=True),
    Column("snapshot", String, nullable=True),
    Column("reward_model", String, nullable=True),
    Column("path", String, nullable=False),
    Column("created_at", String, nullable=False),
)

guideline = Table(
    "guideline",
    metadata,
    Column("id", String, primary_key=True),
    Column("version", Integer, nullable=False),
    Column("text", Json, nullable=False),
)

event = Table(
    "event",
    metadata,
    Column("seq", Integer, primary_key=True, autoincrement=False),  # 1, 2, 3, … without gaps
    Column("at", String, nullable=False),  # ISO 8601 UTC, for reading; the order is that of seq
    Column("prev_hash", String, nullable=False),
    Column("hash", String, nullable=False, unique=True),
    Column("idempotency_key", String, nullable=False, unique=True),
    Column("body_sha", String, nullable=False),
    Column("labeler", String, ForeignKey("labeler.pseudonym"), nullable=False),
    Column("prompt_id", String, ForeignKey("prompt.id"), nullable=False),
    Column("source", String, nullable=False, index=True),
    Column("kind", String, nullable=False, index=True),
    Column("supersedes", Integer, ForeignKey("event.seq"), nullable=True, unique=True),
    Column("payload", Text, nullable=False),  # the Feedback, canonical JSON: the bytes that body_sha is of
    Index("ix_event_labeler_kind", "labeler", "kind"),
    Index("ix_event_prompt_id_labeler", "prompt_id", "labeler"),
)

ranking_entry = Table(
    "ranking_entry",
    metadata,
    Column("event", Integer, ForeignKey("event.seq"), primary_key=True),
    Column("completion", String, ForeignKey("completion.id"), primary_key=True, index=True),
    Column("tier", Integer, nullable=False),
)

rating = Table(
    "rating",
    metadata,
    Column("event", Integer, ForeignKey("event.seq"), primary_key=True),
    Column("completion", String, ForeignKey("completion.id"), nullable=False, index=True),
    Column("aspect", String, nullable=False),
    Column("value", Double, nullable=False),
)

snapshot = Table(
    "snapshot",
    metadata,
    Column("hash", String, primary_key=True),
    Column("path", String, nullable=False),
    Column("seq_upto", Integer, nullable=False),
    Column("chain_hash", String, nullable=False),  # of the event at seq_upto, or "" for 0
    Column("query", Json, nullable=False),
    Column("at", String, nullable=False),
)
