"""Pre-training text: nothing is lost, what is held out depends on the words alone, and the plan counts epochs."""

import json
from collections import Counter
from itertools import chain

import pytest

from tutelage.data.corpus import CorpusSource, documents, language_batch, load_corpus, plan_batches
from tutelage.errors import ConfigError, DataError
from tutelage.types import Message


def source(tmp_path, rows, **kw):
    path = tmp_path / "stories.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return CorpusSource(path=str(path), **kw)


DIALOGUE = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]


def test_rows_are_texts_or_dialogues(tmp_path):
    rows = [{"text": "A story.", "id": 3}, {"messages": [{**m, "name": "Ann"} for m in DIALOGUE]}]
    assert list(documents(source(tmp_path, rows))) == [
        "A story.",
        (Message(role="user", content="Hi"), Message(role="assistant", content="Hello.")),
    ]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (
            {"body": "A story.", "id": 3},
            r"found the fields \['body', 'id'\], but pre-training reads 'text' or 'messages'",
        ),
        ({"text": None}, "'text' is None, not words"),
        ({"text": ["a"]}, r"'text' is \['a'\], not words"),
        ({"messages": []}, "'messages' is empty"),
        ({"messages": "Hi"}, "'messages' is no dialogue"),
        ({"messages": None}, "'messages' is no dialogue"),
        ({"messages": [{"role": "user"}]}, "'messages' is no dialogue .*content"),
        ({"messages": [{"role": "bot", "content": "Hi"}]}, "'messages' is no dialogue"),
        ({"messages": [{"role": "user", "content": 3}]}, "'messages' is no dialogue"),
    ],
)
def test_a_row_that_is_no_document_is_refused_with_its_line(tmp_path, row, words):
    with pytest.raises(DataError, match=rf"(?s)stories.jsonl, line 2: {words}"):
        list(documents(source(tmp_path, [{"text": "A story."}, row])))


def texts(n):
    return [{"text": f"Story number {i} of the pool and the kettle."} for i in range(n)]


def test_the_held_out_share_goes_by_the_hash_of_the_words(tmp_path, small_chat):
    whole = load_corpus(source(tmp_path, texts(300), held_out=0.2), small_chat, row_tokens=200)
    assert len(whole.train) + len(whole.held_out) == 300
    assert 60 - 4 * 7 < len(whole.held_out) < 60 + 4 * 7  # binomial: standard deviation 6.9
    # A document stays on its side whatever stands beside it, how often it comes, and under a larger share.
    half = load_corpus(source(tmp_path, texts(300)[100:200][::-1] * 2, held_out=0.2), small_chat, row_tokens=200)
    held = {tuple(p) for p in whole.held_out}
    assert {tuple(p) for p in half.held_out} < held
    assert not {tuple(p) for p in half.train} & held
    more = load_corpus(source(tmp_path, texts(300), held_out=0.4), small_chat, row_tokens=200)
    assert held < {tuple(p) for p in more.held_out}


def test_documents_end_with_the_end_token_and_lose_nothing_when_cut(tmp_path, small_chat):
    rows = [*texts(50), *({"messages": [*DIALOGUE, {"role": "user", "content": f"Bye {i}"}]} for i in range(50))]
    whole = load_corpus(source(tmp_path, rows, held_out=0.2), small_chat, row_tokens=10_000)
    cut = load_corpus(source(tmp_path, rows, held_out=0.2), small_chat, row_tokens=7)
    assert list(chain.from_iterable(cut.train)) == list(chain.from_iterable(whole.train))
    assert list(chain.from_iterable(cut.held_out)) == list(chain.from_iterable(whole.held_out))
    assert max(len(p) for p in cut.train) == 7
    assert all(p[-1] == small_chat.end_id for p in whole.train)
    found = {small_chat.tokenizer.decode(p) for p in whole.train + whole.held_out}
    assert "Story number 7 of the pool and the kettle.<|end|>" in found
    assert "<|user|>Hi<|end|><|assistant|>Hello.<|end|><|user|>Bye 7<|end|>" in found
    assert whole.name == "stories"


def test_too_little_text_for_both_sides_is_refused(tmp_path, small_chat):
    with pytest.raises(DataError, match="1 documents to train on and 0 held out; both are needed"):
        load_corpus(source(tmp_path, texts(1)), small_chat, row_tokens=9)


@pytest.mark.parametrize("kw", [{"epochs": 0}, {"epochs": -1.0}, {"held_out": 0.0}, {"held_out": 0.5}])
def test_shares_that_cannot_be_are_refused(kw):
    with pytest.raises(ConfigError, match=f"a.jsonl: {next(iter(kw))} = "):
        CorpusSource(path="a.jsonl", **kw)


LENGTHS = [[10] * 40, [3, 7] * 10]


def test_each_piece_comes_as_often_as_its_source_has_epochs():
    count = Counter(i for b in plan_batches(LENGTHS, [2, 1], batch_tokens=50, seed=0) for i in b)
    assert count == Counter({i: 2 if i < 40 else 1 for i in range(60)})
    count = Counter(i for b in plan_batches(LENGTHS, [1.25, 0.5], batch_tokens=50, seed=0) for i in b)
    assert sorted(count[i] for i in range(40)) == [1] * 30 + [2] * 10
    assert sorted(count[i] for i in range(40, 60)) == [0] * 10 + [1] * 10


def test_the_plan_is_a_function_of_the_seed_and_mixes_the_sources():
    plan = plan_batches(LENGTHS, [1.5, 1], batch_tokens=50, seed=0)
    assert plan == plan_batches(LENGTHS, [1.5, 1], batch_tokens=50, seed=0)
    assert plan != plan_batches(LENGTHS, [1.5, 1], batch_tokens=50, seed=1)
    order = list(chain.from_iterable(plan))
    assert any(i >= 40 for i in order[:20]) and any(i < 40 for i in order[-20:])


def test_a_batch_closes_before_it_would_pass_its_tokens():
    flat = list(chain.from_iterable(LENGTHS))
    plan = plan_batches(LENGTHS, [3, 2], batch_tokens=25, seed=0)
    sizes = [sum(flat[i] for i in b) for b in plan]
    assert max(sizes) <= 25
    for size, after in zip(sizes, plan[1:], strict=False):
        assert size + flat[after[0]] > 25
    assert [len(b) for b in plan_batches([[9, 9]], [1], batch_tokens=5, seed=0)] == [1, 1]


def test_every_token_but_the_first_is_trained():
    batch = language_batch([[5, 6, 7], [8]])
    assert batch.mask_BT.tolist() == [[False, True, True], [False, False, False]]
