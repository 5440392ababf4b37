"""Words, sentences and stems, by hand."""

from tutelage.simulate.words import FUNCTION_WORDS, content_stems, sentences, stem, words


def test_words_are_lower_case_and_keep_their_inner_marks():
    assert words("It's a two-day stay, room 12!") == ["it's", "a", "two-day", "stay", "room", "12"]


def test_a_text_without_words_has_none():
    assert words(" ?! ...") == [] and sentences("   ") == []


def test_sentences_keep_their_mark_and_need_a_space_to_end():
    assert sentences("Of course. Which day? At 7.30, or later") == ["Of course.", "Which day?", "At 7.30, or later"]


def test_a_stem_drops_the_plural_alone():
    assert [stem(w) for w in ("tables", "table", "glass", "bus", "was")] == ["table", "table", "glass", "bus", "was"]


def test_content_stems_leave_out_function_words_and_numbers():
    assert content_stems("I would like 2 tables for the evening") == {"table", "evening"}
    assert "please" in FUNCTION_WORDS and "table" not in FUNCTION_WORDS
