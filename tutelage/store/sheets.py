"""All that the page of one task needs, and all that an answer to it is judged by: each in one look at the store."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from tutelage.store import desk_schema, schema
from tutelage.store.assignments import Held, drafts_within, find_within
from tutelage.store.db import Store
from tutelage.store.prompts import prompt_row
from tutelage.types import Prompt

completion, versions = schema.completion, desk_schema.project_guideline


@dataclass(frozen=True, slots=True)
class Sheet:
    """A task in somebody's hands with what she sees of it."""

    held: Held
    prompt: Prompt
    texts: list[str]  # of the cards, in the order of presentation
    draft: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class InHand:
    """What an answer is about."""

    held: Held
    texts: list[str]
    guideline: str | None  # the id of the version in force


# The statements stand ready: to put one together takes longer than to run it, and each task runs them.
_PROMPT = sa.select(schema.prompt).where(schema.prompt.c.id == sa.bindparam("id"))
_TEXTS = sa.select(completion.c.id, completion.c.text).where(completion.c.id.in_(sa.bindparam("ids", expanding=True)))
_IN_FORCE = (
    sa.select(versions.c.guideline_id)
    .where(versions.c.project_id == sa.bindparam("project"))
    .order_by(versions.c.version.desc())
    .limit(1)
)


def sheet(store: Store, held: Held) -> Sheet:
    """A task as its page shows it."""
    with store.read() as conn:
        prompt = prompt_row(conn.execute(_PROMPT, {"id": held.task.prompt_id}).one())
        kept = drafts_within(conn, [held.id])
        return Sheet(held, prompt, _texts(conn, held.cards), kept[held.id] if held.id in kept else None)


def in_hand(store: Store, project_id: int, labeler: str, number: str) -> InHand | None:
    """An assignment of this labeler in this project; None for anybody else's."""
    with store.read() as conn:
        held = find_within(conn, project_id, labeler, number)
        if held is None:
            return None
        return InHand(held, _texts(conn, held.cards), conn.scalar(_IN_FORCE, {"project": project_id}))


def _texts(conn: Connection, cards: Sequence[Sequence[str]]) -> list[str]:
    """The text of each card; the completions of one card say the same."""
    firsts = [card[0] for card in cards]
    text_of = {row.id: row.text for row in conn.execute(_TEXTS, {"ids": firsts})}
    return [text_of[number] for number in firsts]
