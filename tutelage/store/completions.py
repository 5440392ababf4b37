"""Completions: what a model or a person wrote under a prompt, with the tokens and log-probabilities of the sampler."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from tutelage.errors import StoreError
from tutelage.store import schema
from tutelage.store.db import Added, Store, chunks, insert_new
from tutelage.types import Completion

FIELDS = tuple(Completion.model_fields)


def add_completions(store: Store, completions: Iterable[Completion]) -> Added:
    """Stores completions in order, each once. The prompt, and the completion that one corrects, must be there."""
    added = Added()
    for chunk in chunks(completions):
        with store.write() as conn:
            added += add_within(conn, chunk)
    return added


def add_within(conn: Connection, completions: Sequence[Completion]) -> Added:
    """`add_completions` as part of a larger writing transaction."""
    rows = [{"id": c.id, **{name: getattr(c, name) for name in FIELDS}} for c in completions]
    for row in rows:
        row["model_version"] = row["model_version"] and schema.plain("the model version", row["model_version"])
    _check_prompts(conn, completions)
    _check_parents(conn, completions)
    return insert_new(conn, schema.completion, rows)


def _check_prompts(conn: Connection, chunk: Sequence[Completion]) -> None:
    wanted = {c.prompt_id for c in chunk}
    there = set(conn.scalars(sa.select(schema.prompt.c.id).where(schema.prompt.c.id.in_(wanted))))
    if missing := sorted(wanted - there):
        raise StoreError(
            f"a completion answers the prompt {missing[0]!r}, which is not in this store. Add the prompt first."
        )


def _check_parents(conn: Connection, chunk: Sequence[Completion]) -> None:
    """A parent lies in the store, or earlier in the chunk, and answers the same prompt."""
    table = schema.completion
    parents = {c.parent for c in chunk if c.parent}
    prompt_of = {
        r.id: r.prompt_id for r in conn.execute(sa.select(table.c.id, table.c.prompt_id).where(table.c.id.in_(parents)))
    }
    for c in chunk:
        if c.parent and c.parent not in prompt_of:
            raise StoreError(
                f"completion {c.id!r} corrects {c.parent!r}, which is not in this store. Add that one first."
            )
        if c.parent and prompt_of[c.parent] != c.prompt_id:
            raise StoreError(f"completion {c.id!r} corrects {c.parent!r}, which answers another prompt. Check the ids.")
        prompt_of[c.id] = c.prompt_id


def get_completion(store: Store, completion_id: str) -> Completion:
    return get_completions(store, [completion_id])[0]


def get_completions(store: Store, ids: Iterable[str]) -> list[Completion]:
    """One completion for each id, in the order of the ids. An unknown id is refused."""
    wanted = list(ids)
    found: dict[str, Completion] = {}
    with store.read() as conn:
        for part in chunks(dict.fromkeys(wanted)):
            for row in conn.execute(sa.select(schema.completion).where(schema.completion.c.id.in_(part))):
                found[row.id] = completion_row(row)
    if missing := [i for i in wanted if i not in found]:
        raise StoreError(f"there is no completion {missing[0]!r} in this store. Add the completion first.")
    return [found[i] for i in wanted]


def models_named(store: Store, ids: Iterable[str]) -> dict[str, int]:
    """How many of these completions each model version wrote; those of people and of unknown models are left out."""
    table, found = schema.completion, Counter[str]()
    with store.read() as conn:
        for part in chunks(dict.fromkeys(ids)):
            query = sa.select(table.c.model_version, sa.func.count().label("n"))
            query = query.where(table.c.id.in_(part), table.c.model_version.is_not(None))
            for row in conn.execute(query.group_by(table.c.model_version)):
                found[row.model_version] += int(row.n)
    return dict(sorted(found.items()))


def completions_of(store: Store, prompt_id: str, model_version: str | None = None) -> list[Completion]:
    """The completions of one prompt in the order in which they came, those of one model version when it is given."""
    table = schema.completion
    query = sa.select(table).where(table.c.prompt_id == prompt_id).order_by(table.c.n)
    if model_version is not None:
        query = query.where(table.c.model_version == model_version)
    with store.read() as conn:
        return [completion_row(row) for row in conn.execute(query)]


def completion_row(row: sa.Row[Any]) -> Completion:
    return Completion(**{name: getattr(row, name) for name in FIELDS})
