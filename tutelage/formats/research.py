"""Two research sets in their own layout: PandaLM's test set (three people a row) and Auto-J's pairwise test."""

from collections.abc import Iterator
from typing import Any

from tutelage.formats import fields
from tutelage.formats.demonstrations import instruction
from tutelage.formats.fields import Refused, Row
from tutelage.types import RankedGroup

TIERS = {"first": (1, 2), "second": (2, 1), "tie": (1, 1)}


def pandalm(row: Row) -> Iterator[RankedGroup]:
    """Three judgements a row: annotator1 to 3 say 0 for a tie, 1 or 2 for that response."""
    asked = instruction(row, row, fields.name(row, "source"))
    texts = [fields.text(row, "response1"), fields.text(row, "response2")]
    for annotator in ("annotator1", "annotator2", "annotator3"):
        verdict = _verdict(row, annotator, {0: "tie", 1: "first", 2: "second"})
        event = f"{fields.name(row, 'idx')}/{fields.name(row, 'cmp_key')}/{annotator}"
        labeler = f"pandalm-{annotator}"
        yield fields.ranked(asked, texts, verdict, labeler=labeler, source=asked.source, event=event)


def autoj(row: Row) -> Iterator[RankedGroup]:
    """`label` 0: the first response wins, 1: the second, 2: a tie."""
    asked = fields.prompt(row.get("prompt"), fields.name(row, "source"))
    texts = [fields.text(row, "response 1"), fields.text(row, "response 2")]
    verdict = _verdict(row, "label", {0: "first", 1: "second", 2: "tie"})
    yield fields.ranked(asked, texts, verdict, labeler="autoj-annotator", source=asked.source)


def _verdict(row: Row, name: str, meaning: dict[int, str]) -> tuple[int, int]:
    value: Any = row.get(name)
    value = int(value) if isinstance(value, str) and value.isdecimal() else value
    if isinstance(value, bool) or value not in meaning:
        raise Refused(f"{name!r} is no verdict", f"got {value!r:.40}; known are {meaning}")
    return TIERS[meaning[value]]
