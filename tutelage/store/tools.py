"""Model endpoints, chats with them, and background jobs. Knows no HTTP: a key is kept sealed, or as the name of an
environment variable.
"""

import secrets
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import sqlalchemy as sa

from tutelage.errors import ConflictError
from tutelage.store import desk_schema, schema
from tutelage.store.db import Store
from tutelage.store.feedback import record_within
from tutelage.types import Feedback, StoredFeedback

endpoint, chat, job = desk_schema.endpoint, desk_schema.chat, desk_schema.job


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An OpenAI-compatible server. Which model wrote an answer never reaches a labeler's browser."""

    id: int
    name: str
    url: str
    model: str
    key_sealed: str | None
    key_env: str | None


def add_endpoint(
    store: Store,
    project_id: int,
    *,
    name: str,
    url: str,
    model: str,
    key_sealed: str | None = None,
    key_env: str | None = None,
) -> int:
    row = {
        "project_id": project_id, "name": schema.plain("the name", name), "url": schema.plain("the address", url),
        "model": schema.plain("the model", model), "key_sealed": key_sealed, "key_env": key_env, "state": "active",
    }  # fmt: skip
    with store.write() as conn:
        made = conn.execute(sa.insert(endpoint).values(**row, created_at=store.now())).inserted_primary_key
        assert made is not None, "the insert of one row gives its key"
        return int(made[0])


def endpoints(store: Store, project_id: int) -> list[Endpoint]:
    query = sa.select(endpoint).where(endpoint.c.project_id == project_id, endpoint.c.state == "active")
    with store.read() as conn:
        return [
            Endpoint(r.id, r.name, r.url, r.model, r.key_sealed, r.key_env)
            for r in conn.execute(query.order_by(endpoint.c.id))
        ]


def find_endpoint(store: Store, project_id: int, number: int) -> Endpoint | None:
    """An endpoint of this project that was not removed."""
    return next((e for e in endpoints(store, project_id) if e.id == number), None)


def remove_endpoint(store: Store, project_id: int, number: int) -> bool:
    """Forgets an endpoint and its key. What it wrote stays."""
    with store.write() as conn:
        done = conn.execute(
            sa.update(endpoint)
            .where(endpoint.c.id == number, endpoint.c.project_id == project_id)
            .values(state="removed", key_sealed=None)
        )
        return done.rowcount > 0


# Chats.


@dataclass(frozen=True, slots=True)
class Chat:
    """A conversation of a labeler with one model, or with two side by side.

    turns  {"role": "user", "text", "key"}; {"role": "assistant", "prompt", "answers": [{"text", "completion", "thumb",
           "broke"}], "chosen": which answer goes on, or None, "outcome"} with what was judged so far; and first of a
           chat that is a task, {"role": "task", "assignment"}
    """

    id: str
    project_id: int
    labeler: str
    goal: str
    endpoints: tuple[int, ...]
    turns: list[dict[str, Any]]
    state: Literal["open", "closed"]
    success: int | None


def _chat(row: sa.Row[Any]) -> Chat:
    return Chat(row.id, row.project_id, row.labeler, row.goal, tuple(row.endpoints), row.turns, row.state, row.success)


def open_chat(
    store: Store,
    project_id: int,
    labeler: str,
    goal: str,
    endpoint_ids: tuple[int, ...],
    turns: Sequence[dict[str, Any]] = (),
) -> Chat:
    number = secrets.token_hex(12)
    row = {"id": number, "project_id": project_id, "labeler": labeler, "goal": goal, "endpoints": list(endpoint_ids)}
    with store.write() as conn:
        conn.execute(sa.insert(chat).values(**row, turns=list(turns), state="open", created_at=store.now()))
    found = find_chat(store, project_id, labeler, number)
    assert found is not None, "it was stored just now"
    return found


def find_chat(store: Store, project_id: int, labeler: str, number: str) -> Chat | None:
    """A chat of this labeler in this project; None for anybody else's."""
    with store.read() as conn:
        row = conn.execute(
            sa.select(chat).where(chat.c.id == number, chat.c.labeler == labeler, chat.c.project_id == project_id)
        ).first()
    return _chat(row) if row else None


def chats(store: Store, project_id: int, labeler: str, limit: int = 30) -> list[Chat]:
    query = sa.select(chat).where(chat.c.project_id == project_id, chat.c.labeler == labeler)
    with store.read() as conn:
        return [_chat(r) for r in conn.execute(query.order_by(chat.c.created_at.desc()).limit(limit))]


def change_chat(store: Store, seen: Chat, feedbacks: Sequence[Feedback] = (), **values: Any) -> list[StoredFeedback]:
    """Writes turns, state or success, and what was judged there, in one transaction.

    Raises ConflictError when the chat went on meanwhile, in another window.
    """
    with store.write() as conn:
        row = conn.execute(sa.select(chat.c.turns, chat.c.state).where(chat.c.id == seen.id)).one()
        if row.turns != seen.turns or row.state != seen.state:
            raise ConflictError("this chat went on in another window. Reload it.")
        conn.execute(sa.update(chat).where(chat.c.id == seen.id).values(**values))
        return record_within(conn, store.now(), feedbacks) if feedbacks else []


# Jobs.


@dataclass(frozen=True, slots=True)
class Job:
    """Work in the background: what was asked for, how far it is, and how it ended."""

    id: int
    project_id: int
    kind: str
    state: Literal["waiting", "running", "done", "failed"]
    done: int
    total: int
    request: dict[str, Any]
    result: dict[str, Any] | None
    created_at: str


def _job(r: sa.Row[Any]) -> Job:
    return Job(r.id, r.project_id, r.kind, r.state, r.done, r.total, r.request, r.result, r.created_at)


def add_job(store: Store, project_id: int, kind: str, request: dict[str, Any], total: int) -> int:
    row = {"project_id": project_id, "kind": kind, "state": "waiting", "done": 0, "total": total, "request": request}
    with store.write() as conn:
        made = conn.execute(sa.insert(job).values(**row, created_at=store.now())).inserted_primary_key
        assert made is not None, "the insert of one row gives its key"
        return int(made[0])


def jobs(store: Store, project_id: int, limit: int = 20) -> list[Job]:
    query = sa.select(job).where(job.c.project_id == project_id).order_by(job.c.id.desc()).limit(limit)
    with store.read() as conn:
        return [_job(r) for r in conn.execute(query)]


def find_job(store: Store, project_id: int, number: int) -> Job | None:
    with store.read() as conn:
        row = conn.execute(sa.select(job).where(job.c.id == number, job.c.project_id == project_id)).first()
    return _job(row) if row else None


def take_job(store: Store, *, only: Collection[str] | None = None, but: Collection[str] = ()) -> Job | None:
    """The oldest waiting job, now running: of these kinds only, or of all but these."""
    wanted = [job.c.state == "waiting", job.c.kind.not_in(list(but))]
    if only is not None:
        wanted.append(job.c.kind.in_(list(only)))
    with store.write() as conn:
        row = conn.execute(sa.select(job).where(*wanted).order_by(job.c.id).limit(1)).first()
        if row is None:
            return None
        conn.execute(sa.update(job).where(job.c.id == row.id).values(state="running"))
    return _job(row)


def report_job(store: Store, number: int, **values: Any) -> None:
    """Sets done, state or result."""
    with store.write() as conn:
        conn.execute(sa.update(job).where(job.c.id == number).values(**values))


def take_up_again(store: Store) -> int:
    """Jobs that a killed server left running wait again; each step of a job is safe to repeat."""
    with store.write() as conn:
        return conn.execute(sa.update(job).where(job.c.state == "running").values(state="waiting")).rowcount
