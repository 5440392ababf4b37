"""Draws come from the distribution that is recorded, and from (seed, position) alone. S rows, V vocabulary."""

import math

import numpy as np
import pytest
import torch

from tutelage.engine.request import SamplingConfig
from tutelage.engine.sampling import draw, uniform
from tutelage.errors import ConfigError

LOGITS = torch.tensor([1.0, 2.0, 3.0, -1.0, 0.5])


def numbers(seeds, positions):
    return uniform(np.array(seeds, dtype=np.uint64), np.array(positions, dtype=np.uint64))


def test_uniform_is_splitmix64():
    # The first three outputs of SplitMix64 seeded with 1234567, as published, cut to 53 bits.
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    assert numbers([1234567] * 3, [0, 1, 2]).tolist() == [(z >> 11) * 2.0**-53 for z in published]


def test_uniform_lies_in_0_1_is_even_and_differs_by_seed_and_position():
    seeds, positions = np.meshgrid(np.arange(200), np.arange(100))
    u = numbers(seeds.ravel(), positions.ravel())
    assert u.dtype == torch.float64
    assert u.min() >= 0 and u.max() < 1
    assert len(u.unique()) == 20_000
    # 10 bins of 2000 each; chi-square of 9 degrees of freedom passes 27.9 once in 1000.
    count = torch.histc(u, 10, 0, 1)
    assert ((count - 2000) ** 2 / 2000).sum() < 27.9
    grid = u.reshape(100, 200) - 0.5
    assert abs((grid[:, 1:] * grid[:, :-1]).mean()) < 4 / 12 / math.sqrt(19_900)  # neighbouring seeds
    assert abs((grid[1:] * grid[:-1]).mean()) < 4 / 12 / math.sqrt(19_800)  # neighbouring positions


def test_the_largest_seed_is_served():
    assert 0 <= numbers([2**63 - 1], [10_000]).item() < 1


@pytest.mark.parametrize(
    "settings", [{}, {"temperature": 0.7}, {"top_k": 2}, {"top_p": 0.8}, {"temperature": 1.5, "top_k": 4, "top_p": 0.9}]
)
def test_frequencies_are_the_recorded_probabilities(settings):
    cfg = SamplingConfig(**settings)
    n = 20_000
    token_S, logp_S = draw(LOGITS.expand(n, 5), numbers(range(n), [3] * n), cfg)
    p_V = torch.zeros(5, dtype=torch.float64)
    for token, logp in zip(token_S.tolist(), logp_S.tolist(), strict=True):
        p_V[token] = math.exp(logp)
    assert p_V.sum().item() == pytest.approx(1.0, abs=1e-6)  # every kept token was drawn, and together they are all
    count_V = torch.bincount(token_S, minlength=5)
    kept = p_V > 0
    assert ((count_V - n * p_V)[kept] ** 2 / (n * p_V[kept])).sum() < 18.5  # 4 degrees of freedom: once in 1000
    if cfg.is_policy_itself:
        torch.testing.assert_close(p_V.float(), (LOGITS / cfg.temperature).softmax(-1), atol=1e-6, rtol=1e-5)


def kept_probabilities(**settings):
    """[V] under `settings`, read off one draw in each of 4000 even steps."""
    token_S, logp_S = draw(LOGITS.expand(4000, 5), torch.arange(4000).double() / 4000, SamplingConfig(**settings))
    return {t: pytest.approx(math.exp(p), abs=2e-6) for t, p in zip(token_S.tolist(), logp_S.tolist(), strict=True)}


def test_top_k_and_top_p_leave_out_and_renormalise():
    # softmax of [1, 2, 3, -1, .5] is [.0844, .2294, .6236, .0114, .0512]; the first two by rank alone: 1 to e.
    two = {1: 0.268941, 2: 0.731059}
    assert kept_probabilities(top_k=2) == two
    assert kept_probabilities(top_p=0.7) == two  # .6236 is not enough, .6236 + .2294 is
    assert kept_probabilities(top_p=0.6) == {2: 1.0}
    assert kept_probabilities(top_p=1e-9) == {2: 1.0}  # the likeliest always stays
    assert kept_probabilities(top_k=3, top_p=0.7) == two
    assert kept_probabilities(top_k=99).keys() == {0, 1, 2, 3, 4}


def test_temperature_0_takes_the_likeliest_with_certainty():
    token_S, logp_S = draw(LOGITS.expand(3, 5), torch.tensor([0.0, 0.5, 0.999]), SamplingConfig(temperature=0))
    assert token_S.tolist() == [2, 2, 2]
    assert logp_S.tolist() == [0.0, 0.0, 0.0]


def test_the_ends_of_the_interval_never_draw_an_impossible_token():
    logits_SV = torch.tensor([[-math.inf, 0.0, 0.0, -math.inf]]).expand(2, 4)
    token_S, logp_S = draw(logits_SV, torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64), SamplingConfig())
    assert token_S.tolist() == [1, 2]
    assert logp_S.tolist() == pytest.approx([-math.log(2)] * 2)


@pytest.mark.parametrize(
    "settings",
    [{"max_new_tokens": 0}, {"temperature": -1.0}, {"top_p": 0.0}, {"top_p": 1.1}, {"top_k": -1}],
    ids=lambda s: next(iter(s)),
)
def test_settings_that_cannot_be_are_refused(settings):
    with pytest.raises(ConfigError, match=rf"sampling\.{next(iter(settings))} = "):
        SamplingConfig(**settings)


def test_only_the_whole_distribution_is_the_policy_itself():
    assert SamplingConfig(temperature=0.7).is_policy_itself
    assert not any(SamplingConfig(**s).is_policy_itself for s in [{"temperature": 0}, {"top_k": 5}, {"top_p": 0.9}])
