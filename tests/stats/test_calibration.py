"""Calibration error by hand, and temperatures that come back."""

import numpy as np
import pytest

from tutelage.stats.calibration import ece, fit_temperature, fold

P, CORRECT = [0.55, 0.65, 0.75, 0.85, 0.95, 0.95], [1, 0, 1, 1, 1, 1]


def outcomes(margin, temperature, seed=0):
    rng = np.random.default_rng(seed)
    return np.where(rng.random(len(margin)) < 1 / (1 + np.exp(-margin / temperature)), 1, -1)


def test_ece_by_hand():
    # Gaps .45, -.65, .25, .15 and .05 twice (one bin): (.45 + .65 + .25 + .15 + .1) / 6.
    assert ece(P, CORRECT, bins=10) == pytest.approx(0.266667, abs=1e-6)


def test_errors_of_one_bin_cancel_and_of_two_do_not():
    assert ece([0.71, 0.79], [1, 0.5]) == pytest.approx(0)
    assert ece([0.61, 0.79], [1, 0.4]) == pytest.approx(0.39)


def test_an_edge_belongs_to_the_bin_above():
    # .29 * 100 is 28.999... in floating point; with .295 in the same bin the two errors cancel.
    assert ece([0.29, 0.295], [0.585, 0.0], bins=100) == pytest.approx(0)


def test_certainty_falls_into_the_last_bin():
    assert ece([1.0, 0.95], [1, 0.95]) == pytest.approx(0)


def test_folding_makes_presentation_order_irrelevant():
    p, correct = np.array(P), np.array(CORRECT)
    turned = np.array([True, False, True, True, False, True])
    got = fold(np.where(turned, 1 - p, p), np.where(turned, 1 - correct, correct))
    assert got[0] == pytest.approx(p) and got[1].tolist() == CORRECT
    assert ece(*got) == pytest.approx(0.266667, abs=1e-6)


def test_a_calibrated_model_has_little_error_and_temperature_one():
    margin = np.random.default_rng(1).normal(0, 2, 20000)
    outcome = outcomes(margin, 1.0)
    assert ece(*fold(1 / (1 + np.exp(-margin)), outcome == 1)) < 0.03
    assert fit_temperature(margin, outcome) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("temperature", [0.3, 2.5])
def test_the_temperature_that_made_the_outcomes_comes_back(temperature):
    margin = np.random.default_rng(2).normal(0, 2, 20000)
    assert fit_temperature(margin, outcomes(margin, temperature)) == pytest.approx(temperature, rel=0.06)


def test_temperature_by_hand():
    # Margin 2, right 3 times in 4: 2 / T = log 3. Two ties and two wins count the same.
    assert fit_temperature([2.0] * 4, [1, 1, 1, -1]) == pytest.approx(2 / np.log(3))
    assert fit_temperature([2.0, -2.0, 2.0, -2.0], [1, -1, 0, 0]) == pytest.approx(2 / np.log(3))


def test_no_temperature_fits_margins_that_tell_everything_nothing_or_the_reverse():
    assert fit_temperature([1.0, -2.0], [1, -1]) is None
    assert fit_temperature([1.0, 1.0], [1, -1]) is None
    assert fit_temperature([1.0, -2.0, 1.0], [-1, 1, 1]) is None
