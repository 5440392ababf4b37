"""The project's own listwise format, ties and all: `{"prompt": …, "completions": [{"text": …, "tier": 1}, …]}`.

Tier 1 is best, equal tiers are ties. `event` names the judgement and outlives export and import; so do the model and
the position of each completion, the seconds of work and the guideline, where they are given.
"""

from collections.abc import Iterator
from typing import Any

from tutelage.formats import fields
from tutelage.formats.fields import Refused, Row
from tutelage.types import RankedGroup

MAX_SECONDS = 10_000_000  # of work on one answer: four months are a mistake


def read(row: Row) -> Iterator[RankedGroup]:
    """`{"prompt": "Hi", "completions": [{"text": "Hello!", "tier": 1}, {"text": "What?", "tier": 2}]}`."""
    if not isinstance(row.get("completions"), list):
        raise Refused("no list of completions", f"the row has {sorted(row)}; give 'completions' as a list")
    texts, tiers, models, positions = [], [], [], []
    for i, item in enumerate(row["completions"]):
        tier = item.get("tier") if isinstance(item, dict) else None
        if isinstance(tier, bool) or not isinstance(tier, int) or "text" not in item:
            raise Refused("not a text and a tier", f"completions[{i}]: expected {{'text': str, 'tier': whole number}}")
        texts.append(fields.said(item["text"], f"completions[{i}].text"))
        tiers.append(tier)
        models.append(fields.name(item, "model") or None)
        positions.append(item["position"] if "position" in item else None)
    yield fields.ranked(
        fields.prompt(row.get("prompt"), fields.name(row, "source")),
        texts,
        tiers,
        labeler=fields.name(row, "labeler"),
        source=fields.name(row, "source"),
        margin=fields.number(row, "margin"),
        event=fields.name(row, "event", "id"),
        aspect=fields.name(row, "aspect"),
        none_acceptable=fields.flag(row, "none_acceptable"),
        models=models,
        positions=_order(positions),
        seconds=_seconds(row),
        guideline=fields.name(row, "guideline"),
    )


def _order(positions: list[Any]) -> list[int]:
    """The places at which the completions were presented, 1 to K: of all of them, or of none."""
    if all(p is None for p in positions):
        return []
    if any(isinstance(p, bool) or not isinstance(p, int) for p in positions) or (
        sorted(positions) != list(range(1, len(positions) + 1))
    ):
        raise Refused("positions that are no order", f"number them 1..{len(positions)}, each once, or leave all out")
    return positions


def _seconds(row: Row) -> float | None:
    seconds = fields.number(row, "seconds")
    if seconds is not None and not 0 <= seconds <= MAX_SECONDS:
        raise Refused("no time of work", f"seconds is {seconds}; give 0 to {MAX_SECONDS}")
    return seconds
