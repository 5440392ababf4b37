"""Preference pairs as TRL has them: `prompt`, `chosen`, `rejected`, texts or chats; the prompt may be implicit.

`margin` 0 or `tie` true is a tie, as in the WebGPT comparisons: then the order of the two means nothing.
"""

from collections.abc import Iterator

from tutelage.formats import fields
from tutelage.formats.fields import Refused, Row
from tutelage.types import Message, Prompt, RankedGroup


def read(row: Row) -> Iterator[RankedGroup]:
    """`{"prompt": "Hi", "chosen": "Hello!", "rejected": "What?", "margin": 1.0, "labeler": "ann", "id": 7}`."""
    for side in ("chosen", "rejected"):
        if side not in row:
            raise Refused(f"no {side!r}", "one side alone compares nothing; give both, or use it as a demonstration")
    source = fields.name(row, "source")
    asked, texts = _explicit(row, source) if "prompt" in row else _implicit(row, source)
    margin = fields.number(row, "margin")
    if margin is not None and margin < 0:
        raise Refused("a negative margin", f"margin {margin} says that the rejected one is better; exchange the two")
    is_tie = margin == 0 or fields.flag(row, "tie")
    labeler, event = fields.name(row, "labeler"), fields.name(row, "id")
    tiers = (1, 1) if is_tie else (1, 2)
    aspect = fields.name(row, "aspect")
    yield fields.ranked(asked, texts, tiers, labeler=labeler, source=source, margin=margin, event=event, aspect=aspect)


def _explicit(row: Row, source: str) -> tuple[Prompt, list[str]]:
    asked = fields.prompt(row["prompt"], source)
    return asked, [_answer(row, side, asked.messages) for side in ("chosen", "rejected")]


def _answer(row: Row, side: str, before: tuple[Message, ...]) -> str:
    """A text, or a chat that is the assistant's turn alone or with the prompt before it."""
    if not isinstance(row[side], list):
        return fields.text(row, side)
    messages = fields.chat(row[side], side)
    if messages[: len(before)] == before:
        messages = messages[len(before) :]
    return _one_turn(messages, side)


def _one_turn(messages: tuple[Message, ...], side: str) -> str:
    if [m.role for m in messages] != ["assistant"]:
        raise Refused(
            "not one assistant's turn",
            f"{side!r} holds the turns {[m.role for m in messages]} behind the prompt; give one",
        )
    return fields.said(messages[0].content, side)


def _implicit(row: Row, source: str) -> tuple[Prompt, list[str]]:
    """What both sides begin with is the prompt."""
    if isinstance(row["chosen"], list):
        sides = [fields.chat(row[side], side) for side in ("chosen", "rejected")]
        n = _common(*sides)
        asked = fields.whole_prompt(sides[0][:n], source)
        return asked, [_one_turn(m[n:], side) for m, side in zip(sides, ("chosen", "rejected"), strict=True)]
    chosen, rejected = fields.text(row, "chosen"), fields.text(row, "rejected")
    n = _common(chosen, rejected)
    if 0 < n < len(chosen) and chosen[n - 1] == " ":  # TRL's rule: the space belongs to the answer
        n -= 1
    if not chosen[:n].strip():
        raise Refused("no prompt", "there is no 'prompt', and chosen and rejected begin differently; give the prompt")
    return fields.prompt(chosen[:n], source), [chosen[n:], rejected[n:]]


def _common(a: str | tuple[Message, ...], b: str | tuple[Message, ...]) -> int:
    """How far both begin alike."""
    n = 0
    while n < min(len(a), len(b)) and a[n] == b[n]:
        n += 1
    return n
