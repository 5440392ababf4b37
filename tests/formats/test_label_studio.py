"""Label Studio exports."""

import pytest

from tutelage.formats import label_studio
from tutelage.formats.fields import Refused

ITEMS = [{"id": "x", "body": "X"}, {"id": "y", "body": "Y"}, {"id": "z", "title": "Z"}]


def task(data, *results, **annotation):
    return {"id": 5, "data": data, "annotations": [{"id": 1, "completed_by": 3, "result": list(results), **annotation}]}


def ranker(*order):
    return {"type": "ranker", "value": {"ranker": {"rank": list(order)}}}


def pairwise(side):
    return {"type": "pairwise", "value": {"selected": side}}


PAIR = {"prompt": "q", "answer1": "A", "answer2": "B"}


def test_a_ranker_is_an_order_by_its_labeler():
    (group,) = label_studio.read(
        task({"prompt": "q", "items": ITEMS}, ranker("z", "x", "y"), {"type": "rating", "value": {}})
    )
    assert (group.texts, group.tiers, group.labeler) == (("Z", "X", "Y"), (1, 2, 3), "label-studio-3")


def test_a_pairwise_choice_is_a_pair():
    left, right = (next(label_studio.read(task(PAIR, pairwise(side)))) for side in ("left", "right"))
    assert (left.texts, left.tiers, right.tiers) == (("A", "B"), (1, 2), (2, 1))


def test_an_address_is_never_taken_as_a_name():
    who = {"id": 9, "email": "ann@example.org"}
    (group,) = label_studio.read(task(PAIR, pairwise("left"), completed_by=who))
    assert group.labeler == "label-studio-9"


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (task(PAIR, pairwise("left"), was_cancelled=True), "no ranking"),
        (task(PAIR, pairwise("up")), "no choice"),
        (task({"prompt": "q"}, pairwise("left")), "no pair"),
        (task({"prompt": "q", "items": ITEMS}, ranker("x", "nope")), "an unknown item"),
        (task({"prompt": "q"}, {"type": "ranker", "value": {"ranker": {"a": [], "b": []}}}), "no single order"),
        (task({"answer1": "A"}, pairwise("left")), "no prompt"),
        ({"data": {}, "annotations": "x"}, "no task"),
        ({"data": {"prompt": "q"}, "annotations": [7]}, "no annotation"),
    ],
)
def test_what_is_no_ranking_is_refused(bad, why):
    with pytest.raises(Refused) as e:
        list(label_studio.read(bad))
    assert e.value.why == why
