"""Labelers, who are pseudonyms, and the accounts behind some of them. Knows no password, no session and no role."""

import sqlalchemy as sa

from tutelage.errors import StoreError
from tutelage.store import schema
from tutelage.store.db import Store
from tutelage.types import Labeler, LabelerKind


def add_account(store: Store, email: str) -> int:
    """The number of the account with this address, made when it is new. Addresses differ by more than case."""
    address = schema.plain("the address", email.strip().lower())
    table = schema.account
    with store.write() as conn:
        known = conn.scalar(sa.select(table.c.id).where(table.c.email == address))
        if known is not None:
            return int(known)
        made = conn.execute(sa.insert(table).values(email=address, state="active")).inserted_primary_key
        assert made is not None, "the insert of one row gives its key"
        return int(made[0])


def add_labeler(store: Store, labeler: Labeler, account: int | None = None) -> None:
    """Adds a pseudonym. The same again changes nothing; another kind under the same name is refused."""
    table = schema.labeler
    name = schema.plain("the pseudonym", labeler.pseudonym)
    with store.write() as conn:
        known = conn.scalar(sa.select(table.c.kind).where(table.c.pseudonym == name))
        if known is None:
            if account is not None and conn.scalar(sa.select(schema.account.c.id).filter_by(id=account)) is None:
                raise StoreError(f"labeler {name!r}: there is no account {account}. Add the account first.")
            conn.execute(sa.insert(table).values(pseudonym=name, kind=labeler.kind, account_id=account))
        elif known != labeler.kind:
            raise StoreError(
                f"labeler {name!r} is of kind {known!r} in this store, not {labeler.kind!r}: reports must be able to "
                f"tell people from machines. Use another pseudonym."
            )


def labelers(store: Store) -> list[Labeler]:
    """All pseudonyms, by name."""
    table = schema.labeler
    with store.read() as conn:
        rows = conn.execute(sa.select(table.c.pseudonym, table.c.kind).order_by(table.c.pseudonym)).all()
    return [Labeler(pseudonym=r.pseudonym, kind=r.kind) for r in rows]


def labeler_kinds(store: Store) -> dict[str, LabelerKind]:
    """{pseudonym: kind}."""
    return {one.pseudonym: one.kind for one in labelers(store)}
