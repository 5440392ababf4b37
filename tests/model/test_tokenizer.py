"""Our own byte-level BPE: any text can be written and comes back exactly, and turn tokens are single tokens."""

import pytest
from transformers import AutoTokenizer

from tutelage.errors import ConfigError
from tutelage.model.tokenizer import SPECIAL, train_bpe

TEXTS = ["Is the pool open today? Yes, it is open until 8."] * 4


@pytest.mark.parametrize(
    "text", ["plain words", " leading space", "tabs\tand\n\nlines ", "Grüße, 東京 🚀", "a  b", "1234.5", "\x00\x7f", ""]
)
def test_any_text_comes_back_exactly(small_tokenizer, text):
    ids = small_tokenizer(text, add_special_tokens=False)["input_ids"]
    assert small_tokenizer.decode(ids) == text


def test_special_tokens_come_first_and_are_single():
    tokenizer = train_bpe(TEXTS, 300)
    assert [tokenizer.convert_tokens_to_ids(t) for t in SPECIAL] == [0, 1, 2, 3, 4]
    assert tokenizer("<|user|>Hi<|end|>", add_special_tokens=False)["input_ids"][::3] == [3, 1]
    assert tokenizer.eos_token == "<|end|>"
    assert tokenizer.pad_token == "<|pad|>"


def test_numbers_are_single_digits_and_frequent_words_are_merged():
    tokenizer = train_bpe(TEXTS, 320)
    assert len(tokenizer("2047", add_special_tokens=False)["input_ids"]) == 4
    assert len(tokenizer(" open", add_special_tokens=False)["input_ids"]) == 1


def test_a_saved_tokenizer_gives_the_same_ids(small_tokenizer, tmp_path):
    small_tokenizer.save_pretrained(str(tmp_path))
    again = AutoTokenizer.from_pretrained(tmp_path)
    text = "<|user|>Is the pool open?<|end|><|assistant|>"
    assert again(text)["input_ids"] == small_tokenizer(text)["input_ids"]
    assert again.chat_template == small_tokenizer.chat_template


def test_a_vocabulary_below_the_bytes_is_refused():
    with pytest.raises(ConfigError, match="256 bytes and 5 turn tokens"):
        train_bpe(TEXTS, 260)
