"""Cutting a batch loses nothing, repeats nothing, and depends on lengths alone."""

from itertools import chain

from hypothesis import given
from hypothesis import strategies as st

from tutelage.data.packing import fill_rows, microbatches, shuffled_parts

LENGTHS = st.lists(st.integers(1, 50), min_size=1, max_size=40)


def test_long_rows_come_first_and_a_row_above_the_limit_stands_alone():
    # Longest first: 12 alone (above 10); 7 + 3; 2 + 2 + 1; ties keep their order.
    parts = [p.tolist() for p in microbatches([2, 7, 12, 3, 2, 1], 10)]
    assert parts == [[2], [1, 3], [0, 4, 5]]


@given(LENGTHS, st.integers(1, 80))
def test_every_row_is_in_exactly_one_bounded_part(lengths, max_tokens):
    parts = [p.tolist() for p in microbatches(lengths, max_tokens)]
    assert sorted(i for p in parts for i in p) == list(range(len(lengths)))
    for p in parts:
        assert sum(lengths[i] for i in p) <= max_tokens or len(p) == 1
    in_order = [lengths[i] for p in parts for i in p]
    assert in_order == sorted(lengths, reverse=True)


@given(LENGTHS, st.integers(1, 80))
def test_parts_depend_on_the_lengths_alone(lengths, max_tokens):
    sizes = [[lengths[i] for i in p] for p in microbatches(lengths, max_tokens)]
    backwards = lengths[::-1]
    assert [[backwards[i] for i in p] for p in microbatches(backwards, max_tokens)] == sizes
    assert [p.tolist() for p in microbatches(lengths, max_tokens)] == [
        p.tolist() for p in microbatches(lengths, max_tokens)
    ]


@given(st.lists(st.lists(st.integers(0, 9), max_size=12), max_size=8), st.integers(1, 5))
def test_pieces_lose_no_token_and_never_cross_two_documents(documents, tokens):
    pieces = fill_rows(documents, tokens)
    assert list(chain.from_iterable(pieces)) == list(chain.from_iterable(documents))
    assert all(1 <= len(p) <= tokens for p in pieces)
    assert len(pieces) == sum(-(-len(d) // tokens) for d in documents)


@given(st.integers(1, 60), st.integers(1, 8), st.integers(0, 2**62))
def test_shuffled_parts_are_a_partition_of_near_equal_sizes(n, n_parts, seed):
    parts = shuffled_parts(n, n_parts, seed=seed)
    assert sorted(i for p in parts for i in p.tolist()) == list(range(n))
    sizes = [len(p) for p in parts]
    assert len(sizes) == n_parts and max(sizes) - min(sizes) <= 1


def test_the_shuffle_is_a_function_of_the_seed():
    one, same, other = (shuffled_parts(50, 1, seed=s)[0].tolist() for s in (3, 3, 4))
    assert one == same != other
    assert one != list(range(50))
