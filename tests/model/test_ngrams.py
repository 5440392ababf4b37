"""Hashed n-grams: what is counted, how it is weighed, and that neither padding nor neighbours change a row."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tutelage.model.ngrams import PRIME, ngrams

CELLS = 4096


def of(token, mask):
    return ngrams(torch.tensor(token), torch.tensor(mask), CELLS)


def test_tokens_and_neighbours_under_the_mask_are_counted_by_hand():
    # 7 and 8 are the prompt's; the answer 5 6 5 gives three tokens and two pairs, each with 1 / sqrt(5)
    found = of([[7, 8, 5, 6, 5, 0]], [[False, False, True, True, True, False]])
    assert len(found.cell_N) == 5 and found.share_N.tolist() == pytest.approx([5**-0.5] * 5)
    five, six, again, five_six, six_five = found.cell_N.tolist()
    assert five == again and len({five, six, five_six, six_five}) == 4, "the order of two tokens matters"
    single = 5 * 715_827_889 % PRIME * 1_618_033_989 % PRIME % CELLS
    assert five == single, "a saved model's weights belong to these cells"


def test_scores_are_sums_over_the_root_of_their_number():
    found = of([[5, 6], [5, 0]], [[True, True], [True, False]])
    weight = torch.arange(2 * CELLS, dtype=torch.float64).reshape(CELLS, 2)
    a, b, ab, alone = (weight[c] for c in found.cell_N)
    torch.testing.assert_close(found.scores(weight), torch.stack([(a + b + ab) / 3**0.5, alone]))


def test_an_answer_without_a_token_scores_nothing():
    found = of([[5, 6], [5, 6]], [[False, False], [True, False]])
    assert found.scores(torch.ones(CELLS, 1)).flatten().tolist() == [0.0, 1.0]


rows = st.lists(st.lists(st.integers(0, 200_000), min_size=1, max_size=9), min_size=1, max_size=5)


@given(rows, st.integers(0, 4), st.integers(0, 4))
def test_a_row_is_counted_by_itself_whatever_stands_around_it(answers, before, after):
    width = before + max(map(len, answers)) + after
    token = [[3] * before + a + [9] * (width - before - len(a)) for a in answers]
    mask = [[False] * before + [True] * len(a) + [False] * (width - before - len(a)) for a in answers]
    weight = torch.randn(CELLS, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    together = of(token, mask).scores(weight)
    alone = torch.cat([of([a], [[True] * len(a)]).scores(weight) for a in answers])
    torch.testing.assert_close(together, alone, rtol=1e-6, atol=1e-6)


def test_large_vocabularies_fill_the_cells_evenly():
    token = torch.arange(150_000, 150_000 + 40_960)[None]
    found = ngrams(token, torch.zeros_like(token, dtype=torch.bool).logical_not(), CELLS)
    n_cell = found.cell_N.bincount(minlength=CELLS)
    # 20 n-grams a cell on average: a fair hash leaves hardly any cell empty and none with five times its share
    assert n_cell.min() >= 2 and n_cell.max() <= 60
