"""Preference pairs: explicit and implicit prompts, ties, and what cannot be a pair."""

import pytest

from tutelage.formats import pairs
from tutelage.formats.fields import Refused


def user(text):
    return {"role": "user", "content": text}


def bot(text):
    return {"role": "assistant", "content": text}


CASES = {
    "text": {"prompt": "hi", "chosen": "A", "rejected": "B"},
    "chat prompt": {"prompt": [user("hi")], "chosen": "A", "rejected": "B"},
    "chat answers": {"prompt": [user("hi")], "chosen": [bot("A")], "rejected": [bot("B")]},
    "whole chats": {"prompt": "hi", "chosen": [user("hi"), bot("A")], "rejected": [user("hi"), bot("B")]},
    "implicit": {"chosen": [user("hi"), bot("A")], "rejected": [user("hi"), bot("B")]},
}


@pytest.mark.parametrize("case", CASES)
def test_each_spelling_of_a_pair_is_the_same_pair(case):
    (group,) = pairs.read(CASES[case])
    assert [m.content for m in group.prompt.messages] == ["hi"]
    assert (group.texts, group.tiers, group.margin) == (("A", "B"), (1, 2), None)


def test_the_common_beginning_of_two_texts_is_the_prompt():
    # TRL's own example: the space goes with the answer.
    (group,) = pairs.read({"chosen": "The sky is blue.", "rejected": "The sky is green."})
    assert group.prompt.messages[0].content == "The sky is"
    assert group.texts == (" blue.", " green.")


def test_an_implicit_prompt_keeps_all_common_turns():
    start = [{"role": "system", "content": "s"}, user("a"), bot("b"), user("c")]
    (group,) = pairs.read({"chosen": [*start, bot("A")], "rejected": [*start, bot("B")]})
    assert [m.role for m in group.prompt.messages] == ["system", "user", "assistant", "user"]


def test_margin_and_provenance_are_kept():
    row = {**CASES["text"], "margin": 2, "labeler": 5, "source": "web", "id": "x1", "aspect": "tone"}
    (group,) = pairs.read(row)
    assert (group.margin, group.labeler, group.source, group.event, group.aspect) == (2.0, "5", "web", "x1", "tone")


@pytest.mark.parametrize("mark", [{"margin": 0}, {"margin": "0.0"}, {"tie": True}])
def test_a_tie_is_a_tie(mark):
    (group,) = pairs.read({**CASES["text"], **mark})
    assert group.tiers == (1, 1)


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({"prompt": "hi", "chosen": "A"}, "no 'rejected'"),
        ({"prompt": "hi", "chosen": "A", "rejected": "A"}, "identical completions"),
        ({"prompt": "hi", "chosen": "", "rejected": "A"}, "empty text"),
        ({"prompt": "hi", "chosen": None, "rejected": "A"}, "'chosen' is no text"),
        ({"prompt": "hi", "chosen": "A", "rejected": "B", "margin": -1}, "a negative margin"),
        ({"prompt": "hi", "chosen": [bot("A"), user("B")], "rejected": [bot("C")]}, "not one assistant's turn"),
        ({"chosen": "Yes", "rejected": "No"}, "no prompt"),
        ({"chosen": "A b", "rejected": "A b"}, "empty text"),
        ({"chosen": [bot("A")], "rejected": [bot("B")]}, "the prompt does not end with the user's turn"),
        ({"chosen": [user("hi"), bot("A")], "rejected": "B"}, "'rejected' is no chat"),
    ],
)
def test_what_is_no_pair_is_refused(row, why):
    with pytest.raises(Refused) as e:
        list(pairs.read(row))
    assert e.value.why == why
