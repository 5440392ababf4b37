"""Win rates by hand; length control that finds the preference under a planted taste for length."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tutelage.stats.winrate import length_controlled_minimal, win_rate


def planted(constant, effect, n=4000, seed=0):
    """Preferences that depend on length: logit = constant + effect * tanh(lead / std)."""
    rng = np.random.default_rng(seed)
    baseline = rng.integers(200, 800, n).astype(float)
    length = baseline + rng.normal(150, 200, n)
    lead = length - baseline
    logit = constant + effect * np.tanh(lead / lead.std())
    return (rng.random(n) < 1 / (1 + np.exp(-logit))).astype(float), length, baseline


def test_a_tie_is_half_a_win():
    assert win_rate(5, 2, 3) == 0.6
    assert win_rate(0, 4, 0) == 0.5
    with pytest.raises(AssertionError, match="no comparison"):
        win_rate(0, 0, 0)


def test_a_planted_taste_for_length_is_taken_out():
    got = length_controlled_minimal(*planted(0.0, 2.0))
    assert got.raw > 0.65
    assert got.rate == pytest.approx(0.5, abs=0.03)
    assert got.length_effect == pytest.approx(2, abs=0.2)


def test_without_a_taste_for_length_there_is_nothing_to_take_out():
    got = length_controlled_minimal(*planted(0.8, 0.0))
    assert got.rate == pytest.approx(1 / (1 + np.exp(-0.8)), abs=0.03)
    assert got.rate == pytest.approx(got.raw, abs=0.02)


rows = st.lists(
    st.tuples(st.sampled_from([0.0, 0.25, 0.5, 1.0]), st.integers(0, 900), st.integers(0, 900)), min_size=2, max_size=20
)


@settings(max_examples=100, deadline=None)
@given(rows)
def test_swapping_the_models_mirrors_the_rate(data):
    preference, length, baseline = (np.array(x, dtype=float) for x in zip(*data, strict=True))
    got = length_controlled_minimal(preference, length, baseline)
    swapped = length_controlled_minimal(1 - preference, baseline, length)
    assert swapped.rate == pytest.approx(1 - got.rate, abs=1e-6)
    assert swapped.length_effect == pytest.approx(got.length_effect, abs=1e-5)


@settings(max_examples=50, deadline=None)
@given(rows)
def test_equal_lengths_give_the_raw_rate(data):
    preference, length, _ = (np.array(x, dtype=float) for x in zip(*data, strict=True))
    got = length_controlled_minimal(preference, length, length + 7)
    assert got.rate == got.raw == pytest.approx(preference.mean())


def test_a_model_against_itself_draws():
    got = length_controlled_minimal([0.5] * 6, [10, 20, 30, 40, 50, 60], [60, 50, 40, 30, 20, 10])
    assert got.rate == pytest.approx(0.5)


@pytest.mark.parametrize("all_of_them", [0.0, 1.0])
def test_a_unanimous_verdict_stays_unanimous(all_of_them):
    assert length_controlled_minimal([all_of_them] * 3, [1, 2, 3], [3, 1, 2]).rate == all_of_them


def test_the_fit_is_the_best_there_is():
    # The gradient of the penalised log-likelihood by each of the two parameters is 0.
    preference, length, baseline = planted(0.3, 1.0, n=200)
    got = length_controlled_minimal(preference, length, baseline, l2=5.0)
    lead = np.tanh((length - baseline) / (length - baseline).std())
    p = 1 / (1 + np.exp(-(np.log(got.rate / (1 - got.rate)) + got.length_effect * lead)))
    assert (p - preference).sum() == pytest.approx(0, abs=1e-6)
    assert (lead * (p - preference)).sum() + 5 * got.length_effect == pytest.approx(0, abs=1e-6)
