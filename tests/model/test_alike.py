"""Rows that begin alike: found whatever their order, each in one family, and never at the price of more tokens."""

from hypothesis import given
from hypothesis import strategies as st

from tutelage.model.alike import LEAST, Family, families

PROMPT = list(range(100, 100 + LEAST))


def n_tokens(rows, found):
    return sum(f.trunk + sum(len(rows[b]) - f.trunk for b in f.rows) for f in found)


def test_answers_to_two_prompts_in_any_order():
    other = [9, *PROMPT]
    rows = [[*PROMPT, 1, 2], [*other, 1], [*PROMPT, 3], [5, 6], [*other, 2]]
    assert families(rows) == [Family((0, 2), LEAST), Family((1, 4), LEAST + 1), Family((3,), 0)]


def test_a_short_beginning_is_not_worth_sharing():
    assert families([[*PROMPT[1:], 1], [*PROMPT[1:], 2]]) == [Family((0,), 0), Family((1,), 0)]


def test_equal_rows_keep_one_token_each():
    assert families([[*PROMPT, 1], [*PROMPT, 1]]) == [Family((0, 1), LEAST)]


def test_a_pair_that_shares_much_is_not_broken_up_for_a_third_that_shares_little():
    long = [*PROMPT, *range(200, 300)]
    rows = [[*long, 1], [*long, 2], [*PROMPT, 3]]
    assert families(rows) == [Family((0, 1), len(long)), Family((2,), 0)]


@given(st.lists(st.tuples(st.integers(0, 3), st.lists(st.integers(0, 2), min_size=1, max_size=30)), min_size=1))
def test_families_cover_every_row_once_and_share_what_is_equal(drawn):
    rows = [([p] * (LEAST + p) if p else []) + rest for p, rest in drawn]
    found = families(rows)
    assert sorted(b for f in found for b in f.rows) == list(range(len(rows)))
    for f in found:
        assert f.trunk == 0 or (len(f.rows) > 1 and f.trunk >= LEAST)
        for b in f.rows:
            assert len(rows[b]) > f.trunk and rows[b][: f.trunk] == rows[f.rows[0]][: f.trunk]
    assert n_tokens(rows, found) <= sum(map(len, rows))
