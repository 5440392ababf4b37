"""Concordance by hand, with the published example, and at its ends."""

import numpy as np
import pytest

from tutelage.stats.rank_agreement import kendall_w, mean_tau_b, middle_ranks


def test_tied_ranks_are_their_mean():
    assert list(middle_ranks([1, 2, 2, 3])) == [1, 2.5, 2.5, 4]


def test_w_by_hand_without_ties():
    # Sums of ranks 4, 6, 8: S = 8, and 12 S / (m^2 (n^3 - n)).
    assert kendall_w([[1, 2, 3], [1, 3, 2], [2, 1, 3]]) == pytest.approx(12 * 8 / (9 * 24))


def test_w_by_hand_with_ties():
    # Ranks (1, 2.5, 2.5) and (1, 2, 3): sums 2, 4.5, 5.5; S = 6.5; T = 6: W = 12 * 6.5 / (4 * 24 - 2 * 6).
    assert kendall_w([[1, 2, 2], [1, 2, 3]]) == pytest.approx(12 * 6.5 / (4 * 24 - 2 * 6))


def test_unanimity_is_one_also_with_ties_and_opposition_is_zero():
    assert kendall_w([[1, 2, 2, 3]] * 3) == pytest.approx(1)
    assert kendall_w([[1, 2, 3], [3, 2, 1]]) == pytest.approx(0)


def test_w_is_undefined_for_one_labeler_or_where_nobody_tells_items_apart():
    assert kendall_w([[1, 2, 3]]) is None
    assert kendall_w([[1, 1, 1], [1, 1, 1]]) is None


def test_w_follows_from_the_mean_rank_correlation_without_ties():
    # Kendall: the mean of Spearman's rho over pairs is (m W - 1) / (m - 1).
    rng = np.random.default_rng(0)
    table = np.stack([rng.permutation(7) + 1 for _ in range(5)])
    rho = [np.corrcoef(table[a], table[b])[0, 1] for a in range(5) for b in range(a)]
    assert kendall_w(table) == pytest.approx((4 * np.mean(rho) + 1) / 5)


def test_mean_tau_leaves_out_who_ties_everything():
    assert mean_tau_b([[1, 2, 3], [1, 2, 3], [3, 2, 1]]) == pytest.approx((1 - 1 - 1) / 3)
    assert mean_tau_b([[1, 2, 3], [1, 1, 1]]) is None
