"""KL of best-of-n, curves against enumeration, and the coefficients of Gao's figures."""

import itertools
import math

import numpy as np
import pytest

from tutelage.stats.overoptimisation import bon_curve, bon_kl, fit_bon, fit_rl

D = np.linspace(0, 5, 40)


@pytest.mark.parametrize(
    ("n", "kl"),
    [
        (1, 0),
        (2, 0.193147),
        (4, 0.636294),
        (16, 1.835089),
        (64, 3.174508),
        (256, 4.549084),
        (1024, 5.932448),
        (60000, 10.002117),
    ],
)
def test_kl_of_best_of_n(n, kl):
    assert bon_kl(n) == pytest.approx(kl, abs=1e-6)


def test_best_of_n_is_the_mean_over_all_subsets():
    proxy, gold = [0.3, 2.0, -1.0, 0.9, 1.4, 0.1], [1.0, -3.0, 0.5, 2.0, 0.0, 0.7]
    for point in bon_curve(proxy, gold, range(1, 7)):
        best = [max(s, key=lambda i: proxy[i]) for s in itertools.combinations(range(6), point.n)]
        assert point.proxy == pytest.approx(np.mean([proxy[i] for i in best]))
        assert point.gold == pytest.approx(np.mean([gold[i] for i in best]))
        assert point.kl == bon_kl(point.n)


def test_equal_proxies_are_taken_by_lot_not_by_order():
    proxy, gold = [1.0, 1.0, 0.0], [10.0, 0.0, 4.0]
    for order in itertools.permutations(range(3)):
        curve = bon_curve([proxy[i] for i in order], [gold[i] for i in order], [1, 2, 3])
        # n = 1: the mean, 14/3. n = 2 and 3 always hold one with proxy 1, on average worth 5.
        assert [point.gold for point in curve] == pytest.approx([14 / 3, 5, 5])


def test_a_proxy_that_is_the_gold_never_turns_over():
    gold = np.random.default_rng(0).normal(size=2000)
    curve = bon_curve(gold, gold, [1, 4, 16, 64, 256])
    assert [point.gold for point in curve] == sorted(point.gold for point in curve)
    # Expected greatest of 16 standard normals: 1.766.
    assert curve[2].gold == pytest.approx(1.766, abs=0.08)


def test_best_of_n_of_gao_s_smallest_proxy():
    fit = fit_bon(D, D * (0.490 - 0.120 * D))
    assert (fit.a, fit.b, fit.r2) == (pytest.approx(0.49), pytest.approx(0.12), pytest.approx(1))
    assert fit.d_star == pytest.approx(2.042, abs=5e-4)
    assert fit.r_star == pytest.approx(0.500, abs=5e-4)


def test_reinforcement_learning_of_gao_s_smallest_proxy():
    d = D[1:]
    fit = fit_rl(D, np.append(0.0, d * (0.345 - 0.175 * np.log(d))))
    assert (fit.a, fit.b, fit.r2) == (pytest.approx(0.345), pytest.approx(0.175), pytest.approx(1))
    assert fit.d_star == pytest.approx(2.642, abs=1e-3)
    assert fit.d_star**2 == pytest.approx(6.98, abs=5e-3)
    assert fit.r_star == pytest.approx(0.462, abs=5e-4)


@pytest.mark.parametrize(("fit", "f"), [(fit_bon, lambda d: d), (fit_rl, np.log)])
def test_the_peak_is_where_the_fitted_curve_is_greatest(fit, f):
    d = D[1:]
    r = d * (0.5 - 0.15 * f(d)) + np.random.default_rng(1).normal(0, 0.05, len(d))
    got = fit(d, r)
    fine = np.linspace(0.01, 20, 200_000)
    curve = fine * (got.a - got.b * f(fine))
    assert got.d_star == pytest.approx(fine[curve.argmax()], abs=1e-3)
    assert got.r_star == pytest.approx(curve.max(), abs=1e-6)
    assert 0.5 < got.r2 < 1


def test_noise_lowers_the_share_explained():
    noise = np.random.default_rng(2).normal(0, 1, len(D))
    r2 = [fit_bon(D, D * (0.5 - 0.1 * D) + s * noise).r2 for s in (0, 0.1, 1)]
    assert r2[0] == pytest.approx(1) and r2[0] > r2[1] > r2[2]


@pytest.mark.parametrize("fit", [fit_bon, fit_rl])
def test_a_curve_that_only_rises_has_no_peak(fit):
    got = fit(D[1:], D[1:] ** 2)
    assert got.b < 0 and got.d_star is None and got.r_star is None


def test_a_curve_that_only_falls_has_no_peak_above_nought_for_best_of_n():
    got = fit_bon(D, -D - D**2)
    assert got.a < 0 < got.b and got.d_star is None


def test_a_peak_out_of_all_reach_is_none():
    d = D[1:]
    assert fit_rl(d, d * (1 - 1e-3 * np.log(d))).d_star is None


def test_one_distance_is_too_few():
    with pytest.raises(AssertionError, match="two distances"):
        fit_bon([0.0, 1.0, 1.0], [0.0, 1.0, 1.1])


def test_rewards_that_do_not_vary_leave_nothing_to_explain():
    assert fit_bon([1.0, 2.0, 3.0], [0.0, 0.0, 0.0]).r2 is None
    assert math.isfinite(fit_bon([1.0, 2.0, 3.0], [1.0, 1.0, 1.0]).a)
