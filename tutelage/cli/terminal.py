"""What commands print, and how: JSON for programs, text without control characters for people."""

import json
import unicodedata
from typing import Annotated, Any

import typer

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output.")]

# Marks that turn the direction of writing: a text could be shown as something that it does not say.
_TURNING = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def emit(facts: dict[str, Any], as_json: bool, text: str) -> None:
    """The answer of a command: JSON for programs, or a text for people."""
    typer.echo(json.dumps(facts, ensure_ascii=False) if as_json else printable(text))


def printable(text: str) -> str:
    """A text that cannot steer a terminal: control characters go, but for line break and tab.

    Models, labelers and files write what they like, escape sequences included.
    """
    return "".join(c for c in text if c in "\n\t" or (unicodedata.category(c) != "Cc" and c not in _TURNING))
