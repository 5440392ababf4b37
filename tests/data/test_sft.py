"""Demonstrations: the answer and its end are learned, long ones are dropped and counted, epochs are shuffled apart."""

from itertools import chain

import pytest

from tutelage.data.sft import epoch_batches, sft_rows, take
from tutelage.errors import DataError
from tutelage.types import Demonstration


@pytest.fixture
def demonstrations(ask):
    return [
        Demonstration(prompt=ask("Is the pool open today?"), text="Yes, until eight."),
        Demonstration(prompt=ask("Where is the kettle?"), text="word " * 100),
        Demonstration(prompt=ask("Hi"), text="Hello."),
    ]


def test_a_row_is_prompt_and_answer_with_the_answer_masked(demonstrations, small_chat):
    rows = sft_rows(demonstrations, small_chat)
    for (ids, mask), d in zip(rows.rows, [demonstrations[0], demonstrations[2]], strict=True):
        answer = small_chat.completion_ids(d.text)
        assert ids == small_chat.prompt_ids(d.prompt) + answer
        assert mask == [False] * (len(ids) - len(answer)) + [True] * len(answer)


def test_a_long_row_is_dropped_whole_and_counted(demonstrations, small_chat):
    rows = sft_rows(demonstrations, small_chat)
    assert (len(rows.rows), rows.n_too_long) == (2, 1)
    assert all(ids[-1] == small_chat.end_id for ids, _ in rows.rows)


def test_a_row_that_just_fits_is_kept(demonstrations, small_chat):
    n = len(sft_rows(demonstrations[:1], small_chat).rows[0][0])
    small_chat.window = n
    assert sft_rows(demonstrations[:1], small_chat).n_too_long == 0
    small_chat.window = n - 1
    with pytest.raises(DataError, match=f"none of the 1 demonstrations fits .* window of {n - 1} tokens"):
        sft_rows(demonstrations[:1], small_chat)


def test_no_demonstration_at_all_is_refused(small_chat):
    with pytest.raises(DataError, match="none of the 0"):
        sft_rows([], small_chat)


def test_the_supervised_share_counts_answer_tokens(demonstrations, small_chat):
    rows = sft_rows(demonstrations, small_chat)
    learned = sum(len(small_chat.completion_ids(demonstrations[i].text)) for i in (0, 2))
    assert rows.supervised_share == learned / sum(len(ids) for ids, _ in rows.rows)


def test_taken_rows_are_the_rows(demonstrations, small_chat):
    rows = sft_rows(demonstrations, small_chat)
    batch = take(rows, [1, 0])
    for i, j in enumerate([1, 0]):
        ids, mask = rows.rows[j]
        assert batch.token_BT[i, : batch.length_B[i]].tolist() == ids
        assert batch.mask_BT[i].sum().item() == sum(mask)


def test_each_epoch_holds_every_row_once_in_an_order_of_its_own():
    batches = epoch_batches(10, 4, epochs=3, seed=5)
    assert [len(b) for b in batches] == [4, 4, 2] * 3
    epochs = [list(chain.from_iterable(batches[i : i + 3])) for i in (0, 3, 6)]
    assert all(sorted(e) == list(range(10)) for e in epochs)
    assert len({tuple(e) for e in epochs}) == 3
    assert batches == epoch_batches(10, 4, epochs=3, seed=5)
    assert batches != epoch_batches(10, 4, epochs=3, seed=6)
    # More epochs are the same beginning: a run can be lengthened.
    assert epoch_batches(10, 4, epochs=5, seed=5)[:9] == batches
