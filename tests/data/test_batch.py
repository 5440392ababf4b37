"""Rows of unequal length become one batch in which only the length says what is padding."""

import torch

from tutelage.data.batch import collate


def test_rows_are_padded_on_the_right_and_masked_as_they_came():
    batch = collate([([5, 6, 7, 2], [False, False, True, True]), ([8, 0], [False, True])])
    assert batch.token_BT.tolist() == [[5, 6, 7, 2], [8, 0, 0, 0]]
    assert batch.length_B.tolist() == [4, 2]  # the 0 in the second row is a token
    assert batch.mask_BT.tolist() == [[False, False, True, True], [False, True, False, False]]
    assert (batch.token_BT.dtype, batch.mask_BT.dtype) == (torch.int64, torch.bool)
    assert len(batch) == 2


def test_chosen_rows_keep_their_own_length_and_mask():
    batch = collate([([5] * n, [True] * n) for n in (1, 2, 3)])
    part = batch.rows(torch.tensor([2, 0]))
    assert part.length_B.tolist() == [3, 1]
    assert part.mask_BT.sum(1).tolist() == [3, 1]
    assert part.token_BT.tolist() == [[5, 5, 5], [5, 0, 0]]
