"""Words of models and strangers cannot steer a terminal."""

import pytest

from tutelage.cli.terminal import emit, printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\nb\tc", "a\nb\tc"),
        ("\x1b[31mred\x1b[0m", "[31mred[0m"),
        ("\x1b]0;title\x07", "]0;title"),
        ("over\rwritten\x08\x7f", "overwritten"),
        ("\x9b31m", "31m"),  # the same escape in one character
        ("abc\u202edcba", "abcdcba"),
        ("naïve 漢字 👩\u200d🔧", "naïve 漢字 👩\u200d🔧"),  # a joiner is part of a letter
    ],
)
def test_control_characters_go_and_letters_stay(text, shown):
    assert printable(text) == shown


def test_json_is_one_object_and_text_is_cleaned(capsys):
    emit({"a": "é\x1b"}, True, "x")
    emit({}, False, "x\x1b")
    assert capsys.readouterr().out == '{"a": "é\\u001b"}\nx\n'
