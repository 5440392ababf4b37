"""Weights of the best of k against counting every subset."""

import itertools

import pytest

from tutelage.stats.order_statistics import best_of_weights


@pytest.mark.parametrize("k", range(1, 7))
def test_weights_are_the_share_of_subsets_in_which_each_rank_is_greatest(k):
    subsets = list(itertools.combinations(range(6), k))
    want = [sum(max(s) == i for s in subsets) / len(subsets) for i in range(6)]
    assert best_of_weights(6, k).tolist() == pytest.approx(want)


def test_weights_of_a_large_sample_still_sum_to_one():
    for k in (1, 2, 4096, 40000):
        assert best_of_weights(40000, k).sum() == pytest.approx(1, abs=1e-6)


def test_more_than_the_sample_holds_is_refused():
    with pytest.raises(AssertionError, match="k = 5"):
        best_of_weights(4, 5)
