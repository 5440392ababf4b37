"""A policy of three actions tells every KL estimator apart: as a value, as a loss and in the reward."""

import math

import pytest
import torch

from tutelage.algo.advantage import rloo_advantage, token_rewards
from tutelage.algo.kl import adaptive_coef, coef_for_target, exact_kl, gaussian_kl, k1, k2, k3
from tutelage.algo.policy_loss import k2_loss

Q = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)  # policy
P = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)  # reference
REWARD = torch.tensor([1.0, 0.0, 2.0], dtype=torch.float64)
TARGET = torch.tensor([0.080503, 0.027237, 0.892260], dtype=torch.float64)  # P exp(REWARD / .5) / Z
KL_GRADIENT = [0.346243, -0.220389, -0.125854]
ESTIMATORS = {"k1": k1, "k2": k2, "k3": k3}


def close(got, want, atol=1e-5):
    torch.testing.assert_close(got, torch.as_tensor(want, dtype=got.dtype), atol=atol, rtol=0)


def gradient(expectation, policy=Q):
    """d expectation(logits) / d logits at the policy."""
    logits = policy.log().requires_grad_()
    (g,) = torch.autograd.grad(expectation(logits), logits)
    return g


def as_loss(estimator, policy=Q):
    """Expected gradient when the estimator itself is the loss: the sampling weights are held constant."""
    return gradient(lambda z: (policy * estimator(z.log_softmax(0), P.log())).sum(), policy)


def in_reward(estimator, policy=Q):
    """Expected score-function gradient when the estimator is a detached reward."""
    penalty = estimator(policy.log(), P.log())
    return gradient(lambda z: (policy * z.log_softmax(0) * penalty).sum(), policy)


@pytest.mark.parametrize(
    ("name", "mean", "std"), [("k1", 0.223804657, 0.6934), ("k2", 0.265478794, 0.1552), ("k3", 0.223804657, 0.0949)]
)
def test_mean_and_spread_of_each_estimator(name, mean, std):
    k = ESTIMATORS[name](Q.log(), P.log())
    assert (Q * k).sum().item() == pytest.approx(mean, abs=1e-8)
    assert (Q * (k - (Q * k).sum()) ** 2).sum().sqrt().item() == pytest.approx(std, abs=5e-5)


def test_exact_kl_and_its_gradient():
    assert exact_kl(Q.log(), P.log()).item() == pytest.approx(0.223804657, abs=1e-8)
    close(gradient(lambda z: exact_kl(z, P.log())), KL_GRADIENT)


def test_exact_kl_of_a_token_forbidden_to_both_is_finite():
    logits = torch.tensor([0.0, 1.0, -math.inf], requires_grad=True)
    kl = exact_kl(logits, torch.tensor([1.0, 0.0, -math.inf]))
    kl.backward()
    assert kl.item() == pytest.approx(exact_kl(torch.tensor([0.0, 1.0]), torch.tensor([1.0, 0.0])).item())
    assert logits.grad.isfinite().all()


def test_k1_as_a_loss_pulls_nowhere():
    close(as_loss(k1), [0, 0, 0], atol=1e-12)


def test_k2_as_a_loss_has_the_gradient_of_the_reverse_kl():
    close(as_loss(k2), KL_GRADIENT)


def test_k3_as_a_loss_has_the_gradient_of_the_forward_kl():
    close(as_loss(k3), [0.3, -0.2, -0.1])
    close(as_loss(k3), gradient(lambda z: exact_kl(P.log(), z)))


def test_k1_in_the_reward_has_the_gradient_of_the_reverse_kl():
    close(in_reward(k1), KL_GRADIENT)


def test_k3_in_the_reward_has_another_gradient():
    close(in_reward(k3), [0.046243, -0.020389, -0.025854])


def test_token_rewards_penalise_with_k1():
    # One token a row: the three actions, scored 0, coefficient 1, so the reward is -k1 and its gradient exact.
    mask = torch.ones(3, 1, dtype=torch.bool)
    reward = token_rewards(torch.zeros(3), Q.log()[:, None], P.log()[:, None], mask, kl_coef=1.0)[:, 0]
    close(gradient(lambda z: -(Q * z.log_softmax(0) * reward).sum()), KL_GRADIENT)


def test_k2_loss_has_the_gradient_of_the_reverse_kl_when_weighted_by_the_policy():
    def expected(z):
        logp = z.log_softmax(0)
        mask = torch.ones(1, 1, dtype=torch.bool)
        return sum(Q[i] * k2_loss(logp[i].view(1, 1), P.log()[i].view(1, 1), mask, n_trained=1) for i in range(3))

    close(gradient(expected), KL_GRADIENT)


def test_the_objective_is_stationary_at_its_known_optimum_and_worth_beta_log_z():
    exact_target = (P.log() + REWARD / 0.5).softmax(0)
    close(exact_target, TARGET)
    log_target = exact_target.log()
    objective = (log_target.softmax(0) * REWARD).sum() - 0.5 * exact_kl(log_target, P.log())
    assert objective.item() == pytest.approx(1.455012466, abs=1e-8)
    for penalty in (in_reward(k1, exact_target), as_loss(k2, exact_target)):
        close(exact_target * (REWARD - exact_target @ REWARD) - 0.5 * penalty, [0, 0, 0], atol=1e-12)


def test_k3_as_a_loss_is_stationary_at_a_different_policy():
    other = torch.tensor([0.084235, 0.114304, 0.801462], dtype=torch.float64)
    other = other / other.sum()
    close(other * (REWARD - other @ REWARD) - 0.5 * as_loss(k3, other), [0, 0, 0], atol=2e-6)
    assert (TARGET * (REWARD - TARGET @ REWARD) - 0.5 * as_loss(k3, TARGET)).abs().max() > 0.01


def test_gradient_ascent_on_rloo_with_k1_rewards_reaches_the_optimum():
    # All 9 pairs of samples, weighted by their chance: the expected RLOO gradient without noise.
    first, second = torch.cartesian_prod(torch.arange(3), torch.arange(3)).unbind(1)
    logits = P.log().clone()
    for _ in range(600):
        logp = logits.log_softmax(0)
        mask = torch.ones(3, 1, dtype=torch.bool)
        reward = token_rewards(REWARD, logp[:, None], P.log()[:, None], mask, kl_coef=0.5)[:, 0]
        adv = rloo_advantage(torch.stack([reward[first], reward[second]], 1).reshape(-1), group=2).reshape(-1, 2)
        chance = logp.exp()[first] * logp.exp()[second]
        weight = torch.zeros(3, dtype=torch.float64).index_add(0, first, chance * adv[:, 0])
        logits = logits + 1.0 * (weight - logp.exp() * weight.sum())
    close(logits.softmax(0), TARGET, atol=1e-4)


def test_k3_is_never_negative_and_nought_at_equality():
    d = torch.linspace(-5, 5, 101, dtype=torch.float64)
    assert (k3(d, torch.zeros_like(d)) >= 0).all()
    assert k3(d, d).abs().max() == 0


@pytest.mark.parametrize(("kl", "coef"), [(12, 0.151536), (3, 0.148464), (6.3, 0.150384)])
def test_adaptive_coefficient_moves_by_a_bounded_step(kl, coef):
    assert adaptive_coef(0.15, kl, target=6, horizon=10000, n_sequences=512) == pytest.approx(coef, abs=1e-9)


def test_adaptive_coefficient_rests_on_target():
    assert adaptive_coef(0.15, 6.0, target=6, horizon=10000, n_sequences=512) == 0.15


@pytest.mark.parametrize(("coef", "kl"), [(0.2, 12.5), (0.3, 5.5556), (0.5, 2.0), (1.0, 0.5)])
def test_gaussian_prediction_and_its_inverse(coef, kl):
    assert gaussian_kl(1.0, coef) == pytest.approx(kl, abs=1e-4)
    assert coef_for_target(1.7, gaussian_kl(1.7, coef)) == pytest.approx(coef)
