"""Simulated labellers: tiers by hand, then calibration, bias and carelessness on drawn scores."""

import numpy as np
import pytest

from tutelage.errors import ConfigError
from tutelage.simulate.labeller import (
    LabellerConfig,
    SimulatedLabeller,
    calibrate_noise,
    labellers,
    pair_agreement,
    tiers_of,
)
from tutelage.stats.agreement import pairwise_agreement

GOLD = np.random.default_rng(0).normal(size=(1500, 4)).tolist()


def test_tiers_tie_neighbours_that_are_near():
    # In order 2.0, 1.9, 1.7, 0.1: gaps .1, .2, 1.6. The chain ties the first three.
    assert tiers_of(np.array([2.0, 0.1, 1.9, 1.7]), 0.25).tolist() == [1, 2, 1, 1]
    assert tiers_of(np.array([2.0, 0.1, 1.9, 1.7]), 0.15).tolist() == [1, 3, 1, 2]
    assert tiers_of(np.array([[1.0, 2.0], [2.0, 1.0]]), 0.0).tolist() == [[2, 1], [1, 2]]


def test_equal_scores_are_tied_even_at_width_zero():
    assert tiers_of(np.array([1.0, 1.0, 0.0]), 0.0).tolist() == [1, 1, 2]


def test_pair_agreement_counts_a_tie_against_a_preference_half():
    # Pairs (0,1), (0,2), (1,2): the first labeller says <, <, =; the second says <, =, >.
    assert pair_agreement(np.array([1, 2, 2]), np.array([1, 2, 1])).tolist() == [1.0, 0.5, 0.5]


@pytest.mark.parametrize("tie_width", [0.0, 0.25])
@pytest.mark.parametrize("agreement", [0.63, 0.73, 0.9])
def test_calibrated_labellers_agree_as_asked(agreement, tie_width):
    sigma = calibrate_noise(GOLD, agreement, tie_width, seed=1)
    config = LabellerConfig(n_labelers=2, agreement=agreement, tie_width=tie_width)
    judged = [
        (one.pseudonym, str(i), {str(k): tier for k, tier in enumerate(one.rank(str(i), scores, range(4)))})
        for one in labellers(config, sigma, seed=2)
        for i, scores in enumerate(GOLD)
    ]
    assert pairwise_agreement(judged).half.value == pytest.approx(agreement, abs=0.015)


def test_calibration_takes_prompts_with_different_numbers_of_texts():
    mixed = [scores[: 2 + i % 3] for i, scores in enumerate(GOLD)]
    assert calibrate_noise(mixed, 0.73, 0.25, 0) == pytest.approx(calibrate_noise(GOLD, 0.73, 0.25, 0), rel=0.1)


def test_calibration_scales_with_the_scores():
    doubled = [[2 * s for s in scores] for scores in GOLD]
    sigma = calibrate_noise(GOLD, 0.73, 0.25, 0)
    assert calibrate_noise(doubled, 0.73, 0.5, 0) == pytest.approx(2 * sigma, rel=1e-6)


def test_perfect_agreement_needs_no_noise():
    assert calibrate_noise(GOLD, 1.0, 0.25, 0) == 0.0


def test_calibration_refuses_what_cannot_be_compared():
    with pytest.raises(ConfigError, match="two or more"):
        calibrate_noise([[1.0]], 0.73, 0.25, 0)
    with pytest.raises(ConfigError, match="two or more"):
        calibrate_noise([], 0.73, 0.25, 0)


def ranked(config: LabellerConfig, sigma: float, gold=GOLD, shown=range(4)) -> np.ndarray:
    one = SimulatedLabeller("sim-01", config, sigma, seed=5)
    return np.array([one.rank(str(i), scores, list(shown)) for i, scores in enumerate(gold)])


def tie_rate(tiers: np.ndarray) -> float:
    i, j = np.triu_indices(tiers.shape[1], k=1)
    return float((tiers[:, i] == tiers[:, j]).mean())


def test_ties_grow_with_the_width_from_none():
    rates = [tie_rate(ranked(LabellerConfig(tie_width=w), sigma=0.7)) for w in (0.0, 0.25, 0.6)]
    assert rates[0] == 0 and 0.08 < rates[1] < 0.25 and rates[2] > rates[1] + 0.1


def test_without_noise_the_ranking_is_the_gold_order():
    tiers = ranked(LabellerConfig(tie_width=0.0), sigma=0.0)
    assert (np.argsort(tiers, axis=1) == np.argsort(-np.array(GOLD), axis=1)).all()


def test_the_first_position_wins_more_often_with_a_bias():
    shown = [2, 0, 1, 3]
    wins = [(ranked(LabellerConfig(position_bias=b), 0.7, shown=shown)[:, 2] == 1).mean() for b in (0.0, 1.0)]
    assert wins[0] == pytest.approx(0.3, abs=0.06)  # a quarter, and a little for ties
    assert wins[1] > wins[0] + 0.15


def test_a_careless_labeller_agrees_by_chance_with_gold():
    tiers = ranked(LabellerConfig(carelessness=1.0), sigma=0.0)
    i, j = np.triu_indices(4, k=1)
    gold = np.array(GOLD)
    right = (tiers[:, i] < tiers[:, j]) == (gold[:, i] > gold[:, j])
    assert tie_rate(tiers) == 0
    assert right.mean() == pytest.approx(0.5, abs=0.025)


def test_half_careless_answers_leave_half_of_the_gold_orders():
    tiers = ranked(LabellerConfig(carelessness=0.5, tie_width=0.0), sigma=0.0)
    whole = (np.argsort(tiers, axis=1) == np.argsort(-np.array(GOLD), axis=1)).all(axis=1)
    # A random order of four is the right one once in 24: .5 + .5 / 24 = .521.
    assert whole.mean() == pytest.approx(0.521, abs=0.04)


def test_a_ranking_depends_on_seed_labeller_and_task_alone():
    scores, config = [0.3, 0.1, 0.2, 0.0], LabellerConfig(tie_width=0.0)

    def orders(name: str, seed: int) -> list[tuple[int, ...]]:
        return [SimulatedLabeller(name, config, 1.0, seed).rank(str(i), scores, range(4)) for i in range(30)]

    assert orders("sim-01", 1) == orders("sim-01", 1)
    assert orders("sim-01", 1) != orders("sim-02", 1)
    assert orders("sim-01", 1) != orders("sim-01", 2)
    assert len(set(orders("sim-01", 1))) > 5


def test_time_grows_with_the_answers_and_is_the_median_asked_for():
    one = SimulatedLabeller("sim-01", LabellerConfig(seconds_per_item=8.0), 1.0, 0)
    times = [one.active_ms(str(i), 4) for i in range(400)]
    assert np.median(times) == pytest.approx(32_000, rel=0.1)
    assert one.active_ms("0", 8) == pytest.approx(2 * one.active_ms("0", 4), abs=1)


def test_pseudonyms_say_that_they_are_simulated():
    assert [one.pseudonym for one in labellers(LabellerConfig(n_labelers=3), 1.0, 0)] == ["sim-01", "sim-02", "sim-03"]


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("n_labelers", 0),
        ("agreement", 0.5),
        ("agreement", 1.01),
        ("carelessness", 1.2),
        ("tie_width", -0.1),
        ("seconds_per_item", float("nan")),
        ("position_bias", float("inf")),
    ],
)
def test_a_setting_that_cannot_be_is_named_with_its_mend(setting, value):
    with pytest.raises(ConfigError, match=rf"simulate\.{setting} = .*Set it"):
        LabellerConfig(**{setting: value})
