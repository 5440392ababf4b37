"""Known scores come back from simulated comparisons, and small cases from arithmetic."""

import math

import numpy as np
import pytest

from tutelage.stats.ties import fit_bradley_terry, fit_davidson


def simulate(scores, nu, n, seed=0):
    rng = np.random.default_rng(seed)
    i = rng.integers(0, len(scores), n)
    j = (i + rng.integers(1, len(scores), n)) % len(scores)
    weight = np.exp(np.stack([scores[i], (scores[i] + scores[j]) / 2, scores[j]]))
    weight[1] *= nu
    cumulative = (weight / weight.sum(0)).cumsum(0)
    return i, j, 1 - (rng.random(n) > cumulative).sum(0)


def test_davidson_recovers_scores_and_nu():
    true = np.linspace(-1, 1, 6)
    fit = fit_davidson(*simulate(true, 0.4, 20000), n_items=6)
    assert fit.nu == pytest.approx(0.4, abs=0.03)
    assert np.abs(fit.scores - true).max() < 0.08
    assert fit.scores.mean() == pytest.approx(0, abs=1e-12)


def test_bradley_terry_recovers_scores():
    true = np.array([1.0, 0.5, 0.0, -1.5])
    scores = fit_bradley_terry(*simulate(true, 0.0, 20000), n_items=4)
    assert np.corrcoef(scores, true)[0, 1] > 0.99
    assert np.abs(scores - true).max() < 0.08


def test_two_items_by_hand():
    # 3 wins in 4: odds 3. Davidson, 4 wins, 3 ties, 1 loss: odds 4, and nu = tie / sqrt(win * loss) = 3 / 2.
    lead = np.subtract(*fit_bradley_terry([0] * 4, [1] * 4, [1, 1, 1, -1], n_items=2, l2=1e-9))
    assert lead == pytest.approx(math.log(3))
    fit = fit_davidson([0] * 8, [1] * 8, [1] * 4 + [0] * 3 + [-1], n_items=2, l2=1e-9)
    assert np.subtract(*fit.scores) == pytest.approx(math.log(4))
    assert fit.nu == pytest.approx(1.5)


def test_bradley_terry_counts_a_tie_as_half_a_win():
    lead = np.subtract(*fit_bradley_terry([0] * 4, [1] * 4, [1, 1, 0, 0], n_items=2, l2=1e-9))
    assert lead == pytest.approx(math.log(3))


def test_davidson_without_ties_is_bradley_terry():
    data = simulate(np.array([1.0, 0.0, -1.0]), 0.0, 300)
    fit = fit_davidson(*data, n_items=3)
    assert fit.nu == 0
    assert fit.scores == pytest.approx(fit_bradley_terry(*data, n_items=3))


def test_swapping_sides_and_shuffling_change_nothing():
    i, j, outcome = simulate(np.linspace(-1, 1, 5), 0.5, 500)
    fit = fit_davidson(i, j, outcome, n_items=5)
    order = np.random.default_rng(1).permutation(500)
    swapped = fit_davidson(j[order], i[order], -outcome[order], n_items=5)
    assert swapped.scores == pytest.approx(fit.scores, abs=1e-7)
    assert swapped.nu == pytest.approx(fit.nu, abs=1e-7)


def test_an_item_that_never_lost_keeps_a_finite_score_and_one_never_seen_stands_at_the_middle():
    scores = fit_bradley_terry([0, 0, 1], [1, 2, 2], [1, 1, 1], n_items=4)
    assert np.isfinite(scores).all() and scores[0] > scores[1] > scores[2]
    assert scores[3] == pytest.approx(0, abs=1e-6)
    fit = fit_davidson([0, 1], [1, 2], [0, 0], n_items=3)
    assert np.isfinite([*fit.scores, fit.nu]).all() and fit.nu > 10


def test_an_outcome_of_another_kind_is_refused():
    with pytest.raises(AssertionError, match="an outcome is"):
        fit_bradley_terry([0], [1], [0.5], n_items=2)
    with pytest.raises(AssertionError, match="with itself"):
        fit_davidson([0], [0], [1], n_items=2)


def test_the_fit_expects_the_points_and_ties_that_were_seen():
    # At the maximum of an exponential family expectations equal observations, here to the last digits.
    i, j, outcome = simulate(np.linspace(-2, 2, 4), 1.5, 400, seed=3)
    fit = fit_davidson(i, j, outcome, n_items=4, l2=1e-12)
    weight = np.exp(np.stack([fit.scores[i], (fit.scores[i] + fit.scores[j]) / 2, fit.scores[j]]))
    weight[1] *= fit.nu
    win, tie, loss = weight / weight.sum(0)
    assert tie.sum() == pytest.approx((outcome == 0).sum(), abs=1e-9)
    lead = win - loss - outcome
    for item in range(4):
        assert lead[i == item].sum() - lead[j == item].sum() == pytest.approx(0, abs=1e-9)


def test_a_weight_is_so_many_copies():
    i, j, outcome = simulate(np.linspace(-1, 1, 4), 0.5, 60)
    times = np.random.default_rng(5).integers(0, 4, 60)
    copies = fit_davidson(np.repeat(i, times), np.repeat(j, times), np.repeat(outcome, times), n_items=4)
    weighted = fit_davidson(i, j, outcome, n_items=4, weight=times)
    assert weighted.scores == pytest.approx(copies.scores) and weighted.nu == pytest.approx(copies.nu)
    decided = np.where(outcome == 0, 1, outcome)
    copies_bt = fit_bradley_terry(np.repeat(i, times), np.repeat(j, times), np.repeat(decided, times), n_items=4)
    assert fit_bradley_terry(i, j, decided, n_items=4, weight=times) == pytest.approx(copies_bt)


def test_ties_of_no_weight_are_no_ties():
    fit = fit_davidson([0, 0, 0], [1, 1, 1], [1, 0, -1], n_items=2, weight=[3, 0, 1])
    assert fit.nu == 0 and np.subtract(*fit.scores) == pytest.approx(math.log(3), abs=1e-3)
