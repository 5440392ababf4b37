"""Fields of a row: what is taken and what is refused, by name."""

import pytest

from tutelage.formats import fields
from tutelage.formats.fields import Refused
from tutelage.types import Message, Prompt

HI = Prompt(messages=(Message(role="user", content="hi"),))


@pytest.mark.parametrize(
    ("texts", "tiers", "why"),
    [
        (["a"], [1], "one completion"),
        (["a", " \n"], [1, 2], "empty text"),
        (["a", "b"], [1, 3], "a gap in the tiers"),
        (["a", "b"], [2, 2], "a gap in the tiers"),
        (["a", "b"], [0, 1], "a gap in the tiers"),
        (["a", "a"], [1, 2], "identical completions"),
        (["a", "a"], [1, 1], "identical completions"),
        (["a", "b", "a"], [1, 2, 2], "identical completions"),
    ],
)
def test_a_ranking_that_compares_nothing_is_refused(texts, tiers, why):
    with pytest.raises(Refused) as e:
        fields.ranked(HI, texts, tiers)
    assert e.value.why == why


def test_equal_texts_may_share_a_tier_among_others():
    assert fields.ranked(HI, ["a", "a", "b"], [1, 1, 2]).tiers == (1, 1, 2)


def test_ranks_become_tiers():
    assert fields.dense([0, 5, 5, 2]) == [1, 3, 3, 2]


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ([{"role": "tool", "content": "x"}], "unknown role"),
        ([{"role": "user"}], "'prompt' is no chat"),
        ([{"role": "user", "content": [{"type": "text"}]}], "'prompt' is no chat"),
        ([], "'prompt' is no chat"),
        (None, "'prompt' is no chat"),
        ("  ", "empty text"),
        ([{"role": "assistant", "content": "x"}], "the prompt does not end with the user's turn"),
    ],
)
def test_what_is_no_prompt_is_refused(value, why):
    with pytest.raises(Refused) as e:
        fields.prompt(value)
    assert e.value.why == why


def test_numbers_come_as_numbers_or_as_text_and_are_finite():
    assert fields.number({"m": "1.5"}, "m") == 1.5
    assert fields.number({"m": 2}, "m") == 2.0
    assert fields.number({}, "m") is None
    for bad in (True, "x", "inf", float("nan"), [], 10**400):
        with pytest.raises(Refused):
            fields.number({"m": bad}, "m")


def test_names_and_flags():
    assert fields.name({"labeler": 7}, "labeler") == "7"
    assert fields.name({"event": "", "id": "x"}, "event", "id") == "x"
    assert fields.flag({"tie": "TRUE"}, "tie") and not fields.flag({}, "tie")
    for bad in ({"labeler": True}, {"labeler": ["x"]}, {"labeler": 1.5}):
        with pytest.raises(Refused):
            fields.name(bad, "labeler")
    with pytest.raises(Refused):
        fields.flag({"tie": 1}, "tie")
