"""Worked rewards, GAE vectors and baselines, then padding, shifting, cutting and permuting."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tutelage.algo.advantage import (
    ess_fraction,
    gae,
    group_advantage,
    importance_weight,
    rloo_advantage,
    token_rewards,
)
from tutelage.algo.policy_loss import sequence_policy_loss

LOGP = torch.tensor([[-1.0, -0.5, -2.0]])
REF = torch.tensor([[-1.2, -0.4, -2.5]])
VALUE = torch.tensor([[0.5, 0.8, 1.0]])
REWARD = torch.tensor([[-0.02, 0.01, 1.95]])
ONES = torch.ones(1, 3, dtype=torch.bool)


def close(got, want, atol=1e-5):
    torch.testing.assert_close(got, torch.as_tensor(want, dtype=got.dtype), atol=atol, rtol=0)


def padded(x_BT, left, right, fill):
    return torch.nn.functional.pad(x_BT, (left, right), value=fill)


def test_token_rewards_by_hand():
    # -.1 * (.2, -.1, .5), and the score of 2 on the last token.
    close(token_rewards(torch.tensor([2.0]), LOGP, REF, ONES, kl_coef=0.1), [[-0.02, 0.01, 1.95]])


def test_token_rewards_sum_to_score_minus_penalty_wherever_the_row_starts_and_ends():
    g = torch.Generator().manual_seed(0)
    logp, ref = (torch.randn(4, 6, generator=g, dtype=torch.float64) for _ in range(2))
    score = torch.randn(4, generator=g, dtype=torch.float64)
    mask = torch.tensor([[0, 0, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0], [0, 0, 0, 1, 0, 0], [1] * 6]).bool()
    reward = token_rewards(score, logp, ref, mask, kl_coef=0.3)
    k1_sum = torch.where(mask, logp - ref, 0.0).sum(1)
    close(reward.sum(1), score - 0.3 * k1_sum, atol=1e-12)
    assert (reward[~mask] == 0).all()


def test_score_of_a_row_without_tokens_is_dropped():
    mask = torch.tensor([[False, False], [True, False]])
    reward = token_rewards(torch.tensor([5.0, 7.0]), torch.zeros(2, 2), torch.zeros(2, 2), mask, kl_coef=1.0)
    assert reward.tolist() == [[0, 0], [7, 0]]


def test_token_rewards_carry_no_gradient():
    logp = LOGP.clone().requires_grad_()
    assert not token_rewards(torch.ones(1), logp, REF, ONES, kl_coef=0.1).requires_grad


@pytest.mark.parametrize(
    ("lam", "adv"), [(0.95, [1.336875, 1.1125, 0.95]), (1.0, [1.44, 1.16, 0.95]), (0.0, [0.28, 0.21, 0.95])]
)
def test_gae_by_hand(lam, adv):
    got, returns = gae(REWARD, VALUE, ONES, discount=1.0, lam=lam)
    close(got, [adv])
    close(returns, [[a + v for a, v in zip(adv, (0.5, 0.8, 1.0), strict=True)]])


def test_returns_of_the_worked_case():
    close(gae(REWARD, VALUE, ONES, discount=1.0, lam=0.95)[1], [[1.836875, 1.9125, 1.95]])


def test_a_score_one_past_the_last_token_would_be_shrunk_by_lambda():
    # Not what token_rewards does: this is why it does not.
    reward, value = torch.tensor([[-0.02, 0.01, -0.05, 2.0]]), torch.tensor([[0.5, 0.8, 1.0, 0.0]])
    late, _ = gae(reward, value, torch.ones(1, 4, dtype=torch.bool), discount=1.0, lam=0.95)
    close(late[:, :3], [[1.246625, 1.0175, 0.85]])


@pytest.mark.parametrize(
    ("lam", "want"),
    [
        (1.0, [[-1.45118, -4.4557, 2.5396, 0.5249, -0.49], [3, 2, 1, 0, -4.9]]),
        (0.7, [[-0.676979, -5.248167, 2.4846, 0.6704, -0.49], [2.2899, 1.73, 1, 0, -4.9]]),
        (0.4, [[0.56731, -6.042, 2.3431, 0.815, -0.49], [1.725, 1.46, 1, 0, -4.9]]),
    ],
)
def test_gae_agrees_with_rlax_through_a_terminal_in_mid_sequence(lam, want):
    discount = torch.tensor([[0.99] * 5, [0.9, 0.9, 0.9, 0.0, 0.9]])
    reward = torch.tensor([[0.0, 0, 1, 0, -0.5], [0, 0, 0, 0, 1]])
    reward[:, -1] += discount[:, -1] * -1.0  # rlax bootstraps from a last value of -1, where a response is over
    value = torch.tensor([[1.0, 4, -3, -2, -1], [-3, -2, -1, 0, 5]])
    adv, _ = gae(reward, value, torch.ones(2, 5, dtype=torch.bool), discount=discount, lam=lam)
    close(adv, want, atol=1e-3)


def test_gae_with_lambda_one_is_reward_to_go_minus_value():
    g = torch.Generator().manual_seed(3)
    reward, value = (torch.randn(4, 7, generator=g, dtype=torch.float64) for _ in range(2))
    adv, returns = gae(reward, value, torch.ones(4, 7, dtype=torch.bool), discount=1.0, lam=1.0)
    to_go = reward.flip(1).cumsum(1).flip(1)
    close(adv, to_go - value, atol=1e-12)
    close(returns, to_go, atol=1e-12)


@pytest.mark.parametrize("fill", [0.0, 3.0, math.nan, math.inf])
@pytest.mark.parametrize(("left", "right"), [(0, 2), (3, 0), (2, 3)])
def test_rewards_and_gae_do_not_see_prompt_or_padding(left, right, fill):
    mask = torch.nn.functional.pad(ONES, (left, right))
    logp, ref, value = (padded(x, left, right, fill) for x in (LOGP, REF, VALUE))
    reward = token_rewards(torch.tensor([2.0]), logp, ref, mask, kl_coef=0.1)
    adv, returns = gae(reward, value, mask, discount=1.0, lam=0.95)
    close(adv, padded(torch.tensor([[1.336875, 1.1125, 0.95]]), left, right, 0.0))
    close(returns, padded(torch.tensor([[1.836875, 1.9125, 1.95]]), left, right, 0.0))


def test_gae_treats_rows_apart():
    g = torch.Generator().manual_seed(4)
    reward, value = (torch.randn(4, 5, generator=g) for _ in range(2))
    mask = torch.tensor([[1, 1, 1, 1, 1], [0, 1, 1, 0, 0], [0, 0, 0, 0, 0], [0, 0, 1, 1, 1]]).bool()
    whole = gae(reward, value, mask, discount=0.9, lam=0.8)
    for i in range(4):
        one = gae(reward[i : i + 1], value[i : i + 1], mask[i : i + 1], discount=0.9, lam=0.8)
        close(one[0], whole[0][i : i + 1], atol=0)
        close(one[1], whole[1][i : i + 1], atol=0)


def test_gae_refuses_a_mask_with_a_hole():
    with pytest.raises(AssertionError, match="hole"):
        gae(REWARD, VALUE, torch.tensor([[True, False, True]]), discount=1.0, lam=1.0)


def test_rloo_by_hand():
    # Means of the others: 11/3, 10/3, 3, 2.
    got = rloo_advantage(torch.tensor([1.0, 2, 3, 6]), group=4)
    close(got, [-2.666667, -1.333333, 0, 4])
    assert got.sum().item() == pytest.approx(0, abs=1e-6)


def test_group_advantage_by_hand():
    reward = torch.tensor([1.0, 2, 3, 6])
    close(group_advantage(reward, group=4, scale=True), [-1.068988, -0.534494, 0, 1.603482])
    close(group_advantage(reward, group=4, scale=False), [-2, -1, 0, 3])


@settings(max_examples=50, deadline=None)
@given(st.floats(-1e3, 1e3, width=32), st.integers(2, 9))
def test_equal_groups_get_exactly_nought(reward, group):
    reward_B = torch.full((2 * group,), reward)
    for adv in (
        group_advantage(reward_B, group=group, scale=True),
        group_advantage(reward_B, group=group, scale=False),
        rloo_advantage(reward_B, group=group),
    ):
        assert (adv == 0).all()


def test_baselines_ignore_a_shift_of_the_reward_and_follow_a_permutation_within_a_group():
    reward = torch.randn(12, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    order = torch.tensor([2, 0, 1, 3, 5, 4, 7, 8, 6, 11, 10, 9])
    for f in (
        lambda r: rloo_advantage(r, group=3),
        lambda r: group_advantage(r, group=3, scale=True),
        lambda r: group_advantage(r, group=3, scale=False),
    ):
        close(f(reward + 100), f(reward), atol=1e-10)
        close(f(reward[order]), f(reward)[order], atol=1e-12)
        close(f(reward)[:6], f(reward[:6]), atol=0)


def test_half_a_group_is_refused():
    with pytest.raises(AssertionError, match="do not fill"):
        rloo_advantage(torch.zeros(5), group=2)
    with pytest.raises(AssertionError, match="group = 1"):
        group_advantage(torch.zeros(5), group=1, scale=True)


@pytest.mark.parametrize("k", [2, 3])
def test_score_function_gradient_by_enumeration(k):
    # Policy (.2, .5, .3), rewards (1, 0, 2): exact gradient p (r - E r) = (.04, -.4, .36). A baseline that includes
    # the sample itself shrinks it by (k - 1) / k.
    p, reward = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64), torch.tensor([1.0, 0, 2], dtype=torch.float64)
    got = {}
    for name, advantage in (
        ("loo", rloo_advantage),
        ("self", lambda r, group: group_advantage(r, group=group, scale=False)),
    ):
        logits = p.log().requires_grad_()
        loss = torch.zeros((), dtype=torch.float64)
        for sample in itertools.product(range(3), repeat=k):
            i = torch.tensor(sample)
            logp = logits.log_softmax(0)[i][:, None]
            mask = torch.ones(k, 1, dtype=torch.bool)
            adv = advantage(reward[i], group=k)
            one, _ = sequence_policy_loss(logp, logp, adv, mask, clip=0.2, n_sequences=k)
            loss = loss + p[i].prod() * one
        (g,) = torch.autograd.grad(-loss, logits)
        got[name] = g
    close(got["loo"], [0.04, -0.4, 0.36], atol=1e-12)
    close(got["self"], {2: [0.02, -0.2, 0.18], 3: [0.026667, -0.266667, 0.24]}[k])


def test_importance_weights_are_capped_and_effective_sample_size_is_of_the_uncapped():
    d = torch.tensor([[0.0, 0.5, -0.5, 2.0]], requires_grad=True)
    mask = torch.ones(1, 4, dtype=torch.bool)
    weight = importance_weight(d, torch.zeros(1, 4), mask, cap=2.0)
    close(weight, [[1, 1.648721, 0.606531, 2]])
    assert not weight.requires_grad
    assert ess_fraction(d, mask).item() == pytest.approx(0.482673, abs=1e-5)


def test_importance_weights_and_sample_size_do_not_see_padding():
    d = torch.tensor([[0.0, 0.5, -0.5, 2.0, math.nan, math.inf, -math.inf]])
    mask = torch.tensor([[True] * 4 + [False] * 3])
    weight = importance_weight(d, torch.zeros_like(d), mask, cap=2.0)
    close(weight, [[1, 1.648721, 0.606531, 2, 0, 0, 0]])
    assert ess_fraction(d, mask).item() == pytest.approx(0.482673, abs=1e-5)


def test_effective_sample_size_runs_from_one_over_n_to_one_and_ignores_scale():
    mask = torch.ones(4, dtype=torch.bool)
    assert ess_fraction(torch.full((4,), 500.0), mask).item() == pytest.approx(1)
    assert ess_fraction(torch.tensor([500.0, 0, 0, 0]), mask).item() == pytest.approx(0.25)
