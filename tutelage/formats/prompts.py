"""Prompts alone: `{"prompt": …}` or `{"text": …}`, to be answered by a model or by people."""

from collections.abc import Iterator

from tutelage.formats import fields
from tutelage.formats.fields import Row
from tutelage.types import Prompt


def read(row: Row) -> Iterator[Prompt]:
    """`{"prompt": "Name a river."}`."""
    name = "prompt" if "prompt" in row else "text"
    yield fields.prompt(row.get(name), fields.name(row, "source"), name)
