"""Demonstrations in the spellings of the field."""

import pytest

from tutelage.formats import demonstrations
from tutelage.formats.fields import Refused

USER, BOT = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "q", "completion": "a"},
        {"prompt": [USER], "completion": [BOT]},
        {"messages": [USER, BOT]},
        {"instruction": "q", "output": "a"},
        {"instruction": "q", "input": " ", "output": "a"},
        {"instruction": "q", "instances": [{"input": "", "output": "a"}]},
        {"question": "q", "answer": "a"},
    ],
)
def test_each_spelling_is_the_same_demonstration(row):
    (demo,) = demonstrations.read({**row, "source": "s", "labeler": "ann"})
    assert [m.content for m in demo.prompt.messages] == ["q"]
    assert (demo.text, demo.source, demo.labeler) == ("a", "s", "ann")


def test_an_input_stands_below_its_instruction():
    (demo,) = demonstrations.read({"instruction": "Translate.", "input": "Hallo", "output": "Hello"})
    assert demo.prompt.messages[0].content == "Translate.\n\nHallo"


def test_each_instance_is_a_demonstration():
    found = list(demonstrations.read({"instruction": "q", "instances": [{"input": i, "output": i} for i in "xy"]}))
    assert [d.text for d in found] == ["x", "y"]


def test_of_a_chat_the_last_turn_is_the_demonstration():
    (demo,) = demonstrations.read({"messages": [USER, {"role": "assistant", "content": "other"}, USER, BOT]})
    assert (len(demo.prompt.messages), demo.text) == (3, "a")


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({"messages": [USER]}, "the chat does not end with the assistant's turn"),
        ({"messages": [BOT]}, "the prompt does not end with the user's turn"),
        ({"prompt": "q", "completion": " "}, "empty text"),
        ({"instruction": "q", "instances": []}, "no instances"),
        ({"instruction": "q", "input": 3, "output": "a"}, "'input' is no text"),
        ({"question": "q"}, "no 'answer'"),
    ],
)
def test_what_is_no_demonstration_is_refused(row, why):
    with pytest.raises(Refused) as e:
        list(demonstrations.read(row))
    assert e.value.why == why
