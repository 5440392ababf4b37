"""The tables of the desk: who may come in, what is to be judged, who holds it. They change; facts never do.

Times that are compared are seconds since 1970 by the store's clock; times that are only read are ISO 8601 UTC.
"""

from sqlalchemy import Column, Double, ForeignKey, Index, Integer, String, Table, Text, UniqueConstraint, text

from tutelage.store.schema import Json, metadata

session = Table(
    "session",
    metadata,
    Column("token_hash", String, primary_key=True),
    Column("account_id", Integer, ForeignKey("account.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("expires_at", Double, nullable=False),
)

setting = Table(
    "setting",
    metadata,
    Column("key", String, primary_key=True),
    Column("value", Json, nullable=True),
)

project = Table(
    "project",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("slug", String, nullable=False, unique=True),
    Column("name", Text, nullable=False),
    Column("settings", Json, nullable=False),
    Column("created_at", String, nullable=False),
)

member = Table(
    "member",
    metadata,
    Column("project_id", Integer, ForeignKey("project.id"), primary_key=True),
    Column("account_id", Integer, ForeignKey("account.id", ondelete="CASCADE"), primary_key=True),
    Column("role", String, nullable=False),  # lead, reviewer, labeller
    Column("state", String, nullable=False),  # active, paused, removed
    Column("joined_at", String, nullable=False),
)

invite = Table(
    "invite",
    metadata,
    Column("token_hash", String, primary_key=True),
    Column("project_id", Integer, ForeignKey("project.id"), nullable=False, index=True),
    Column("role", String, nullable=False),
    Column("expires_at", Double, nullable=False),
    Column("used_at", String, nullable=True),
)

project_guideline = Table(
    "project_guideline",
    metadata,
    Column("project_id", Integer, ForeignKey("project.id"), primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("guideline_id", String, ForeignKey("guideline.id"), nullable=False),
    Column("published_at", String, nullable=False),
)

token = Table(
    "token",
    metadata,
    Column("token_hash", String, primary_key=True),
    Column("project_id", Integer, ForeignKey("project.id"), nullable=False, index=True),
    Column("name", Text, nullable=False),
    Column("scope", String, nullable=False),  # read, write
    Column("expires_at", Double, nullable=False),
    Column("created_at", String, nullable=False),
    Column("revoked_at", String, nullable=True),
)

WANTED = text("state = 'open' AND slots > 0")  # a query uses such an index when it says the same, in these words
_OFFERED = ("project_id", "kind", "is_check")

task = Table(
    "task",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("key", String, nullable=False, unique=True),  # the same material offered twice is one task
    Column("project_id", Integer, ForeignKey("project.id"), nullable=False),
    Column("kind", String, nullable=False),
    Column("source", String, nullable=False, index=True),  # of the judgements that it brings
    Column("prompt_id", String, ForeignKey("prompt.id"), nullable=False, index=True),
    Column("completions", Json, nullable=False),  # ids
    Column("slots", Integer, nullable=False),  # judgements that are still wanted and that nobody holds
    Column("overlap", Integer, nullable=False),  # people who shall judge it
    Column("place", Double, nullable=False),  # a random number: the order of random choice
    Column("priority", Double, nullable=False),  # what a score of uncertainty or novelty says; 0 = none
    Column("gold", Json, nullable=True),  # the known answer of a check
    Column("practice", Json, nullable=True),  # the explanation, of a task to learn from
    Column("is_check", Integer, nullable=False),  # gold or practice: served by rules of their own
    Column("state", String, nullable=False),  # open, closed
    Column("created_at", String, nullable=False),
    Index("ix_task_wanted_place", *_OFFERED, "place", sqlite_where=WANTED, postgresql_where=WANTED),
    Index("ix_task_wanted_priority", *_OFFERED, "priority", sqlite_where=WANTED, postgresql_where=WANTED),
    Index("ix_task_progress", "project_id", "is_check", "source", "kind", "overlap"),
)

assignment = Table(
    "assignment",
    metadata,
    Column("id", String, primary_key=True),
    Column("task_id", Integer, ForeignKey("task.id"), nullable=False),
    Column("labeler", String, ForeignKey("labeler.pseudonym"), nullable=False),
    Column("repeat", Integer, nullable=False),  # 0; 1 for a blind repeat
    Column("state", String, nullable=False),  # leased, answered, skipped, expired
    Column("lease_until", Double, nullable=False),
    Column("offered_at", Double, nullable=False),
    Column("answered_at", Double, nullable=True),
    Column("shown", Json, nullable=False),  # completion ids in the order of presentation
    Column("policy", String, nullable=False),  # how it was chosen: random, priority, check, repeat, practice
    Column("probability", Double, nullable=False),  # with which it was chosen
    Column("is_late", Integer, nullable=False),  # answered after the lease had run out
    Column("score", Double, nullable=True),  # of a check: agreement with the known answer, 0 to 1
    Column("answer_key", String, nullable=True),  # the idempotency key of the answer
    UniqueConstraint("task_id", "labeler", "repeat", name="uq_assignment"),
    Index("ix_assignment_labeler", "labeler", "state", "answered_at"),
    Index("ix_assignment_lease", "state", "lease_until"),
)

draft = Table(
    "draft",
    metadata,
    Column("assignment_id", String, ForeignKey("assignment.id"), primary_key=True),
    Column("body", Json, nullable=False),
    Column("saved_at", Double, nullable=False),
)

candidate = Table(
    "candidate",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("project_id", Integer, ForeignKey("project.id"), nullable=False),
    Column("key", String, nullable=False, unique=True),
    Column("prompt_id", String, ForeignKey("prompt.id"), nullable=False),
    Column("text", Json, nullable=False),
    Column("origin", String, nullable=False),  # human, import, model
    Column("author", String, nullable=False),  # pseudonym or model
    Column("findings", Json, nullable=False),
    Column("state", String, nullable=False),  # pending, accepted, edited, rejected
    Column("decided_by", String, nullable=True),
    Column("decided_at", String, nullable=True),
    Index("ix_candidate_state", "project_id", "state", "id"),
)

endpoint = Table(
    "endpoint",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("project_id", Integer, ForeignKey("project.id"), nullable=False, index=True),
    Column("name", Text, nullable=False),
    Column("url", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("key_sealed", Text, nullable=True),
    Column("key_env", String, nullable=True),
    Column("state", String, nullable=False),  # active, removed
    Column("created_at", String, nullable=False),
)

chat = Table(
    "chat",
    metadata,
    Column("id", String, primary_key=True),
    Column("project_id", Integer, ForeignKey("project.id"), nullable=False),
    Column("labeler", String, ForeignKey("labeler.pseudonym"), nullable=False, index=True),
    Column("goal", Json, nullable=False),
    Column("endpoints", Json, nullable=False),  # ids, in the order of the sides
    Column("turns", Json, nullable=False),
    Column("state", String, nullable=False),  # open, closed
    Column("success", Integer, nullable=True),  # 1 to 5, of a red-team session
    Column("created_at", String, nullable=False),
)

job = Table(
    "job",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("project_id", Integer, ForeignKey("project.id"), nullable=False, index=True),
    Column("kind", String, nullable=False),
    Column("state", String, nullable=False),  # waiting, running, done, failed
    Column("done", Integer, nullable=False),
    Column("total", Integer, nullable=False),
    Column("request", Json, nullable=False),
    Column("result", Json, nullable=True),
    Column("created_at", String, nullable=False),
)

audit = Table(
    "audit",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("at", String, nullable=False),
    Column("project_id", Integer, nullable=True, index=True),
    Column("account_id", Integer, nullable=True),
    Column("action", String, nullable=False),
    Column("object", Json, nullable=False),
)
