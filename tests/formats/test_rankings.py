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
