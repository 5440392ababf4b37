"""PandaLM's and Auto-J's test sets."""

import pytest

from tutelage.formats import research
from tutelage.formats.fields import Refused

PANDA = {"idx": 6, "cmp_key": "a_b", "instruction": "i", "input": "x", "response1": "A", "response2": "B"}
AUTOJ = {"prompt": "q", "response 1": "A", "response 2": "B"}


def test_three_annotators_are_three_judgements():
    found = list(research.pandalm({**PANDA, "annotator1": 0, "annotator2": 1, "annotator3": "2"}))
    assert [g.tiers for g in found] == [(1, 1), (1, 2), (2, 1)]
    assert [g.labeler for g in found] == ["pandalm-annotator1", "pandalm-annotator2", "pandalm-annotator3"]
    assert found[0].prompt.messages[0].content == "i\n\nx"


def test_auto_j_counts_from_nought():
    assert [next(research.autoj({**AUTOJ, "label": n})).tiers for n in (0, 1, 2)] == [(1, 2), (2, 1), (1, 1)]


@pytest.mark.parametrize("label", [3, None, True, "x"])
def test_another_verdict_is_refused(label):
    with pytest.raises(Refused, match="no verdict"):
        list(research.autoj({**AUTOJ, "label": label}))
