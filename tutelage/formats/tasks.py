"""Tasks for people: `{"prompt": …, "completions": ["…", {"text": …, "model": …}], "kind": "rank", "overlap": 2, …}`.

Only `prompt` is needed; without completions it asks for a demonstration. `gold` is the known answer of a check, a tier
for each completion; with `practice` it teaches. In CSV, completions may stand as completion_1, completion_2, ….
"""

import json
import math
from collections.abc import Iterator
from typing import Any, Literal, get_args

from pydantic import Field

from tutelage.formats import fields
from tutelage.formats.fields import Refused, Row
from tutelage.types import Fact, Prompt

Kind = Literal["rank", "compare", "demonstrate", "correct", "critique", "chat"]
KINDS: tuple[Kind, ...] = get_args(Kind)
FIELDS = frozenset(
    {"prompt", "completions", "kind", "overlap", "priority", "gold", "explanation", "practice", "source"}
)
MOST = 9  # completions
MAX_OVERLAP = 50  # people who judge one task
COLUMNS = {f"{what}_{i}" for what in ("completion", "model") for i in range(1, MOST + 1)}


class TaskRow(Fact):
    """One task as a file gives it. Example: `TaskRow(prompt=…, texts=("Sure.", "No."), models=("a", None))`."""

    prompt: Prompt
    texts: tuple[str, ...] = ()
    models: tuple[str | None, ...] = ()
    kind: Kind
    overlap: int | None = Field(default=None, ge=1, le=MAX_OVERLAP)  # None: the project's
    priority: float = 0.0
    gold: tuple[int, ...] | None = None  # a tier for each text
    explanation: str = ""
    practice: bool = False


def is_task(row: Row) -> bool:
    """Whether a row looks like a task: a prompt, and completions that nobody has put in order."""
    if "prompt" not in row or {"completion", "chosen", "rejected"} & set(row):
        return False
    given = row["completions"] if isinstance(row.get("completions"), list) else []
    return "kind" in row or not any(isinstance(c, dict) and "tier" in c for c in given)


def read(row: Row) -> Iterator[TaskRow]:
    """`{"prompt": "Hi", "completions": ["Hello!", "What?"]}`."""
    if unknown := sorted(set(row) - FIELDS - COLUMNS):
        raise Refused("an unknown field", f"{unknown[0]!r} is none of {', '.join(sorted(FIELDS))}; rename or drop it")
    asked = fields.prompt(row.get("prompt"), "import")
    texts, models = _completions(row)
    kind = _kind(row, len(texts))
    practice = fields.flag(row, "practice")
    gold = _gold(row, len(texts))
    if practice and gold is None:
        raise Refused("practice without an answer", "give 'gold', a tier for each completion, or leave 'practice' out")
    if gold is not None and kind not in ("rank", "compare"):
        raise Refused("a known answer to no ranking", f"'gold' holds tiers, but the task is to {kind}; leave it out")
    priority = fields.number(row, "priority")
    explanation = row.get("explanation")
    if explanation is not None and not isinstance(explanation, str):
        raise Refused("'explanation' is no text", f"expected a string, got {type(explanation).__name__}")
    yield TaskRow(
        prompt=asked,
        texts=tuple(texts),
        models=tuple(models),
        kind=kind,
        overlap=_overlap(row),
        priority=priority or 0.0,
        gold=gold,
        explanation=fields.writable(explanation or "", "explanation"),
        practice=practice,
    )


def _completions(row: Row) -> tuple[list[str], list[str | None]]:
    given = row.get("completions")
    if isinstance(given, str):  # a cell of CSV
        given = _list(given, "completions")
    if given is None:
        given = [
            {"text": row[f"completion_{i}"], "model": row.get(f"model_{i}")}
            for i in range(1, MOST + 1)
            if f"completion_{i}" in row
        ]
    if not isinstance(given, list):
        raise Refused("'completions' is no list", f"expected a list of texts, got {type(given).__name__}")
    if len(given) > MOST:
        raise Refused(f"more than {MOST} completions", f"{len(given)} are given; leave some out")
    texts: list[str] = []
    models: list[str | None] = []
    for i, one in enumerate(given):
        place = f"completions[{i}]"
        if isinstance(one, dict) and (unknown := sorted(set(one) - {"text", "model"})):
            raise Refused("an unknown field", f"{place} holds {unknown[0]!r}; known are text and model")
        is_named = isinstance(one, dict)
        texts.append(fields.said(one.get("text") if is_named else one, f"{place}.text" if is_named else place))
        models.append((fields.name(one, "model") or None) if is_named else None)
    return texts, models


def _kind(row: Row, n: int) -> Kind:
    """What the row says, or what its completions are good for."""
    said = row.get("kind")
    if said is None:
        return "demonstrate" if n == 0 else "correct" if n == 1 else "compare" if n == 2 else "rank"
    found: list[Kind] = [kind for kind in KINDS if kind == said]
    if not found:
        raise Refused("an unknown kind", f"'kind': expected one of {', '.join(KINDS)}, got {said!r:.40}")
    return found[0]


def _overlap(row: Row) -> int | None:
    value = fields.number(row, "overlap")
    if value is None:
        return None
    if value != math.floor(value) or not 1 <= value <= MAX_OVERLAP:
        raise Refused("no number of people", f"'overlap': expected 1 to {MAX_OVERLAP}, got {row['overlap']!r:.40}")
    return int(value)


def _gold(row: Row, n: int) -> tuple[int, ...] | None:
    given: Any = row.get("gold")
    if given is None:
        return None
    if isinstance(given, str):
        given = _list(given if given.startswith("[") else f"[{given}]", "gold")
    if not isinstance(given, list) or any(isinstance(t, bool) or not isinstance(t, int) for t in given):
        raise Refused("'gold' is no list of tiers", f"expected whole numbers, 1 is best, got {given!r:.40}")
    if len(given) != n:
        raise Refused("'gold' is no list of tiers", f"expected {n} tiers, one a completion, got {len(given)}")
    if sorted(set(given)) != list(range(1, len(set(given)) + 1)):
        raise Refused("a gap in the tiers", f"'gold' is {given!r:.60}; number them 1, 2, 3, …, equal tiers are ties")
    return tuple(given)


def _list(cell: str, name: str) -> list[Any]:
    try:
        found = json.loads(cell)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, list):
        raise Refused(f"{name!r} is no list", f"expected a JSON list, got {cell[:40]!r}")
    return found
