"""API tokens of a project, and the audit of what was done by whom. A token is shown once; its SHA-256 is kept."""

import secrets
from dataclasses import dataclass
from typing import Any, Literal

import sqlalchemy as sa

from tutelage.store import desk_schema, schema
from tutelage.store.accounts import token_hash
from tutelage.store.db import Store

Scope = Literal["read", "write"]
PREFIX = "tut_"


@dataclass(frozen=True, slots=True)
class Token:
    """An API token as its owner sees it later: never the token itself."""

    id: str  # the first digits of its hash: enough to tell and to revoke it
    name: str
    scope: Scope
    created_at: str
    expires_at: float
    is_revoked: bool


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the audit."""

    id: int
    at: str
    account_id: int | None
    action: str
    object: dict[str, Any]


token, audit = desk_schema.token, desk_schema.audit


def issue_token(store: Store, project_id: int, name: str, scope: Scope, *, seconds: float) -> str:
    """A new token, to be shown once."""
    made = PREFIX + secrets.token_urlsafe(32)
    row = {"token_hash": token_hash(made), "project_id": project_id, "name": schema.plain("the name", name[:80])}
    with store.write() as conn:
        conn.execute(
            sa.insert(token).values(**row, scope=scope, expires_at=store.seconds() + seconds, created_at=store.now())
        )
    return made


def look_up_token(store: Store, given: str) -> tuple[int, Scope] | None:
    """Project and scope of a token that still holds."""
    query = sa.select(token.c.project_id, token.c.scope).where(
        token.c.token_hash == token_hash(given), token.c.revoked_at.is_(None), token.c.expires_at > store.seconds()
    )
    with store.read() as conn:
        row = conn.execute(query).first()
    return (row.project_id, row.scope) if row else None


def tokens(store: Store, project_id: int) -> list[Token]:
    query = sa.select(token).where(token.c.project_id == project_id).order_by(token.c.created_at.desc())
    with store.read() as conn:
        return [
            Token(r.token_hash[:12], r.name, r.scope, r.created_at, r.expires_at, r.revoked_at is not None)
            for r in conn.execute(query)
        ]


def revoke_token(store: Store, project_id: int, id: str) -> bool:
    """Ends a token of this project. False when there is none of that id."""
    with store.write() as conn:
        done = conn.execute(
            sa.update(token)
            .where(token.c.project_id == project_id, sa.func.substr(token.c.token_hash, 1, 12) == id)
            .values(revoked_at=store.now())
        )
        return done.rowcount > 0


def note(
    store: Store, action: str, *, project_id: int | None = None, account_id: int | None = None, **about: Any
) -> None:
    """Writes down what was done. Holds numbers and names of things, never an address or a secret."""
    row = {"project_id": project_id, "account_id": account_id, "action": action, "object": about}
    with store.write() as conn:
        conn.execute(sa.insert(audit).values(at=store.now(), **row))


def audit_trail(store: Store, project_id: int, *, before: int | None = None, limit: int = 100) -> list[Entry]:
    """Newest first; `before` is the id of the last entry of the page before."""
    query = sa.select(audit).where(audit.c.project_id == project_id)
    if before is not None:
        query = query.where(audit.c.id < before)
    with store.read() as conn:
        rows = conn.execute(query.order_by(audit.c.id.desc()).limit(limit))
        return [Entry(r.id, r.at, r.account_id, r.action, r.object) for r in rows]
