"""Judgements as a chain of events that only grows: each holds the hash of the one before it.

`record` is the only way in, for people and for simulated labelers alike. What a judgement says lies in the event's
payload; rankings and ratings are laid out in tables of their own as well, for queries.
"""

import hashlib
import json
import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from tutelage.errors import ConflictError, StoreError
from tutelage.store import schema
from tutelage.store.db import BATCH, Store, chunks
from tutelage.types import (
    Adjudication,
    CorrectionGiven,
    Feedback,
    Flag,
    Judgement,
    Ranking,
    Rating,
    Skip,
    StoredFeedback,
)

event = schema.event

EVENT = "event:"  # begins the name of a judgement in files


@dataclass(frozen=True, slots=True)
class Head:
    """Where the chain ends. Keep it elsewhere to notice later that the newest events were cut off."""

    seq: int  # 0 in an empty store
    hash: str  # "" in an empty store


@dataclass(slots=True)
class _Known:
    """What the store holds of all that a batch names; the batch adds its own events as it goes."""

    labelers: set[str]
    source_of: dict[str, str]  # by prompt
    completion: dict[str, tuple[str, str | None]]  # its prompt and the completion that it corrects
    by_key: dict[str, tuple[str, StoredFeedback]]  # body hash and event, by idempotency key
    author_of: dict[int, tuple[str, str]]  # labeler and prompt of the events that are to be superseded
    heir_of: dict[int, int]  # and which event superseded them already


def record(store: Store, feedback: Feedback) -> StoredFeedback:
    """Stores one judgement, durably, and returns it numbered. See `record_many`."""
    return record_many(store, [feedback])[0]


def record_many(store: Store, feedbacks: Sequence[Feedback]) -> list[StoredFeedback]:
    """Stores judgements in one transaction: all or none. Each is checked against what the store holds.

    A key that is there already with the same body gives the event that is there, so a client may send again what it
    never saw acknowledged. The same key with another body is refused.
    """
    with store.write() as conn:
        return record_within(conn, store.now(), feedbacks)


def record_within(conn: Connection, at: str, feedbacks: Sequence[Feedback]) -> list[StoredFeedback]:
    """`record_many` as part of a larger writing transaction.

    at  the store's time
    """
    known = _look_up(conn, feedbacks)
    head = _head(conn)
    stored, rows = [], []
    for feedback in feedbacks:
        payload = schema.canonical(feedback.model_dump(mode="json"))
        body_sha = body_hash(payload)
        key = feedback.idempotency_key
        if key in known.by_key:
            old_sha, old = known.by_key[key]
            if old_sha != body_sha:
                raise ConflictError(
                    f"idempotency key {key!r} already stands for event {old.seq}, which says something else. "
                    f"Send the same body again, or make a new key for a new judgement."
                )
            stored.append(old)
            continue
        _check(feedback, known)
        row = _row(feedback, known, head, at, payload, body_sha)
        head = Head(row["seq"], row["hash"])
        new = StoredFeedback(seq=row["seq"], at=row["at"], hash=row["hash"], feedback=feedback)
        known.by_key[key] = (body_sha, new)
        known.author_of[new.seq] = (feedback.labeler, feedback.prompt_id)
        if feedback.supersedes is not None:
            known.heir_of[feedback.supersedes] = new.seq
        stored.append(new)
        rows.append((new, row))
    _insert(conn, rows)
    return stored


def _row(f: Feedback, known: _Known, head: Head, at: str, payload: str, body_sha: str) -> dict[str, Any]:
    return {
        "seq": head.seq + 1,
        "at": at,
        "prev_hash": head.hash,
        "hash": link(head.hash, head.seq + 1, at, body_sha),
        "idempotency_key": schema.plain("the idempotency key", f.idempotency_key),
        "body_sha": body_sha,
        "labeler": f.labeler,
        "prompt_id": f.prompt_id,
        "source": schema.plain("the source", f.source) or known.source_of[f.prompt_id],
        "kind": f.judgement.kind,
        "supersedes": f.supersedes,
        "payload": payload,
    }


def body_hash(payload: str) -> str:
    return hashlib.sha256(payload.encode()).hexdigest()


def link(prev_hash: str, seq: int, at: str, body_sha: str) -> str:
    """The hash of an event: over the one before it, its number, its time and its body."""
    return hashlib.sha256(f"{prev_hash}|{seq}|{at}|{body_sha}".encode()).hexdigest()


def _insert(conn: Connection, rows: list[tuple[StoredFeedback, dict[str, Any]]]) -> None:
    if rows:
        conn.execute(sa.insert(event), [row for _, row in rows])
    for table, typed in ((schema.ranking_entry, entries), (schema.rating, ratings)):
        if found := [r for new, _ in rows for r in typed(new)]:
            conn.execute(sa.insert(table), found)


def entries(stored: StoredFeedback) -> list[dict[str, Any]]:
    j = stored.feedback.judgement
    items = j.items if isinstance(j, Ranking | Adjudication) else ()
    return [{"event": stored.seq, "completion": i.completion_id, "tier": i.tier} for i in items]


def ratings(stored: StoredFeedback) -> list[dict[str, Any]]:
    j = stored.feedback.judgement
    if not isinstance(j, Rating):
        return []
    aspect = schema.plain("the aspect", j.aspect)
    return [{"event": stored.seq, "completion": j.completion_id, "aspect": aspect, "value": j.value}]


# What a judgement must be true of.


def event_id(feedback: Feedback) -> str:
    """The name of a judgement in files: it outlives export and import, which a seq does not."""
    return f"{EVENT}{feedback.idempotency_key}"


def completions_named(judgement: Judgement) -> tuple[str, ...]:
    """Ids of the completions that a judgement is about."""
    match judgement:
        case Ranking() | Adjudication():
            return tuple(i.completion_id for i in judgement.items)
        case CorrectionGiven():
            return (judgement.completion_id, judgement.corrected_id)
        case Flag():
            return (judgement.completion_id,) if judgement.completion_id else ()
        case Skip():
            return ()
        case _:
            return (judgement.completion_id,)


# The statements stand ready: to put one together takes longer than to run it, and each answer runs them.
_EACH: sa.BindParameter[Any] = sa.bindparam("each", expanding=True)
_LABELERS = sa.select(schema.labeler.c.pseudonym).where(schema.labeler.c.pseudonym.in_(_EACH))
_PROMPTS = sa.select(schema.prompt.c.id, schema.prompt.c.source).where(schema.prompt.c.id.in_(_EACH))
_COMPLETIONS = sa.select(schema.completion.c.id, schema.completion.c.prompt_id, schema.completion.c.parent).where(
    schema.completion.c.id.in_(_EACH)
)
_BY_KEY = sa.select(event).where(event.c.idempotency_key.in_(_EACH))
_BY_SEQ = sa.select(event).where(event.c.seq.in_(_EACH))
_HEIRS = sa.select(event).where(event.c.supersedes.in_(_EACH))


def _look_up(conn: Connection, feedbacks: Sequence[Feedback]) -> _Known:
    known = _Known(set(), {}, {}, {}, {}, {})
    for part in chunks({f.labeler for f in feedbacks}):
        known.labelers |= set(conn.scalars(_LABELERS, {"each": part}))
    for part in chunks({f.prompt_id for f in feedbacks}):
        known.source_of |= {r.id: r.source for r in conn.execute(_PROMPTS, {"each": part})}
    for part in chunks({i for f in feedbacks for i in (*completions_named(f.judgement), *f.shown)}):
        known.completion |= {r.id: (r.prompt_id, r.parent) for r in conn.execute(_COMPLETIONS, {"each": part})}
    for part in chunks({f.idempotency_key for f in feedbacks} | _decided_keys(feedbacks)):
        for row in conn.execute(_BY_KEY, {"each": part}):
            known.by_key[row.idempotency_key] = (row.body_sha, stored_row(row))
    for seqs in chunks({f.supersedes for f in feedbacks if f.supersedes is not None}):
        for row in conn.execute(_BY_SEQ, {"each": seqs}):
            known.author_of[row.seq] = (row.labeler, row.prompt_id)
        for row in conn.execute(_HEIRS, {"each": seqs}):
            known.heir_of[row.supersedes] = row.seq
    return known


def _decided_keys(feedbacks: Sequence[Feedback]) -> set[str]:
    decisions = [f.judgement for f in feedbacks if isinstance(f.judgement, Adjudication)]
    return {name.removeprefix(EVENT) for j in decisions for name in j.decided}


def _check(f: Feedback, known: _Known) -> None:
    """Raises StoreError, naming the judgement by its key, unless all that it names is there and fits together."""
    where, named = f"judgement {f.idempotency_key!r}", completions_named(f.judgement)
    if f.labeler not in known.labelers:
        raise StoreError(f"{where}: there is no labeler {f.labeler!r} in this store. Add the labeler first.")
    if f.prompt_id not in known.source_of:
        raise StoreError(f"{where}: there is no prompt {f.prompt_id!r} in this store. Add the prompt first.")
    for i in (*named, *f.shown):
        if i not in known.completion:
            raise StoreError(f"{where}: there is no completion {i!r} in this store. Add the completion first.")
        if known.completion[i][0] != f.prompt_id:
            raise StoreError(f"{where}: completion {i!r} answers another prompt than {f.prompt_id!r}. Check the ids.")
    j = f.judgement
    if isinstance(j, Ranking | Adjudication) and f.shown and (len(f.shown) != len(named) or set(f.shown) != set(named)):
        raise StoreError(
            f"{where}: {len(f.shown)} completions were shown and {len(named)} ranked, or not the same ones. "
            f"A ranking places each completion that was shown exactly once."
        )
    if isinstance(j, Adjudication):
        _check_decided(where, f.prompt_id, j, known)
    if isinstance(j, CorrectionGiven) and known.completion[j.corrected_id][1] != j.completion_id:
        raise StoreError(
            f"{where}: {j.corrected_id!r} is not stored as a correction of {j.completion_id!r}. "
            f"Store the new text as a completion whose parent is the original; corrected_id names the new one."
        )
    if isinstance(j, Rating) and not math.isfinite(j.value):
        raise StoreError(f"{where}: the rating is {j.value}. Give a finite number.")
    if f.supersedes is not None:
        _check_supersedes(f, f.supersedes, known)


def _check_decided(where: str, prompt_id: str, j: Adjudication, known: _Known) -> None:
    """Raises StoreError unless what is decided between is there, about the same prompt."""
    for name in j.decided:
        key = name.removeprefix(EVENT)
        if not name.startswith(EVENT) or key not in known.by_key:
            raise StoreError(f"{where}: it decides {name!r}, but there is no such judgement in this store.")
        if known.by_key[key][1].feedback.prompt_id != prompt_id:
            raise StoreError(f"{where}: it decides {name!r}, which is about another prompt. Check the ids.")


def _check_supersedes(f: Feedback, old: int, known: _Known) -> None:
    where = f"judgement {f.idempotency_key!r}"
    if old not in known.author_of:
        raise StoreError(f"{where}: it replaces event {old}, which is not there. Check the number.")
    if known.author_of[old] != (f.labeler, f.prompt_id):
        raise StoreError(
            f"{where}: event {old} is by another labeler or about another prompt, so it cannot be replaced."
        )
    if old in known.heir_of:
        raise ConflictError(
            f"{where}: event {old} was replaced by event {known.heir_of[old]} already. Replace that one."
        )


# Reading.


def stored_row(row: sa.Row[Any]) -> StoredFeedback:
    """An event as read from its table."""
    return StoredFeedback(seq=row.seq, at=row.at, hash=row.hash, feedback=Feedback.model_validate_json(row.payload))


_NEWEST = sa.select(event.c.seq, event.c.hash).order_by(event.c.seq.desc()).limit(1)


def _head(conn: Connection) -> Head:
    row = conn.execute(_NEWEST).first()
    return Head(row.seq, row.hash) if row else Head(0, "")


def head(store: Store) -> Head:
    """The newest event."""
    with store.read() as conn:
        return _head(conn)


def find(store: Store, keys: Collection[str]) -> dict[str, StoredFeedback]:
    """The events that stand under these idempotency keys."""
    found = {}
    with store.read() as conn:
        for part in chunks(keys):
            for row in conn.execute(sa.select(event).where(event.c.idempotency_key.in_(part))):
                found[row.idempotency_key] = stored_row(row)
    return found


def among(
    kinds: Collection[str] | None, labelers: Collection[str] | None, sources: Collection[str] | None
) -> list[sa.ColumnElement[bool]]:
    """Conditions on `event`; None leaves a column free, an empty collection matches nothing."""
    pairs = ((event.c.kind, kinds), (event.c.labeler, labelers), (event.c.source, sources))
    return [column.in_(list(wanted)) for column, wanted in pairs if wanted is not None]


def not_superseded(upto_seq: int) -> sa.ColumnElement[bool]:
    """True of an event that nothing replaced up to this seq."""
    heir = event.alias("heir")
    return ~sa.exists().where(heir.c.supersedes == event.c.seq, heir.c.seq <= upto_seq)


def events(
    store: Store,
    *,
    kinds: Collection[str] | None = None,
    after_seq: int = 0,
    upto_seq: int | None = None,
    labelers: Collection[str] | None = None,
    sources: Collection[str] | None = None,
) -> Iterator[StoredFeedback]:
    """Events in the order of seq, read page by page: up to `upto_seq`, or to the newest one when the reading starts."""
    upto = head(store).seq if upto_seq is None else upto_seq
    yield from _pages(store, among(kinds, labelers, sources), after_seq, upto)


def current(
    store: Store,
    *,
    kinds: Collection[str] | None = None,
    after_seq: int = 0,
    upto_seq: int | None = None,
    labelers: Collection[str] | None = None,
    sources: Collection[str] | None = None,
) -> Iterator[StoredFeedback]:
    """Like `events`, without those that a later event (up to `upto_seq`) replaced: what people say now."""
    upto = head(store).seq if upto_seq is None else upto_seq
    yield from _pages(store, [*among(kinds, labelers, sources), not_superseded(upto)], after_seq, upto)


def _pages(store: Store, wanted: list[sa.ColumnElement[bool]], after: int, upto: int) -> Iterator[StoredFeedback]:
    # No transaction is open while the caller works on a page: a slow reader holds up nobody.
    while True:
        query = sa.select(event).where(event.c.seq > after, event.c.seq <= upto, *wanted)
        with store.read() as conn:
            page = [stored_row(row) for row in conn.execute(query.order_by(event.c.seq).limit(BATCH))]
        yield from page
        if len(page) < BATCH:
            return
        after = page[-1].seq


def count(
    store: Store,
    *,
    kind: str | None = None,
    sources: Collection[str] | None = None,
    labelers: Collection[str] | None = None,
) -> int:
    """How many judgements stand now; one that was replaced counts no more."""
    with store.read() as conn:
        wanted = [*among(None if kind is None else [kind], labelers, sources), not_superseded(_head(conn).seq)]
        return int(conn.scalar(sa.select(sa.func.count()).select_from(event).where(*wanted)) or 0)


def active_times(store: Store, labeler: str) -> list[int]:
    """Milliseconds of work on each of a labeler's answers. An answer of several judgements took its time once."""
    query = sa.select(event.c.idempotency_key, event.c.payload).where(event.c.labeler == labeler)
    with store.read() as conn:
        rows = [(key, json.loads(payload)["active_ms"]) for key, payload in conn.execute(query)]
    return [ms for key, ms in rows if ms and ":" not in key]
