"""One door to all readers: the format is named, or told by the fields of the first row."""

from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from tutelage.errors import DataError
from tutelage.formats import (
    argilla,
    demonstrations,
    hh,
    label_studio,
    oasst,
    pairs,
    prompts,
    rankings,
    research,
)
from tutelage.formats.fields import Item, Reader, read_each
from tutelage.formats.rows import MAX_BYTES, Refusal, read_rows

READERS: dict[str, Reader] = {
    "rankings": rankings.read,
    "pairs": pairs.read,
    "hh": hh.read,
    "demonstrations": demonstrations.read,
    "prompts": prompts.read,
    "oasst": oasst.read,
    "label_studio": label_studio.read,
    "argilla": argilla.read,
    "pandalm": research.pandalm,
    "autoj": research.autoj,
}
# What a row of a format has, the most telling first.
TELLING: tuple[tuple[str, frozenset[str]], ...] = (
    ("pandalm", frozenset({"instruction", "response1", "response2", "annotator1"})),
    ("autoj", frozenset({"prompt", "response 1", "response 2", "label"})),
    ("oasst", frozenset({"message_tree_id", "prompt"})),
    ("label_studio", frozenset({"data", "annotations"})),
    ("argilla", frozenset({"fields", "responses"})),
    ("pairs", frozenset({"chosen", "rejected"})),
    ("rankings", frozenset({"prompt", "completions"})),
    ("demonstrations", frozenset({"messages"})),
    ("demonstrations", frozenset({"prompt", "completion"})),
    ("demonstrations", frozenset({"instruction", "instances"})),
    ("demonstrations", frozenset({"instruction", "output"})),
    ("demonstrations", frozenset({"question", "answer"})),
)


def detect(row: dict[str, Any], path: str | Path) -> str:
    """The format of a row by its fields. Raises DataError naming what was found and what is known."""
    found = set(row)
    if len(found & {"chosen", "rejected"}) == 1:
        one, other = ("chosen", "rejected") if "chosen" in found else ("rejected", "chosen")
        raise DataError(
            f"{path}: the rows have {one!r} but no {other!r}: a one-sided comparison compares nothing. "
            f"Give both sides, or name the field 'completion' to use it as a demonstration."
        )
    if {"prompt", "completion", "label"} <= found:
        raise DataError(
            f"{path}: rows of prompt, completion and label say good or bad of one answer; as demonstrations the bad "
            f"ones would be imitated. Keep the good rows without 'label', or pair good with bad as chosen and rejected."
        )
    for name, fields in TELLING:
        if fields <= found:
            is_hh = name == "pairs" and "prompt" not in found and hh.is_transcript(row["chosen"])
            return "hh" if is_hh else name
    if found & {"prompt", "text"}:
        return "prompts"
    known = "; ".join(f"{name}: {', '.join(sorted(fields))}" for name, fields in (*TELLING, ("prompts", {"prompt"})))
    raise DataError(f"{path}: the fields {sorted(found)} are of no known format. Known are {known}. Rename the fields.")


def read_placed(
    path: str | Path, format: str = "auto", *, max_bytes: int = MAX_BYTES
) -> Iterator[tuple[str, Item | Refusal]]:
    """(where, object or refusal) for each row, in order. A file without one usable row is a DataError."""
    if format != "auto" and format not in READERS:
        raise DataError(f"{format!r} is no format. Known are auto, {', '.join(READERS)}.")
    rows = read_rows(path, max_bytes=max_bytes)
    first = next(rows)
    name = detect(first[1], path) if format == "auto" else format
    usable, refused = 0, None
    for where, item in read_each(chain([first], rows), READERS[name]):
        if isinstance(item, Refusal):
            refused = refused or item
        else:
            usable += 1
        yield where, item
    if not usable:
        why = f"; the first: {refused.where}: {refused.why} ({refused.detail})" if refused else ""
        raise DataError(f"{path}: no row can be used as {name}{why}. Check the format, or mend the file.")


def read_feedback(path: str | Path, format: str = "auto", *, refused: list[Refusal] | None = None) -> Iterator[Item]:
    """The rankings, demonstrations or prompts of a file. Refusals go to `refused`; without that list, one ends all."""
    for _, item in read_placed(path, format):
        if not isinstance(item, Refusal):
            yield item
        elif refused is None:
            raise DataError(f"{item.where}: {item.why}: {item.detail}.")
        else:
            refused.append(item)
