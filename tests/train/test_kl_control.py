"""The price of a nat: held, adapted, or set once from a target."""

import pytest

from tutelage.errors import ConfigError
from tutelage.train.kl_control import KLConfig, first_coef, next_coef


@pytest.mark.parametrize(("kl", "coef"), [(12.0, 0.151536), (3.0, 0.148464), (6.3, 0.150384), (6.0, 0.15)])
def test_adaptive_moves_by_a_bounded_share_of_the_error(kl, coef):
    # 0.15 x (1 + clip(KL / 6 - 1, -.2, .2) x 512 / 10 000)
    cfg = KLConfig(mode="adaptive", coef=0.15, target=6.0, horizon=10_000)
    assert first_coef(cfg, 9.0) == 0.15
    assert next_coef(cfg, 0.15, kl, 512) == pytest.approx(coef, abs=1e-6)


def test_fixed_never_moves():
    cfg = KLConfig(mode="fixed", coef=0.07)
    assert first_coef(cfg, 9.0) == 0.07 and next_coef(cfg, 0.07, 99.0, 512) == 0.07


@pytest.mark.parametrize(("std", "target", "coef"), [(1.0, 12.5, 0.2), (1.0, 2.0, 0.5), (3.0, 0.5, 3.0)])
def test_target_sets_it_once_from_the_spread_of_rewards(std, target, coef):
    # beta = std / sqrt(2 x target)
    cfg = KLConfig(mode="target", target=target, budget=20.0)
    assert first_coef(cfg, std) == pytest.approx(coef)
    assert next_coef(cfg, coef, 99.0, 512) == coef


@pytest.mark.parametrize("wrong", [{"coef": -0.1}, {"target": 0.0}, {"budget": 0.0}, {"target": 9.0, "budget": 8.0}])
def test_settings_that_cannot_be(wrong):
    with pytest.raises(ConfigError, match="kl\\."):
        KLConfig(**wrong)


def test_a_fixed_price_knows_no_target():
    assert KLConfig(mode="fixed", target=6.0, budget=1.0).budget == 1.0
