"""Files named on the command line: feedback or prompts in, with what was refused counted; rows of JSON out."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tutelage.errors import ConfigError, DataError
from tutelage.formats.compressed import written
from tutelage.formats.detect import read_placed
from tutelage.formats.fields import Item
from tutelage.formats.rows import Refusal, kind_of
from tutelage.types import Message, Prompt


@dataclass(frozen=True, slots=True)
class Found:
    """What a file holds, each with its place. Example: items (("a.jsonl, line 1", RankedGroup(…)),), refused {}."""

    items: tuple[tuple[str, Item], ...]
    refused: dict[str, int]  # by reason


def read_items(path: Path) -> Found:
    """All rankings, demonstrations or prompts of a file. Raises DataError when no row can be used."""
    items, refused = [], Counter[str]()
    for where, item in read_placed(path):
        if isinstance(item, Refusal):
            refused[item.why] += 1
        else:
            items.append((where, item))
    return Found(tuple(items), dict(refused))


def read_prompts(path: Path) -> tuple[list[Prompt], dict[str, int]]:
    """The prompts of a file of any kind, each once and in order, and the rows refused by reason."""
    found = read_items(path)
    prompts = [item if isinstance(item, Prompt) else item.prompt for _, item in found.items]
    return list({p.id: p for p in prompts}.values()), found.refused


def prompts_asked(text: str | None, path: Path | None) -> tuple[list[Prompt], dict[str, int]]:
    """Prompts given as words or as a file: one of the two."""
    if (text is None) == (path is None):
        raise ConfigError("the prompt can come from --prompt TEXT or from --prompts FILE. Give one of them.")
    return read_prompts(path) if path is not None else ([prompt_of(text or "")], {})


def prompt_of(text: str) -> Prompt:
    """Words as one turn of the user."""
    return Prompt(messages=(user_turn(text),))


def user_turn(text: str) -> Message:
    """Raises DataError for words that say nothing or that UTF-8 cannot hold."""
    if not text.strip():
        raise DataError("the prompt is empty, so there is nothing to answer. Give it some words.")
    try:
        text.encode()
    except UnicodeEncodeError as e:
        raise DataError(f"the prompt is not UTF-8 (character {e.start}). Use a terminal or file in UTF-8.") from e
    return Message(role="user", content=text)


def check_rows_path(path: Path | None) -> None:
    """Refuses what `write_rows` would refuse, before hours are spent on the rows."""
    if path is None:
        return
    if kind_of(path) != ".jsonl":
        raise DataError(f"{path}: rows are written as JSON Lines. Name the file .jsonl, or .jsonl.gz and the like.")
    if not path.parent.is_dir():
        raise DataError(f"{path}: its folder does not exist. Make the folder first.")


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """JSON Lines, compressed by the name, whole or not at all."""
    check_rows_path(path)
    with written(path) as out:
        for row in rows:
            out.write((json.dumps(row, ensure_ascii=False) + "\n").encode())
