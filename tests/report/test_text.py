"""Text: what acts is shown, new words are found, numbers are written one way."""

from tutelage.report.text import MAX_SHOWN, Piece, clean, counted, cut, duration, listed, marked, number, signed, span


def test_plain_text_is_left_alone():
    text = "Grüße, 你好 — “yes”\n\tok 👋"
    assert clean(text) == text


def test_what_acts_becomes_visible():
    assert clean("a\x1b[2Jb\u2066c\r\nd\re\ufeff\x7f") == "a⟨U+001B⟩[2Jb⟨U+2066⟩c\nd⟨U+000D⟩e⟨U+FEFF⟩⟨U+007F⟩"
    assert clean("\udcff").encode("utf-8")


def test_new_words_are_marked():
    pieces = marked("Of course. Which day suits you?", "Which day suits you?")
    assert pieces == (Piece("Of course. ", True), Piece("Which day suits you?", False))
    assert "".join(p.text for p in marked("  two  spaces kept ", "spaces")) == "  two  spaces kept "


def test_an_answer_that_is_all_new_is_not_marked():
    assert marked("one two three", "four five") == (Piece("one two three", False),)
    assert marked("same", None) == (Piece("same", False),) and marked("", "x") == (Piece("", False),)


def test_long_text_says_how_much_is_left_out():
    assert cut("x" * (MAX_SHOWN + 1500)).endswith(" … (1,500 more characters)")


def test_numbers_are_written_one_way():
    assert (number(-0.127), signed(0.5), signed(-0.5)) == ("−0.13", "+0.50", "−0.50")
    assert span(0.7314, 0.8046) == "73.1% to 80.5%"
    assert [duration(s) for s in (42, 760, 11_100)] == ["42 s", "13 min", "3 h 05 min"]
    assert (counted(1, "ranking"), counted(1200, "ranking")) == ("1 ranking", "1,200 rankings")
    assert (listed(["a"]), listed(["a", "b", "c"]), listed([])) == ("a", "a, b and c", "")
