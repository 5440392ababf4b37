"""What all readers share: fields of a row as texts, chats, prompts and rankings, or a named refusal of the row."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

from pydantic import ValidationError

from tutelage.formats.rows import Refusal
from tutelage.types import Demonstration, Message, Prompt, RankedGroup

Row = dict[str, Any]
Item = RankedGroup | Demonstration | Prompt
Reader = Callable[[Row], Iterable[Item]]
T = TypeVar("T")


class Refused(Exception):
    """Ends the reading of one row; never leaves this package."""

    def __init__(self, why: str, detail: str) -> None:
        super().__init__(why, detail)
        self.why, self.detail = why, detail


def read_each(
    rows: Iterable[tuple[str, Row]], reader: Callable[[Row], Iterable[T]]
) -> Iterator[tuple[str, T | Refusal]]:
    """Each object and each refusal, with its place. A row is taken or refused whole, and a bad row ends nothing."""
    for where, row in rows:
        try:
            items = list(reader(row))
        except Refused as e:
            yield where, Refusal(where, e.why, e.detail)
        except ValidationError as e:
            first = e.errors(include_url=False, include_input=False)[0]
            place = ".".join(str(part) for part in first["loc"])
            yield where, Refusal(where, "not a valid record", f"{place}: {first['msg']}".removeprefix(": "))
        except RecursionError:
            yield where, Refusal(where, "nested too deeply", "no field of feedback is; drop the row")
        else:
            yield from ((where, item) for item in items)


def text(row: Row, name: str) -> str:
    """A text that says something."""
    if name not in row:
        raise Refused(f"no {name!r}", f"the row has {sorted(row)}; give it {name!r}")
    return said(row[name], name)


def said(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise Refused(f"{name!r} is no text", f"expected a string, got {type(value).__name__}")
    if not value.strip():
        raise Refused("empty text", f"{name!r} is empty; a completion says something")
    return writable(value, name)


def writable(value: str, name: str) -> str:
    """Text that UTF-8 can hold: JSON may name half of a character, `"\\ud800"`, which no file can."""
    try:
        value.encode()
    except UnicodeEncodeError as e:
        raise Refused("half a character", f"{name!r} holds a lone surrogate at {e.start}; write the whole one") from e
    return value


def chat(value: Any, name: str) -> tuple[Message, ...]:
    """`[{"role": …, "content": …}, …]` as messages."""
    if not isinstance(value, list) or not value:
        raise Refused(f"{name!r} is no chat", f"expected a list of messages, got {type(value).__name__}")
    messages = []
    for i, m in enumerate(value):
        if not isinstance(m, dict) or not isinstance(m.get("role"), str) or not isinstance(m.get("content"), str):
            raise Refused(f"{name!r} is no chat", f"{name}[{i}]: expected role and content, both strings")
        if m["role"] not in ("system", "user", "assistant"):
            raise Refused("unknown role", f"{name}[{i}]: role {m['role']!r}; known are system, user, assistant")
        messages.append(Message(role=m["role"], content=writable(m["content"], name)))
    return tuple(messages)


def prompt(value: Any, source: str = "", name: str = "prompt") -> Prompt:
    """A string is one user turn; a chat is taken as it stands and ends with the user's turn."""
    messages = (Message(role="user", content=said(value, name)),) if isinstance(value, str) else chat(value, name)
    return whole_prompt(messages, source)


def whole_prompt(messages: Sequence[Message], source: str) -> Prompt:
    if not messages or messages[-1].role != "user":
        last = messages[-1].role if messages else "nothing"
        raise Refused(
            "the prompt does not end with the user's turn", f"it ends with {last}; answers follow a user's turn"
        )
    return Prompt(messages=tuple(messages), source=source or "import")


def name(row: Row, *fields: str) -> str:
    """The first of these fields that is there, as text: a labeler, a source, an id. Empty when none is."""
    for field in fields:
        value = row.get(field)
        if isinstance(value, bool) or not isinstance(value, str | int | None):
            raise Refused(f"{field!r} is no name", f"expected a string or a whole number, got {type(value).__name__}")
        if value is not None and value != "":
            return writable(str(value), field)
    return ""


def number(row: Row, field: str) -> float | None:
    """A finite number, also when a CSV cell holds it as text; None when the field is missing or null."""
    value = row.get(field)
    if value is None:
        return None
    try:
        found = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        found = math.nan
    if not math.isfinite(found):
        raise Refused(f"{field!r} is no number", f"expected a finite number, got {value!r:.40}")
    return found


def flag(row: Row, field: str) -> bool:
    value = row.get(field, False)
    if isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    if not isinstance(value, bool):
        raise Refused(f"{field!r} is neither true nor false", f"got {value!r:.40}")
    return value


def ranked(
    asked: Prompt,
    texts: Sequence[str],
    tiers: Sequence[int],
    *,
    labeler: str = "",
    source: str = "",
    margin: float | None = None,
    event: str = "",
    aspect: str = "",
    none_acceptable: bool = False,
    models: Sequence[str | None] = (),
    positions: Sequence[int] = (),
    seconds: float | None = None,
    guideline: str = "",
) -> RankedGroup:
    """A ranking that can be trained on, or a named refusal."""
    if len(texts) < 2:
        raise Refused("one completion", "a ranking of one completion compares nothing; give 2 to 9")
    if any(not t.strip() for t in texts):
        raise Refused("empty text", "a completion is empty; a completion says something")
    present = sorted(set(tiers))
    if present != list(range(1, len(present) + 1)):
        raise Refused("a gap in the tiers", f"tiers {present}; number them 1..{len(present)}, equal tiers are ties")
    tier_of: dict[str, int] = {}
    for t, tier in zip(texts, tiers, strict=True):
        if tier_of.setdefault(t, tier) != tier:
            raise Refused("identical completions", f"the same text stands in tiers {tier_of[t]} and {tier}: {t[:40]!r}")
    if len(texts) == 2 and texts[0] == texts[1]:
        raise Refused("identical completions", f"both say {texts[0][:40]!r}, so nothing is compared")
    return RankedGroup(
        prompt=asked,
        texts=tuple(texts),
        tiers=tuple(tiers),
        labeler=labeler,
        source=source,
        margin=margin,
        event=event,
        aspect=aspect or "overall",
        none_acceptable=none_acceptable,
        models=tuple(models) if any(models) else (),
        positions=tuple(positions),
        seconds=seconds,
        guideline=guideline,
    )


def dense(ranks: Sequence[float]) -> list[int]:
    """Ranks of any spacing as tiers 1..m, the smallest first: [0, 5, 5] gives [1, 2, 2]."""
    order = {rank: i + 1 for i, rank in enumerate(sorted(set(ranks)))}
    return [order[rank] for rank in ranks]
