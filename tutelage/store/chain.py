"""Whether the log is what was recorded: numbers without gaps, each body as hashed, each hash upon the one before it.

Events cut off the end leave a shorter chain that is sound in itself. A snapshot taken after them gives it away, and so
does a head that was kept elsewhere.
"""

from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from tutelage.errors import StoreError
from tutelage.store import completions, feedback, prompts, schema
from tutelage.store.db import BATCH, Store
from tutelage.store.feedback import Head, link
from tutelage.types import StoredFeedback

event = schema.event


def verify_chain(store: Store) -> Head:
    """Reads everything once and returns the newest event. Raises StoreError naming the first thing tampered with.

    The ids of prompts and completions are hashes of what they hold, so the chain vouches for the texts as well.
    """
    _verify_texts(store)
    with store.read() as conn:
        marks = _snapshot_marks(conn)
    last = Head(0, "")
    while page := _page(store, last.seq):
        for row, typed in page:
            _check_event(row, last, typed)
            last = Head(row.seq, row.hash)
            if marks.pop(row.seq, set()) - {row.hash}:
                raise StoreError(f"event {row.seq} has another hash than a snapshot noted: the log was written anew.")
    if lost := sorted(marks):
        raise StoreError(
            f"the log ends at event {last.seq}, but a snapshot was taken at event {lost[0]}: events were removed."
        )
    return last


def _verify_texts(store: Store) -> None:
    for table, read in ((schema.prompt, prompts.prompt_row), (schema.completion, completions.completion_row)):
        after = 0
        while True:
            query = sa.select(table).where(table.c.n > after).order_by(table.c.n).limit(BATCH)
            with store.read() as conn:
                rows = list(conn.execute(query))
            for row in rows:
                if read(row).id != row.id:
                    raise StoreError(
                        f"{table.name} {row.id!r} no longer says what its id is the hash of. It was tampered with."
                    )
            if len(rows) < BATCH:
                break
            after = rows[-1].n


def _page(store: Store, after: int) -> list[tuple[sa.Row[Any], list[tuple[Any, ...]]]]:
    """The next events, each with its rows in the typed tables."""
    query = sa.select(event, schema.prompt.c.source.label("prompt_source")).join(schema.prompt)
    with store.read() as conn:
        rows = list(conn.execute(query.where(event.c.seq > after).order_by(event.c.seq).limit(BATCH)))
        typed: dict[int, list[tuple[Any, ...]]] = {row.seq: [] for row in rows}
        for table in (schema.ranking_entry, schema.rating):
            for row in conn.execute(sa.select(table).where(table.c.event.in_(typed))):
                typed[row.event].append(tuple(row)[1:])
    return [(row, typed[row.seq]) for row in rows]


def _snapshot_marks(conn: Connection) -> dict[int, set[str]]:
    """Hashes that snapshots noted, by seq."""
    marks: dict[int, set[str]] = {}
    for row in conn.execute(sa.select(schema.snapshot).where(schema.snapshot.c.seq_upto > 0)):
        marks.setdefault(row.seq_upto, set()).add(row.chain_hash)
    return marks


def _check_event(row: sa.Row[Any], before: Head, typed: list[tuple[Any, ...]]) -> None:
    if row.seq != before.seq + 1:
        raise StoreError(f"event {before.seq + 1} is missing: the log goes on with {row.seq}. It was tampered with.")
    if row.prev_hash != before.hash or row.hash != link(before.hash, row.seq, row.at, row.body_sha):
        raise StoreError(f"event {row.seq}: its hash does not follow from event {before.seq}. It was tampered with.")
    if feedback.body_hash(row.payload) != row.body_sha:
        raise StoreError(f"event {row.seq}: its body is not the one that was recorded. It was tampered with.")
    stored = feedback.stored_row(row)
    f = stored.feedback
    laid_out = (row.idempotency_key, row.labeler, row.prompt_id, row.kind, row.supersedes, row.source)
    source = f.source or row.prompt_source
    if laid_out != (f.idempotency_key, f.labeler, f.prompt_id, f.judgement.kind, f.supersedes, source):
        raise StoreError(f"event {row.seq}: its columns say something else than its body. It was tampered with.")
    if sorted(typed) != sorted(_expected(stored)):
        raise StoreError(f"event {row.seq}: its tiers or grades differ from its body. They were tampered with.")


def _expected(stored: StoredFeedback) -> list[tuple[Any, ...]]:
    rows = [*feedback.entries(stored), *feedback.ratings(stored)]
    return [tuple(v for k, v in r.items() if k != "event") for r in rows]
