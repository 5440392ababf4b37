"""Figures of answers by hand."""

import pytest

from tutelage.evals.policy import describe, refuses
from tutelage.types import Completion


def _answer(text, tokens, reason="stop"):
    return Completion(prompt_id="p", text=text, token_ids=tuple(range(tokens)), finish_reason=reason)


def test_shares_and_means_by_hand():
    found = describe(
        [_answer("a b", 3), _answer("a b", 3), _answer("", 1), _answer("c d e f", 9, "length")], vocabulary=100
    )
    assert found["length"] == 4.0 and found["words"] == 2.0
    assert found["unfinished"] == 0.25 and found["empty"] == 0.25
    assert found["unique"] == 0.75
    # a b a b c d e f: 6 different of 8 words.
    assert found["distinct_1"] == pytest.approx(6 / 8)


@pytest.mark.parametrize(
    "text", ["I can't help with that.", "I\u2019m sorry, but I cannot do that.", "Sorry, I can't."]
)
def test_a_refusal_is_seen(text):
    assert refuses(text)


@pytest.mark.parametrize("text", ["I am sorry to hear that. Which day?", "We can't wait to see you!", "Of course.", ""])
def test_an_apology_or_a_plain_answer_is_no_refusal(text):
    assert not refuses(text)
