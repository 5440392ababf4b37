"""RLOO finds the optimum where it can be counted, and its first gradient is the exact one."""

import pytest
import torch
from torch.nn.functional import cosine_similarity

from tutelage.errors import ConfigError
from tutelage.train.monitor import MonitorConfig
from tutelage.train.rloo import RLOOConfig

KEEP_OFF_REFERENCE = MonitorConfig(ignore=("KL at the start",))


@pytest.mark.parametrize(("vocabulary", "length"), [(3, 2), (4, 3)])
def test_the_policy_becomes_reference_times_exp_reward(toy, vocabulary, length):
    problem = toy.random_problem(vocabulary, length, beta=0.5, seed=7)
    assert problem.total_variation(toy.Table(problem.logits_SV)) > 0.25
    assert toy.rloo_distance(problem, updates=120) < 0.01


def test_the_known_optimum_of_three_answers(toy):
    # p = [.2, .5, .3], r = [1, 0, 2], beta = .5  =>  p exp(r / beta) / Z = [.080503, .027237, .892260].
    problem = toy.Problem(torch.tensor([[0.2, 0.5, 0.3]]).log(), torch.tensor([1.0, 0.0, 2.0]), 1, 0.5)
    bench = toy.Bench(problem, 250)
    bench.run_rloo(RLOOConfig(updates=250, prompts_per_update=64, samples_per_prompt=4))
    assert bench.policy.logits_SV.softmax(-1)[0].tolist() == pytest.approx([0.080503, 0.027237, 0.892260], abs=5e-3)


def test_reused_rollouts_lead_to_the_same_optimum(toy):
    problem = toy.random_problem(3, 2, beta=0.5, seed=7)
    bench = toy.Bench(problem, 100, lr=0.03)
    bench.run_rloo(RLOOConfig(updates=100, prompts_per_update=128, samples_per_prompt=4, epochs=2, minibatches=2))
    assert problem.total_variation(bench.policy) < 0.01


def test_the_first_gradient_is_that_of_the_objective(toy):
    problem = toy.random_problem(4, 2, beta=0.3, seed=3)
    away = problem.logits_SV + torch.randn(problem.logits_SV.shape, generator=torch.Generator().manual_seed(5))
    exact = problem.gradient(toy.Table(away)).flatten()
    bench = toy.Bench(problem, 1, grad_clip=1e9, monitor=KEEP_OFF_REFERENCE, start_SV=away)
    bench.run_rloo(RLOOConfig(updates=1, prompts_per_update=10_000, samples_per_prompt=4))
    got = -bench.policy.logits_SV.grad.flatten()
    assert cosine_similarity(got, exact, dim=0) > 0.99
    assert got.norm() / exact.norm() == pytest.approx(1.0, abs=0.03)


def test_the_first_gradient_of_three_answers(toy):
    # d E[r] / d logit_i = p_i (r_i - mean r) = [.2 x .2, .5 x -.8, .3 x 1.2].
    problem = toy.Problem(torch.tensor([[0.2, 0.5, 0.3]]).log(), torch.tensor([1.0, 0.0, 2.0]), 1, 0.0)
    bench = toy.Bench(problem, 1, grad_clip=1e9)
    bench.run_rloo(RLOOConfig(updates=1, prompts_per_update=20_000, samples_per_prompt=2))
    assert (-bench.policy.logits_SV.grad[0]).tolist() == pytest.approx([0.04, -0.4, 0.36], abs=0.01)


def test_the_clip_holds_back_a_step_on_reused_rollouts(toy):
    # Advantages of opposite sign in a pair; a giant learning rate. The second pass finds ratios past 1 +- clip.
    problem = toy.random_problem(3, 2, beta=0.1, seed=1)
    bench = toy.Bench(problem, 1, lr=1.0)
    bench.run_rloo(RLOOConfig(updates=1, prompts_per_update=64, samples_per_prompt=2, epochs=2))
    assert bench.rows[0]["clip_frac"] > 0.3 / 2  # the mean of two passes, of which the first clips nothing
    fresh = toy.Bench(problem, 1, lr=1.0)
    fresh.run_rloo(RLOOConfig(updates=1, prompts_per_update=64, samples_per_prompt=2))
    assert fresh.rows[0]["clip_frac"] == 0


def test_a_single_sample_has_nothing_to_be_measured_against():
    with pytest.raises(ConfigError, match="samples_per_prompt = 1"):
        RLOOConfig(samples_per_prompt=1)
    with pytest.raises(ConfigError, match="clip = 1"):
        RLOOConfig(clip=1.0)
