"""Hand-worked means and the published whitening example, then padding, permuting and cutting."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tutelage.algo.masked import masked_mean, masked_sum, masked_var, whiten


def test_sum_mean_and_biased_variance_count_only_what_the_mask_selects():
    # 1, 3, 8 selected: sum 12, mean 4, variance (9 + 1 + 16) / 3.
    x, mask = torch.tensor([1.0, math.nan, 3.0, math.inf, 8.0]), torch.tensor([True, False, True, False, True])
    assert masked_sum(x, mask).item() == 12
    assert masked_mean(x, mask).item() == 4
    assert masked_mean(x, mask, n=6).item() == 2
    assert masked_var(x, mask).item() == pytest.approx(26 / 3)


def test_nothing_selected_sums_to_nought_and_has_no_mean():
    x, mask = torch.ones(2), torch.zeros(2, dtype=torch.bool)
    assert masked_sum(x, mask).item() == 0
    assert math.isnan(masked_mean(x, mask).item())
    assert masked_mean(x, mask, n=5).item() == 0


def test_advantages_are_whitened_with_the_biased_variance():
    adv = torch.tensor([[1.336875, 1.1125, 0.95]])
    mask = torch.ones(1, 3, dtype=torch.bool)
    torch.testing.assert_close(whiten(adv, mask), torch.tensor([[1.284573, -0.130033, -1.15454]]), atol=1e-5, rtol=0)


def test_the_mean_stays_where_it_is_not_shifted():
    # The 3 x 3 example of the N details blog: biased variance .0666667.
    x = torch.arange(12, 21).reshape(3, 3) / 10
    mask = torch.ones(3, 3, dtype=torch.bool)
    assert masked_var(x, mask).item() == pytest.approx(0.0666667, abs=1e-6)
    white = whiten(x, mask, shift_mean=False)
    torch.testing.assert_close(white[0], torch.tensor([0.0508, 0.4381, 0.8254]), atol=1e-4, rtol=0)
    assert white.mean().item() == pytest.approx(1.6, abs=1e-5)


def test_padding_of_nan_reaches_neither_the_whitened_values_nor_the_gradient():
    x = torch.tensor([[1.0, 2.0, 4.0]])
    padded = torch.tensor([[math.nan, 1.0, 2.0, 4.0, math.inf]], requires_grad=True)
    mask = torch.tensor([[False, True, True, True, False]])
    white = whiten(padded, mask)
    torch.testing.assert_close(white[:, 1:4], whiten(x, torch.ones(1, 3, dtype=torch.bool)))
    assert white[0, 0] == white[0, 4] == 0
    masked_mean(padded, mask).backward()
    assert padded.grad.tolist() == [[0.0, *[pytest.approx(1 / 3)] * 3, 0.0]]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.floats(-100, 100), st.booleans()), min_size=2, max_size=12), st.randoms())
def test_order_does_not_matter(rows, random):
    shuffled = random.sample(rows, len(rows))
    (x, mask), (y, shuffled_mask) = (
        (torch.tensor([r[0] for r in z], dtype=torch.float64), torch.tensor([r[1] for r in z]))
        for z in (rows, shuffled)
    )
    torch.testing.assert_close(masked_sum(x, mask), masked_sum(y, shuffled_mask))
    torch.testing.assert_close(masked_var(x, mask), masked_var(y, shuffled_mask), equal_nan=True, atol=1e-9, rtol=1e-7)


def test_means_over_a_global_count_add_up_over_cuts():
    g = torch.Generator().manual_seed(0)
    x, mask = torch.randn(6, 4, generator=g), torch.rand(6, 4, generator=g) > 0.4
    parts = [masked_mean(x[i : i + 2], mask[i : i + 2], n=mask.sum()) for i in (0, 2, 4)]
    torch.testing.assert_close(sum(parts), masked_mean(x, mask))
