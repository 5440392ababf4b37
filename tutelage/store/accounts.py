"""Who may come in: accounts, sessions, and what an installation keeps about itself. Knows no password, only its hash.

A token is random and never stored: the table holds its SHA-256. The pseudonym of an account stands in `labeler`, and
its link to the account can be cut: then nothing says any more who the person was, and every judgement stays.
"""

import hashlib
import secrets
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from tutelage.errors import StoreError
from tutelage.store import desk_schema, schema
from tutelage.store.db import Store

account = schema.account

OWNER_LINK = "owner_link"  # the setting that holds the hash of the one-time link for the first owner

# Two plain words and a number: easy to say aloud, and nobody's name.
_ADJECTIVES = (
    "amber", "blue", "brisk", "calm", "clear", "coral", "eager", "early", "fair", "fern", "gentle", "golden", "green",
    "ivory", "jade", "keen", "lilac", "lively", "lunar", "mellow", "merry", "misty", "noble", "olive", "plain", "quick",
    "quiet", "rapid", "ruby", "sage", "silver", "solar", "steady", "sunny", "swift", "teal", "tidy", "topaz", "vivid",
    "warm",
)  # fmt: skip
_NOUNS = (
    "acorn", "badger", "beaver", "birch", "brook", "cedar", "comet", "crane", "delta", "dune", "falcon",
    "finch", "fjord",
    "grove",
    "harbor", "heron", "island", "kestrel", "lagoon", "lark", "maple", "marten", "meadow", "otter", "pebble",
    "petrel", "pine", "plover", "prairie", "quartz", "raven", "reef", "river", "robin", "spruce", "summit", "tern",
    "thicket", "valley", "willow",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Account:
    """One person's way in. `pseudonym` is the only name under which her judgements are kept."""

    id: int
    email: str
    state: str  # active, closed
    password_hash: str | None
    totp_secret: str | None
    totp_last: int
    oidc_subject: str | None
    is_owner: bool
    preferences: dict[str, Any]
    pseudonym: str


def token_hash(token: str) -> str:
    """Under which a token is looked up."""
    return hashlib.sha256(token.encode()).hexdigest()


def create_account(
    store: Store,
    email: str,
    *,
    password_hash: str | None = None,
    oidc_subject: str | None = None,
    is_owner: bool = False,
) -> Account:
    """A new account with a pseudonym of its own. Raises StoreError when the address has one already."""
    with store.write() as conn:
        made = create_within(conn, store.now(), email, password_hash, oidc_subject, is_owner)
    return get_account(store, made)


def create_within(
    conn: Connection, at: str, email: str, password_hash: str | None, oidc_subject: str | None, is_owner: bool
) -> int:
    """`create_account` as part of a larger transaction. Returns the account's number."""
    address = schema.plain("the address", email.strip().lower())
    if conn.scalar(sa.select(account.c.id).where(account.c.email == address)) is not None:
        raise StoreError(f"{address} has an account already. Sign in with it, or use another address.")
    done = conn.execute(
        sa.insert(account).values(
            email=address,
            state="active",
            password_hash=password_hash,
            oidc_subject=oidc_subject,
            is_owner=int(is_owner),
            created_at=at,
        )
    ).inserted_primary_key
    assert done is not None, "the insert of one row gives its key"
    number = int(done[0])
    conn.execute(sa.insert(schema.labeler).values(pseudonym=_new_pseudonym(conn), kind="human", account_id=number))
    return number


def _new_pseudonym(conn: Connection) -> str:
    while True:
        name = f"{secrets.choice(_ADJECTIVES)}-{secrets.choice(_NOUNS)}-{secrets.randbelow(900) + 100}"
        if conn.scalar(sa.select(schema.labeler.c.pseudonym).where(schema.labeler.c.pseudonym == name)) is None:
            return name


_WITH_NAME = sa.select(account, schema.labeler.c.pseudonym).join(
    schema.labeler, schema.labeler.c.account_id == account.c.id
)


def account_row(row: sa.Row[Any]) -> Account:
    return Account(
        id=row.id,
        email=row.email,
        state=row.state,
        password_hash=row.password_hash,
        totp_secret=row.totp_secret,
        totp_last=row.totp_last,
        oidc_subject=row.oidc_subject,
        is_owner=bool(row.is_owner),
        preferences=row.preferences or {},
        pseudonym=row.pseudonym,
    )


def get_account(store: Store, number: int) -> Account:
    found = _one(store, account.c.id == number)
    if found is None:
        raise StoreError(f"there is no account {number}.")
    return found


def account_by_email(store: Store, email: str) -> Account | None:
    return _one(store, account.c.email == email.strip().lower())


def account_by_oidc(store: Store, subject: str) -> Account | None:
    return _one(store, account.c.oidc_subject == subject)


def _one(store: Store, wanted: sa.ColumnElement[bool]) -> Account | None:
    with store.read() as conn:
        row = conn.execute(_WITH_NAME.where(wanted)).first()
    return account_row(row) if row else None


def has_owner(store: Store) -> bool:
    """Whether somebody owns this installation yet; until then only the one-time link leads in."""
    with store.read() as conn:
        return conn.scalar(sa.select(account.c.id).where(account.c.is_owner == 1).limit(1)) is not None


def create_first_owner(store: Store, link_hash: str, email: str, password_hash: str) -> Account:
    """The first owner, by the one-time link; of two who open it at the same moment one comes in."""
    link = desk_schema.setting
    with store.write() as conn:
        owned = conn.scalar(sa.select(account.c.id).where(account.c.is_owner == 1).limit(1)) is not None
        kept = conn.execute(sa.select(link.c.value).where(link.c.key == OWNER_LINK)).first()
        if owned or kept is None or kept.value != link_hash:
            raise StoreError("this link was used already. Sign in, or ask the owner for an invitation.")
        made = create_within(conn, store.now(), email, password_hash, None, True)
        conn.execute(sa.delete(link).where(link.c.key == OWNER_LINK))
    return get_account(store, made)


def change_account(store: Store, number: int, **values: Any) -> None:
    """Sets columns of an account: password_hash, totp_secret, oidc_subject, preferences, state, is_owner."""
    with store.write() as conn:
        conn.execute(sa.update(account).where(account.c.id == number).values(**values))


def use_totp_step(store: Store, number: int, step: int) -> bool:
    """Marks a time step of a one-time code as used. False when it, or a later one, was used before."""
    with store.write() as conn:
        done = conn.execute(
            sa.update(account).where(account.c.id == number, account.c.totp_last < step).values(totp_last=step)
        )
        return done.rowcount == 1


def erase_account(store: Store, number: int) -> str:
    """Forgets a person: address, password, sessions and memberships go; the judgements stay under the pseudonym,
    which nothing links to anybody any more. Returns that pseudonym.
    """
    with store.write() as conn:
        name = conn.scalar(sa.select(schema.labeler.c.pseudonym).where(schema.labeler.c.account_id == number))
        if name is None:
            raise StoreError(f"there is no account {number}.")
        conn.execute(sa.update(schema.labeler).where(schema.labeler.c.account_id == number).values(account_id=None))
        for table in (desk_schema.session, desk_schema.member):
            conn.execute(sa.delete(table).where(table.c.account_id == number))
        # The number stays taken: the audit names it, and must never mean somebody else by it.
        emptied = dict.fromkeys(("password_hash", "totp_secret", "oidc_subject", "preferences"))
        conn.execute(
            sa.update(account)
            .where(account.c.id == number)
            .values(email=f"erased {number}", state="closed", is_owner=0, created_at="", **emptied)
        )
    return str(name)


# Sessions.


def open_session(store: Store, number: int, *, seconds: float) -> str:
    """A new session's token, shown to the browser once."""
    token = secrets.token_urlsafe(32)
    row = {"token_hash": token_hash(token), "account_id": number, "expires_at": store.seconds() + seconds}
    with store.write() as conn:
        conn.execute(sa.delete(desk_schema.session).where(desk_schema.session.c.expires_at < store.seconds()))
        conn.execute(sa.insert(desk_schema.session).values(**row))
    return token


def of_session() -> sa.Select[Any]:
    """The account of the session `:token` that still holds at `:now`."""
    table = desk_schema.session
    return _WITH_NAME.join(table, table.c.account_id == account.c.id).where(
        table.c.token_hash == sa.bindparam("token"),
        table.c.expires_at > sa.bindparam("now"),
        account.c.state == "active",
    )


def session_account(store: Store, token: str) -> Account | None:
    """Whose session this is; None when it has run out, was closed, or the account was closed."""
    with store.read() as conn:
        row = conn.execute(of_session(), {"token": token_hash(token), "now": store.seconds()}).first()
    return account_row(row) if row else None


def close_session(store: Store, token: str) -> None:
    with store.write() as conn:
        conn.execute(sa.delete(desk_schema.session).where(desk_schema.session.c.token_hash == token_hash(token)))


def close_sessions(store: Store, number: int) -> None:
    """All sessions of an account: after a new password, or when somebody is removed."""
    with store.write() as conn:
        conn.execute(sa.delete(desk_schema.session).where(desk_schema.session.c.account_id == number))


# What the installation keeps about itself.


def get_setting(store: Store, key: str) -> Any:
    table = desk_schema.setting
    with store.read() as conn:
        row = conn.execute(sa.select(table.c.value).where(table.c.key == key)).first()
    return row.value if row else None


def set_setting(store: Store, key: str, value: Any) -> None:
    table = desk_schema.setting
    with store.write() as conn:
        conn.execute(sa.delete(table).where(table.c.key == key))
        conn.execute(sa.insert(table).values(key=key, value=value))
