"""Published intervals, then coverage and what must not depend on order."""

import numpy as np
import pytest

from tutelage.stats.intervals import cluster_bootstrap, cluster_wilson, mcnemar_exact, wilson


@pytest.mark.parametrize(
    ("k", "n", "low", "high"), [(60, 100, 0.5020, 0.6906), (0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (0, 0, 0, 1)]
)
def test_wilson(k, n, low, high):
    assert wilson(k, n) == pytest.approx((low, high), abs=5e-5)


def test_wilson_solves_its_equation():
    # (p - k/n)^2 = z^2 p (1 - p) / n at both ends.
    for p in wilson(7, 23):
        assert (p - 7 / 23) ** 2 == pytest.approx(1.959964**2 * p * (1 - p) / 23)


def test_three_points_either_way_take_1067_comparisons():
    low, high = wilson(1067 / 2, 1067)
    assert (high - low) / 2 == pytest.approx(0.03, abs=1e-4)


def test_more_successes_than_trials_are_refused():
    with pytest.raises(AssertionError, match="11 successes"):
        wilson(11, 10)


def test_mcnemar():
    assert mcnemar_exact(15, 5) == mcnemar_exact(5, 15) == pytest.approx(0.041389, abs=1e-6)
    assert mcnemar_exact(0, 0) == mcnemar_exact(4, 4) == 1
    assert mcnemar_exact(0, 1000) == pytest.approx(0, abs=1e-200)


def test_independent_rows_give_the_interval_of_the_normal_approximation():
    values = [1.0] * 60 + [0.0] * 40
    low, high = cluster_bootstrap(values, range(100), seed=0)
    assert (low, high) == pytest.approx((0.6 - 1.96 * 0.049, 0.6 + 1.96 * 0.049), abs=0.015)


def test_rows_copied_within_a_prompt_add_no_certainty():
    rng = np.random.default_rng(0)
    values = rng.random(50)
    once = cluster_bootstrap(values, range(50), seed=1)
    tenfold = cluster_bootstrap(np.repeat(values, 10), np.repeat(range(50), 10).tolist(), seed=1)
    as_if_independent = cluster_bootstrap(np.repeat(values, 10), range(500), seed=1)
    assert tenfold == pytest.approx(once)
    assert as_if_independent[1] - as_if_independent[0] < 0.5 * (once[1] - once[0])


def test_a_statistic_of_its_own_agrees_with_the_fast_mean():
    rng = np.random.default_rng(2)
    values, clusters = rng.random(60), rng.integers(0, 15, 60).tolist()
    fast = cluster_bootstrap(values, clusters, n_resamples=300, seed=3)
    assert cluster_bootstrap(values, clusters, lambda x: float(x.mean()), 300, seed=3) == pytest.approx(fast)
    rows = np.stack([values, 2 * values], axis=1)
    ratio = cluster_bootstrap(rows, clusters, lambda x: float(x[:, 1].sum() / x[:, 0].sum()), 50, seed=3)
    assert ratio == pytest.approx((2, 2))


def test_the_same_seed_gives_the_same_interval_and_another_another():
    values = np.random.default_rng(4).random(40)
    assert cluster_bootstrap(values, range(40), seed=5) == cluster_bootstrap(values, range(40), seed=5)
    assert cluster_bootstrap(values, range(40), seed=5) != cluster_bootstrap(values, range(40), seed=6)


def test_a_wider_level_gives_a_wider_interval():
    values = np.random.default_rng(4).random(40)
    narrow, wide = (cluster_bootstrap(values, range(40), seed=5, level=level) for level in (0.5, 0.99))
    assert wide[0] < narrow[0] < narrow[1] < wide[1]


def test_cluster_wilson_is_wilson_where_every_row_is_its_own_cluster():
    values = [1] * 7 + [0] * 16
    low, high = cluster_wilson(values, list(range(23)))
    assert (low, high) == pytest.approx(wilson(7, 23), abs=0.01)


def test_cluster_wilson_counts_copies_of_a_row_once():
    values = [1, 1, 0, 1, 0, 1, 1, 0]
    once, ten = cluster_wilson(values, list(range(8))), cluster_wilson(values * 10, list(range(8)) * 10)
    assert ten == pytest.approx(once, abs=0.02)
    assert cluster_wilson([1.0] * 12, ["a"] * 12) == wilson(1, 1)  # one prompt says little, however many pairs it has
    assert cluster_wilson([], []) == (0.0, 1.0)


def test_cluster_wilson_covers_the_truth_about_as_often_as_it_says():
    rng, held = np.random.default_rng(0), 0
    for _ in range(400):
        chance = rng.beta(2, 1, 30)  # of each prompt, .667 on the whole
        low, high = cluster_wilson(
            (rng.random((30, 6)) < chance[:, None]).ravel().astype(float), np.repeat(range(30), 6)
        )
        held += low <= 2 / 3 <= high
    assert 0.92 <= held / 400 <= 0.98
