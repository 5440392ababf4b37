"""Open-Assistant trees: each reply group with ranks is a ranking (rank 0 is best), each best reply a demonstration.

A user's turn that nobody answered is a prompt. Deleted and refused messages are left out with all below them, and so
are texts by a model as demonstrations. The ranks are aggregates over people, so no labeler is named.
"""

from collections.abc import Iterator

from tutelage.formats import fields
from tutelage.formats.fields import Item, Refused, Row
from tutelage.types import Demonstration, Message, Prompt

ROLES = {"prompter": "user", "assistant": "assistant"}
MAX_TURNS = 200


def read(row: Row) -> Iterator[Item]:
    """One tree a row: `{"message_tree_id": …, "prompt": {"text": …, "role": "prompter", "replies": […]}}`."""
    source = fields.name(row, "source")
    # A stack, not recursion: a long dialogue is no reason to fail.
    todo: list[tuple[Row, tuple[Message, ...]]] = [(_node(row.get("prompt")), ())]
    while todo:
        node, before = todo.pop()
        role = ROLES.get(str(node.get("role")))
        if role is None:
            raise Refused("unknown role", f"role {node.get('role')!r}; known are prompter and assistant")
        if len(before) >= MAX_TURNS:
            raise Refused("a tree too deep", f"more than {MAX_TURNS} turns follow one another")
        here = (*before, Message.model_validate({"role": role, "content": fields.text(node, "text")}))
        replies = _usable(node)
        if role == "user":
            yield from _answers(fields.whole_prompt(here, source), replies, source)
        todo.extend((reply, here) for reply in reversed(replies))


def _node(value: object) -> Row:
    if not isinstance(value, dict):
        raise Refused("no message", f"expected an object with text and role, got {type(value).__name__}")
    return value


def _usable(node: Row) -> list[Row]:
    replies = node.get("replies") or []
    if not isinstance(replies, list):
        raise Refused("'replies' is no list", f"got {type(replies).__name__}")
    return [r for r in map(_node, replies) if not r.get("deleted") and r.get("review_result") is not False]


def _answers(asked: Prompt, replies: list[Row], source: str) -> Iterator[Item]:
    answers = [r for r in replies if r.get("role") == "assistant"]
    if not answers:
        yield asked
        return
    ranked = [r for r in answers if isinstance(r.get("rank"), int)]
    if len(ranked) > 1:
        texts = [fields.text(r, "text") for r in ranked]
        yield fields.ranked(asked, texts, fields.dense([r["rank"] for r in ranked]), source=source)
    best = min(ranked, key=lambda r: int(r["rank"])) if ranked else answers[0] if len(answers) == 1 else None
    if best is not None and not best.get("synthetic"):
        yield Demonstration(prompt=asked, text=fields.text(best, "text"), source=source)
