"""Prompts: what completions answer. A prompt stands once, under the source that brought it first."""

import hashlib
import unicodedata
from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa

from tutelage.errors import StoreError
from tutelage.store import schema
from tutelage.store.db import Added, Store, chunks, insert_new
from tutelage.types import Prompt


def normalised(prompt: Prompt) -> str:
    """The first user turn in NFKC, lower case, with white space collapsed.

    Splits go by this text: all turns of one dialogue, and all spellings of one question, fall on the same side.
    """
    first = next(m.content for m in prompt.messages if m.role == "user")
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", first).lower())
    return " ".join(folded.split())


def norm_sha(prompt: Prompt) -> str:
    """Hex SHA-256 of the normalised prompt."""
    return hashlib.sha256(normalised(prompt).encode()).hexdigest()


def add_prompts(store: Store, prompts: Iterable[Prompt]) -> Added:
    """Stores prompts in order, each once: the same messages again change nothing, whatever their source."""
    added = Added()
    for chunk in chunks(prompts):
        rows = [
            {
                "id": p.id,
                "messages": [m.model_dump() for m in p.messages],
                "source": schema.plain("the source", p.source),
                "norm_sha": norm_sha(p),
            }
            for p in chunk
        ]
        with store.write() as conn:
            added += insert_new(conn, schema.prompt, rows)
    return added


def get_prompt(store: Store, prompt_id: str) -> Prompt:
    return get_prompts(store, [prompt_id])[0]


def get_prompts(store: Store, ids: Iterable[str] | None = None, source: str | None = None) -> list[Prompt]:
    """Prompts in the order in which they came; `ids` and `source` narrow them. An unknown id is refused."""
    query = sa.select(schema.prompt).order_by(schema.prompt.c.n)
    if source is not None:
        query = query.where(schema.prompt.c.source == source)
    with store.read() as conn:
        if ids is None:
            return [prompt_row(row) for row in conn.execute(query)]
        wanted = list(dict.fromkeys(ids))
        rows = [r for part in chunks(wanted) for r in conn.execute(query.where(schema.prompt.c.id.in_(part)))]
    if source is None and (missing := set(wanted) - {r.id for r in rows}):
        raise StoreError(f"there is no prompt {sorted(missing)[0]!r} in this store. Add the prompt first.")
    return [prompt_row(row) for row in sorted(rows, key=lambda r: int(r.n))]


def has_prompts(store: Store, ids: Iterable[str]) -> set[str]:
    """Those of the ids that the store holds."""
    found: set[str] = set()
    with store.read() as conn:
        for part in chunks(ids):
            found |= set(conn.scalars(sa.select(schema.prompt.c.id).where(schema.prompt.c.id.in_(part))))
    return found


def prompt_row(row: sa.Row[Any]) -> Prompt:
    return Prompt(messages=row.messages, source=row.source)
