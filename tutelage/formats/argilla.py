"""Argilla's records, of version 1 and 2: each person's answer to a ranking question is a ranking, ties and all."""

from collections.abc import Iterator
from typing import Any

from tutelage.formats import fields
from tutelage.formats.fields import Refused, Row
from tutelage.formats.label_studio import PROMPTS, one_of
from tutelage.types import RankedGroup


def read(row: Row) -> Iterator[RankedGroup]:
    """`{"fields": {"prompt": …, "a": …}, "responses": {"rank": [{"value": [{"value": "a", "rank": 1}, …], …}]}}`."""
    shown = row.get("fields")
    if not isinstance(shown, dict):
        raise Refused("no record", "expected 'fields' as an object")
    source = fields.name(row, "source")
    asked = one_of(shown, PROMPTS, source)
    n = 0
    for question, user, value in _submitted(row.get("responses")):
        if not isinstance(value, list) or not value:
            continue  # another kind of question: a rating, a label, a text
        n += 1
        names, tiers = _order(value)
        if missing := [name for name in names if name not in shown]:
            raise Refused(
                "an unknown option", f"{question!r} ranks {missing[0]!r}, which is no field; options name fields"
            )
        texts = [fields.text(shown, name) for name in names]
        event = f"{fields.name(row, 'id')}/{question}/{user}"
        yield fields.ranked(asked, texts, tiers, labeler=f"argilla-{user}", source=source, event=event)
    if n == 0:
        raise Refused("no ranking", "no submitted response of the record answers a ranking question")


def _submitted(responses: Any) -> Iterator[tuple[str, str, Any]]:
    """(question, user, value) of the responses that were submitted."""
    if isinstance(responses, dict):  # version 2: by question
        found = [(q, r, r) for q, some in responses.items() if isinstance(some, list) for r in some]
    elif isinstance(responses, list):  # version 1: by person
        found = [(q, r, v) for r in responses if isinstance(r, dict) for q, v in (r.get("values") or {}).items()]
    else:
        raise Refused("no responses", "expected 'responses' as an object (version 2) or a list (version 1)")
    for question, response, holder in found:
        if (
            isinstance(response, dict)
            and isinstance(holder, dict)
            and response.get("status", "submitted") == "submitted"
        ):
            yield question, fields.name(response, "user_id"), holder.get("value")


def _order(value: list[Any]) -> tuple[list[str], list[int]]:
    if all(isinstance(v, str) for v in value):
        return value, list(range(1, len(value) + 1))
    if not all(
        isinstance(v, dict) and isinstance(v.get("value"), str) and isinstance(v.get("rank"), int) for v in value
    ):
        raise Refused("no ranking", "expected a list of {'value', 'rank'} or of names, best first")
    return [v["value"] for v in value], fields.dense([v["rank"] for v in value])
