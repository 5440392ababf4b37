"""Demonstrations: `prompt`/`completion`, OpenAI's `messages`, Alpaca, self-instruct, question and answer.

Of a chat, the last turn is the demonstration: who wrote the earlier turns is not known.
"""

from collections.abc import Iterator

from tutelage.formats import fields
from tutelage.formats.fields import Refused, Row
from tutelage.types import Demonstration, Message, Prompt


def read(row: Row) -> Iterator[Demonstration]:
    """`{"prompt": "Hi", "completion": "Hello!"}` and its kin; which one it is shows by the fields."""
    source, labeler = fields.name(row, "source"), fields.name(row, "labeler")
    for asked, text in _found(row, source):
        yield Demonstration(prompt=asked, text=text, labeler=labeler, source=source)


def _found(row: Row, source: str) -> Iterator[tuple[Prompt, str]]:
    if "messages" in row:
        yield _last_turn(fields.chat(row["messages"], "messages"), "messages", source)
    elif "completion" in row:
        asked = fields.prompt(row.get("prompt"), source)
        if isinstance(row["completion"], list):
            answer = fields.chat(row["completion"], "completion")
            yield _last_turn((*asked.messages, *answer), "completion", source)
        else:
            yield asked, fields.text(row, "completion")
    elif "instances" in row:
        if not isinstance(row["instances"], list) or not row["instances"]:
            raise Refused("no instances", "expected a list of {'input', 'output'}")
        for instance in row["instances"]:
            if not isinstance(instance, dict):
                raise Refused("no instances", "expected a list of {'input', 'output'}")
            yield instruction(row, instance, source), fields.text(instance, "output")
    elif "output" in row:
        yield instruction(row, row, source), fields.text(row, "output")
    else:
        yield fields.prompt(row.get("question"), source, "question"), fields.text(row, "answer")


def instruction(row: Row, given: Row, source: str) -> Prompt:
    """An instruction and, below it, the input that it is about."""
    asked, about = fields.text(row, "instruction"), given.get("input", "")
    if not isinstance(about, str):
        raise Refused("'input' is no text", f"expected a string, got {type(about).__name__}")
    fields.writable(about, "input")
    return fields.prompt(f"{asked}\n\n{about}" if about.strip() else asked, source, "instruction")


def _last_turn(messages: tuple[Message, ...], name: str, source: str) -> tuple[Prompt, str]:
    if messages[-1].role != "assistant":
        raise Refused("the chat does not end with the assistant's turn", f"{name!r} ends with {messages[-1].role}")
    return fields.whole_prompt(messages[:-1], source), fields.said(messages[-1].content, f"{name}[-1]")
