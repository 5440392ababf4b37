"""The project's own listwise format, ties and all: `{"prompt": …, "completions": [{"text": …, "tier": 1}, …]}`.

Tier 1 is best, equal tiers are ties. `event` names the judgement and outlives export and import.
"""

from collections.abc import Iterator

from tutelage.formats import fields
from tutelage.formats.fields import Refused, Row
from tutelage.types import RankedGroup


def read(row: Row) -> Iterator[RankedGroup]:
    """`{"prompt": "Hi", "completions": [{"text": "Hello!", "tier": 1}, {"text": "What?", "tier": 2}]}`."""
    if not isinstance(row.get("completions"), list):
        raise Refused("no list of completions", f"the row has {sorted(row)}; give 'completions' as a list")
    texts, tiers = [], []
    for i, item in enumerate(row["completions"]):
        tier = item.get("tier") if isinstance(item, dict) else None
        if isinstance(tier, bool) or not isinstance(tier, int) or "text" not in item:
            raise Refused("not a text and a tier", f"completions[{i}]: expected {{'text': str, 'tier': whole number}}")
        texts.append(fields.said(item["text"], f"completions[{i}].text"))
        tiers.append(tier)
    yield fields.ranked(
        fields.prompt(row.get("prompt"), fields.name(row, "source")),
        texts,
        tiers,
        labeler=fields.name(row, "labeler"),
        source=fields.name(row, "source"),
        margin=fields.number(row, "margin"),
        event=fields.name(row, "event", "id"),
        aspect=fields.name(row, "aspect"),
    )
