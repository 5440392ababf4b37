"""What the card of tutelage/assets/demo promises of the prompts and demonstrations."""

import json
import statistics
from collections import Counter
from importlib.resources import files

import pytest

from tutelage.simulate.gold import BrandVoice
from tutelage.simulate.words import FUNCTION_WORDS, sentences, words
from tutelage.types import Prompt

DEMO = files("tutelage") / "assets" / "demo"
ROWS = [json.loads(line) for line in (DEMO / "prompts.jsonl").read_text().splitlines()]
DEMONSTRATIONS = [json.loads(line) for line in (DEMO / "demonstrations.jsonl").read_text().splitlines()]
BY_SPLIT = {split: [r for r in ROWS if r["split"] == split] for split in ("train", "eval")}


def text_of(row: dict) -> str:
    return " ".join(m["content"] for m in row["prompt"])


def normalised(row: dict) -> str:
    return " ".join(words(text_of(row)))


def grams(units: str | list[str]) -> set:
    return {tuple(units[i : i + 8]) for i in range(max(1, len(units) - 7))}


def test_there_are_enough_prompts_and_demonstrations():
    assert len(ROWS) >= 1700 and len(BY_SPLIT["train"]) >= 1200 and len(BY_SPLIT["eval"]) >= 500
    assert len(BY_SPLIT["train"]) + len(BY_SPLIT["eval"]) == len(ROWS)
    assert len(DEMONSTRATIONS) == 700


def test_rows_have_their_fields_and_parse_as_prompts():
    for row in ROWS:
        assert set(row) == {"prompt", "split", "domain", "needs", "asks"}
        assert len(Prompt(messages=row["prompt"]).messages) in (1, 3)
        assert bool(row["asks"]) == (row["needs"] is not None)
        assert all(word == word.lower() for word in row["asks"])


def test_all_prompts_differ_and_the_splits_share_none():
    assert len({normalised(r) for r in ROWS}) == len({Prompt(messages=r["prompt"]).id for r in ROWS}) == len(ROWS)


@pytest.mark.parametrize("units", [str, str.split], ids=["characters", "words"])
def test_no_eval_prompt_is_near_a_train_prompt(units):
    train = [grams(units(normalised(r))) for r in BY_SPLIT["train"]]
    for row in BY_SPLIT["eval"]:
        mine = grams(units(normalised(row)))
        # Sets whose sizes differ by more than a fifth cannot overlap so far, and are passed over.
        near = [other for other in train if 0.8 <= len(mine) / len(other) <= 1.25]
        assert all(len(mine & other) < 0.8 * len(mine | other) for other in near), row


def test_prompts_have_the_promised_shape():
    lengths = [len(words(r["prompt"][-1]["content"])) for r in ROWS]
    assert min(lengths) >= 8 and max(lengths) <= 25
    assert 0.2 < statistics.mean(len(r["prompt"]) == 3 for r in ROWS) < 0.3
    assert 0.12 < statistics.mean(r["needs"] is None for r in ROWS) < 0.18
    assert len({r["needs"] for r in ROWS}) > 20
    assert min(Counter(r["domain"] for r in ROWS).values()) > 80


def test_every_sentence_begins_with_a_capital_and_ends_with_a_mark():
    texts = [m["content"] for r in ROWS for m in r["prompt"]] + [r["completion"] for r in DEMONSTRATIONS]
    for text in texts:
        assert "{" not in text and "  " not in text and text == text.strip(), text
        assert text[-1] in ".?!", text
        assert all(s[0].isupper() for s in sentences(text)), text


def test_demonstrations_stand_on_train_prompts_each_once():
    train = {Prompt(messages=r["prompt"]).id for r in BY_SPLIT["train"]}
    shown = [Prompt(messages=r["prompt"]).id for r in DEMONSTRATIONS]
    assert set(shown) <= train and len(set(shown)) == len(shown)


def test_demonstrations_teach_the_task_and_not_the_voice():
    voice = BrandVoice.load()
    parts = [voice.parts(Prompt(messages=r["prompt"]), r["completion"]) for r in DEMONSTRATIONS]
    assert 0.25 < statistics.mean(p["courteous"] > 0 for p in parts) < 0.35
    assert 0.30 < statistics.mean(p["asks"] > 0 for p in parts) < 0.40
    n_words = [len(words(r["completion"])) for r in DEMONSTRATIONS]
    assert max(n_words) <= 28 and statistics.mean(6 <= n <= 25 for n in n_words) > 0.8
    assert len({r["completion"] for r in DEMONSTRATIONS}) > 450


def test_no_word_of_the_demo_is_gibberish():
    listed = (DEMO / "words.txt").read_text().split()
    assert listed == sorted(set(listed))
    assert set(listed) >= FUNCTION_WORDS
    voice = BrandVoice.load()
    for row in DEMONSTRATIONS:
        assert voice.parts(Prompt(messages=row["prompt"]), row["completion"])["gibberish"] == 0, row
