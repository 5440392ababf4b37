r"""Anthropic's HH transcripts: `"\n\nHuman: Hi\n\nAssistant: Hello!"` as `chosen` and `rejected`."""

import re
from collections.abc import Iterator, Sequence

from tutelage.errors import DataError
from tutelage.formats import fields
from tutelage.formats.fields import Refused, Row
from tutelage.types import Message, RankedGroup

HUMAN, ASSISTANT = "\n\nHuman: ", "\n\nAssistant: "
_TURN = re.compile(r"\n\n(Human|Assistant): ?")


def is_transcript(value: object) -> bool:
    return isinstance(value, str) and _TURN.match(value) is not None


def read(row: Row) -> Iterator[RankedGroup]:
    """Two transcripts that differ in the assistant's last turn alone."""
    chosen, rejected = (_messages(row, side) for side in ("chosen", "rejected"))
    if chosen[:-1] != rejected[:-1]:
        raise Refused(
            "transcripts that part early", "they differ before the last turn, so they answer different prompts"
        )
    source = fields.name(row, "source")
    yield fields.ranked(
        fields.whole_prompt(chosen[:-1], source),
        [chosen[-1].content, rejected[-1].content],
        (1, 2),
        labeler=fields.name(row, "labeler"),
        source=source,
        event=fields.name(row, "id"),
    )


def _messages(row: Row, side: str) -> tuple[Message, ...]:
    transcript = fields.text(row, side)
    if not is_transcript(transcript):
        raise Refused("no transcript", f"{side!r} does not begin with '\\n\\nHuman:' but with {transcript[:20]!r}")
    _, *parts = _TURN.split(transcript)
    messages = tuple(
        Message(role="user" if speaker == "Human" else "assistant", content=content)
        for speaker, content in zip(parts[::2], parts[1::2], strict=True)
    )
    if messages[-1].role != "assistant":
        raise Refused("the transcript does not end with the assistant's turn", f"{side!r} ends with the human's")
    return messages


def transcript(messages: Sequence[Message], answer: str) -> str:
    """The transcript of a prompt and its answer. Raises DataError for what the format cannot hold."""
    turns = [*messages, Message(role="assistant", content=answer)]
    if any(m.role == "system" for m in turns):
        raise DataError("a system message has no place in an HH transcript. Export as rankings or pairs.")
    if any(_TURN.search(m.content) for m in turns):
        raise DataError("a text holds the mark of a turn, so its transcript would be read otherwise. Export as pairs.")
    return "".join((HUMAN if m.role == "user" else ASSISTANT) + m.content for m in turns)
