"""Label Studio's JSON export: tasks with annotations, of which rankers and pairwise choices are read.

Each annotation is a judgement by its own labeler. Of a labeler only the number is kept, never an address.
"""

from collections.abc import Iterator
from typing import Any

from tutelage.formats import fields
from tutelage.formats.fields import Refused, Row
from tutelage.types import Prompt, RankedGroup

PROMPTS = ("prompt", "question", "instruction")
SIDES = (("answer1", "answer2"), ("response1", "response2"), ("text1", "text2"))
TEXTS = ("body", "text", "title")


def read(row: Row) -> Iterator[RankedGroup]:
    """One task: `{"id": 1, "data": {…}, "annotations": [{"completed_by": 3, "result": [{"type": "ranker", …}]}]}`."""
    data, annotations = row.get("data"), row.get("annotations")
    if not isinstance(data, dict) or not isinstance(annotations, list):
        raise Refused("no task", "expected 'data' as an object and 'annotations' as a list")
    asked = one_of(data, PROMPTS, fields.name(row, "source"))
    n = 0
    for annotation in annotations:
        for result in _results(annotation):
            n += 1
            texts, tiers = _ranker(data, result) if result["type"] == "ranker" else _pairwise(data, result)
            event = f"{fields.name(row, 'id')}/{fields.name(annotation, 'id')}/{n}"
            who = f"label-studio-{_labeler(annotation)}"
            yield fields.ranked(asked, texts, tiers, labeler=who, source=fields.name(row, "source"), event=event)
    if n == 0:
        raise Refused("no ranking", "no finished annotation of the task holds a ranker or a pairwise choice")


def one_of(data: Row, names: tuple[str, ...], source: str) -> Prompt:
    """The prompt under the first of these names."""
    for name in names:
        if name in data:
            return fields.prompt(data[name], source, name)
    raise Refused("no prompt", f"found {sorted(data)}; name the prompt one of {', '.join(names)}")


def _results(annotation: Any) -> list[Row]:
    if not isinstance(annotation, dict) or not isinstance(annotation.get("result"), list):
        raise Refused("no annotation", "expected an object with 'result' as a list")
    if annotation.get("was_cancelled"):
        return []
    found = [r for r in annotation["result"] if isinstance(r, dict) and isinstance(r.get("value"), dict)]
    return [r for r in found if r.get("type") in ("ranker", "pairwise")]


def _labeler(annotation: Row) -> str:
    who = annotation.get("completed_by")
    return fields.name(who, "id") if isinstance(who, dict) else fields.name({"id": who}, "id")


def _ranker(data: Row, result: Row) -> tuple[list[str], list[int]]:
    ranker = result["value"].get("ranker")
    orders = list(ranker.values()) if isinstance(ranker, dict) else []
    if len(orders) != 1 or not isinstance(orders[0], list):
        raise Refused("no single order", "a ranker with buckets has no order among them; rank in one list")
    text_of = {
        str(item["id"]): next((item[k] for k in TEXTS if isinstance(item.get(k), str)), "")
        for items in data.values()
        if isinstance(items, list)
        for item in items
        if isinstance(item, dict) and "id" in item
    }
    if missing := [i for i in orders[0] if str(i) not in text_of]:
        raise Refused("an unknown item", f"the ranker names {missing[0]!r}, which the task's data do not hold")
    return [text_of[str(i)] for i in orders[0]], list(range(1, len(orders[0]) + 1))


def _pairwise(data: Row, result: Row) -> tuple[list[str], list[int]]:
    selected = result["value"].get("selected")
    if selected not in ("left", "right"):
        raise Refused("no choice", f"selected is {selected!r:.40}; known are left and right")
    for left, right in SIDES:
        if left in data and right in data:
            return [fields.text(data, left), fields.text(data, right)], [1, 2] if selected == "left" else [2, 1]
    raise Refused("no pair", f"the task's data hold {sorted(data)}; name the two sides answer1 and answer2")
