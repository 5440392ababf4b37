"""The listwise format."""

import pytest

from tutelage.formats import rankings
from tutelage.formats.fields import Refused


def row(*completions, **more):
    return {"prompt": "hi", "completions": [{"text": t, "tier": n} for t, n in completions], **more}


def test_ties_and_provenance_are_kept():
    (group,) = rankings.read(row(("a", 2), ("b", 1), ("c", 2), labeler="ann", source="s", event="event:k", margin=0.5))
    assert (group.texts, group.tiers) == (("a", "b", "c"), (2, 1, 2))
    assert (group.labeler, group.source, group.event, group.margin) == ("ann", "s", "event:k", 0.5)


def test_how_a_ranking_came_about_is_kept():
    told = row(("a", 1), ("b", 2), seconds=2.5, guideline="g", none_acceptable=True)
    told["completions"][0] |= {"model": "m", "position": 2}
    told["completions"][1] |= {"model": None, "position": 1}
    (group,) = rankings.read(told)
    assert (group.models, group.positions, group.seconds) == (("m", None), (2, 1), 2.5)
    assert group.guideline == "g" and group.none_acceptable
    (plain,) = rankings.read(row(("a", 1), ("b", 2)))
    assert (plain.models, plain.positions, plain.seconds, plain.guideline) == ((), (), None, "")


@pytest.mark.parametrize("positions", [(1, 1), (0, 1), (1, None), (1, 3), (True, 2), ("1", "2"), (2**64, 1)])
def test_positions_that_are_no_order_are_refused(positions):
    told = row(("a", 1), ("b", 2))
    for completion, position in zip(told["completions"], positions, strict=True):
        completion["position"] = position
    with pytest.raises(Refused, match="no order"):
        list(rankings.read(told))


@pytest.mark.parametrize("seconds", [-1, 1e9, float("inf"), "long"])
def test_seconds_that_nobody_worked_are_refused(seconds):
    with pytest.raises(Refused):
        list(rankings.read(row(("a", 1), ("b", 2), seconds=seconds)))


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (row(("a", 1)), "one completion"),
        (row(("a", 1), ("b", 3)), "a gap in the tiers"),
        (row(("a", 1), ("b", 1.5)), "not a text and a tier"),
        (row(("a", True), ("b", 2)), "not a text and a tier"),
        (row(("a", 1), ("", 2)), "empty text"),
        ({"prompt": "hi", "completions": "a"}, "no list of completions"),
        ({"prompt": "hi", "completions": ["a", "b"]}, "not a text and a tier"),
        ({"completions": [{"text": "a", "tier": 1}]}, "'prompt' is no chat"),
    ],
)
def test_what_is_no_ranking_is_refused(bad, why):
    with pytest.raises(Refused) as e:
        list(rankings.read(bad))
    assert e.value.why == why
