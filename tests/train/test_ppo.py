"""PPO on a policy small enough to enumerate: its optimum, its first gradient, and what each part of the loop does."""

import math

import pytest
import torch
from torch.nn.functional import cosine_similarity

from tutelage.algo.kl import coef_for_target
from tutelage.errors import ConfigError
from tutelage.train.experience import gather
from tutelage.train.kl_control import KLConfig
from tutelage.train.machines import SeparateActorCritic
from tutelage.train.monitor import MonitorConfig
from tutelage.train.ppo import PPOConfig, RLState, policy_loss, value_loss

KEEP_OFF_REFERENCE = MonitorConfig(ignore=("KL at the start",))
SMALL = {"prompts_per_update": 16, "samples_per_prompt": 4, "critic_warmup": 0}


@pytest.mark.parametrize(("vocabulary", "length"), [(3, 2), (4, 3)])
def test_the_policy_becomes_reference_times_exp_reward(toy, vocabulary, length):
    problem = toy.random_problem(vocabulary, length, beta=0.5, seed=7)
    assert problem.total_variation(toy.Table(problem.logits_SV)) > 0.25
    assert toy.ppo_distance(problem, updates=120) < 0.01


def test_the_known_optimum_of_three_answers(toy):
    # p = [.2, .5, .3], r = [1, 0, 2], beta = .5  =>  p exp(r / beta) / Z = [.080503, .027237, .892260].
    problem = toy.Problem(torch.tensor([[0.2, 0.5, 0.3]]).log(), torch.tensor([1.0, 0.0, 2.0]), 1, 0.5)
    bench = toy.Bench(problem, 120)
    bench.run_ppo(PPOConfig(updates=120, prompts_per_update=128, samples_per_prompt=4, epochs=2))
    assert bench.policy.logits_SV.softmax(-1)[0].tolist() == pytest.approx([0.080503, 0.027237, 0.892260], abs=5e-3)


def test_the_critic_learns_what_is_still_to_come(toy):
    # At the optimum the value of the opening state is the objective itself: beta log sum p exp(r / beta).
    problem = toy.random_problem(3, 2, beta=0.5, seed=7)
    bench = toy.Bench(problem, 120)
    bench.run_ppo(PPOConfig(updates=120, prompts_per_update=128, samples_per_prompt=4))
    logp_Y = problem.logp_Y(toy.Table(problem.logits_SV)).detach()
    best = 0.5 * torch.logsumexp(logp_Y + problem.reward_Y / 0.5, dim=0)
    assert bench.critic.value_S[0].item() == pytest.approx(best.item(), abs=0.02)


def test_the_first_gradient_points_along_the_objectives(toy):
    problem = toy.random_problem(4, 2, beta=0.3, seed=3)
    away = problem.logits_SV + torch.randn(problem.logits_SV.shape, generator=torch.Generator().manual_seed(5))
    exact = problem.gradient(toy.Table(away)).flatten()
    bench = toy.Bench(problem, 1, grad_clip=1e9, monitor=KEEP_OFF_REFERENCE, start_SV=away)
    bench.run_ppo(
        PPOConfig(updates=1, prompts_per_update=10_000, samples_per_prompt=4, minibatches=1, lam=1.0, critic_warmup=0)
    )
    assert cosine_similarity(-bench.policy.logits_SV.grad.flatten(), exact, dim=0) > 0.99


def test_warm_up_trains_the_critic_and_leaves_the_policy_bit_equal(toy):
    problem = toy.random_problem(3, 2, beta=0.5)
    bench = toy.Bench(problem, 3)
    bench.run_ppo(PPOConfig(updates=2, **SMALL | {"critic_warmup": 2}))
    assert torch.equal(bench.policy.logits_SV, problem.logits_SV)
    assert bench.critic.value_S.abs().max() > 0.05
    assert "value_grad_norm" in bench.rows[1] and "grad_norm" not in bench.rows[1]
    bench.run_ppo(PPOConfig(updates=3, **SMALL | {"critic_warmup": 2}), state=RLState(step=2, kl_coef=0.5))
    assert not torch.equal(bench.policy.logits_SV, problem.logits_SV)


def experience(toy, problem, *, sampler_logp_shift=0.0, weight_cap=2.0):
    """One batch of rollouts, made ready."""
    policy = toy.Table(problem.logits_SV)
    rollouts = toy.TableSampler(problem, policy).sample([toy.PROMPT] * 8, n=2, step=0)
    rollouts.sampler_logp_BT[rollouts.batch.mask_BT] -= sampler_logp_shift
    channels = policy.channels(rollouts.batch).detach()
    return gather(
        rollouts,
        parts=[torch.arange(16)],
        logp=(channels[..., 0], channels[..., 1]),
        reference=policy,
        score=problem.score,
        unfinished=toy.UnfinishedConfig(),
        weight_cap=weight_cap,
    ), channels


def policy_gradient(toy, problem, **more):
    seen, channels = experience(toy, problem, **more)
    adv_BT = torch.where(seen.mask_BT, torch.arange(16.0)[:, None] - 8, 0.0)
    rows = torch.arange(16)
    out = channels.clone().requires_grad_()
    policy_loss(PPOConfig(), seen, adv_BT, rows)(out, rows)[0].backward()
    return out.grad[..., 0]


def test_importance_weights_scale_the_gradient_up_to_their_cap(toy):
    problem = toy.random_problem(3, 2, beta=0.5)
    plain = policy_gradient(toy, problem)
    assert plain.abs().sum() > 0
    # Every token was likelier under the learner by a factor of 1.5, or of 5, which the cap holds at 2.
    torch.testing.assert_close(policy_gradient(toy, problem, sampler_logp_shift=math.log(1.5)), 1.5 * plain)
    torch.testing.assert_close(policy_gradient(toy, problem, sampler_logp_shift=math.log(5.0)), 2 * plain)
    wide = policy_gradient(toy, problem, sampler_logp_shift=math.log(5.0), weight_cap=9.0)
    torch.testing.assert_close(wide, 5 * plain)


@pytest.mark.parametrize(("clip", "moves"), [(0.2, False), (0.0, True), (50.0, True)])
def test_value_clip_is_in_standard_deviations_of_reward_and_0_is_none(toy, clip, moves):
    problem = toy.random_problem(3, 2, beta=0.5)
    seen, _ = experience(toy, problem)
    old_BT = torch.zeros(seen.mask_BT.shape)
    far = 0.3 * float(seen.reward_B.std(unbiased=False))  # past 0.2 deviations already, and short of the return
    reward_BT, rows = torch.where(seen.mask_BT, 10.0, 0.0), torch.arange(16)
    value_BT = torch.full(seen.mask_BT.shape, far).requires_grad_()
    loss, metrics = value_loss(PPOConfig(value_clip=clip), seen, reward_BT, old_BT, rows)(value_BT, rows)
    loss.backward()
    assert bool(value_BT.grad.abs().sum() > 0) is moves
    assert metrics["vf_clip_frac"].item() == pytest.approx(0.0 if moves else 1.0)


def test_losses_are_means_over_the_minibatch_not_over_the_microbatch(toy):
    problem = toy.random_problem(3, 2, beta=0.5)
    seen, channels = experience(toy, problem)
    adv_BT, rows = torch.randn(seen.mask_BT.shape, generator=torch.Generator().manual_seed(0)), torch.arange(16)
    cfg = PPOConfig()
    for loss, out in (
        (policy_loss(cfg, seen, adv_BT, rows), channels + 0.1),
        (value_loss(cfg, seen, adv_BT + 1, adv_BT, rows), adv_BT + 0.05),
        (value_loss(cfg, seen, adv_BT + 1, None, rows), adv_BT + 0.05),
    ):
        whole = loss(out, rows)[0]
        parts = sum(loss(out[part], part)[0] for part in (rows[:3], rows[3:4], rows[4:]))
        torch.testing.assert_close(whole, parts)


class Counting(SeparateActorCritic):
    """Counts the updates of the policy."""

    n = 0

    def step(self, *args, **more):
        self.n += 1
        return super().step(*args, **more)


@pytest.mark.parametrize(("epoch_kl", "n_steps"), [(1e-6, 2), (1e9, 8)])
def test_epochs_end_when_the_policy_has_left_the_old_one(toy, epoch_kl, n_steps):
    problem = toy.random_problem(3, 2, beta=0.5)
    bench = toy.Bench(problem, 1)
    machines = Counting(
        bench.learner(bench.policy, bench.policy.channels, 0.1, 8),
        bench.learner(bench.critic, bench.critic.channels, 0.1, 8),
    )
    cfg = PPOConfig(updates=1, epochs=4, minibatches=2, epoch_kl=epoch_kl, **SMALL)
    bench.run_ppo(cfg, actor_critic=machines)
    assert machines.n == n_steps


def test_the_target_mode_sets_the_coefficient_once_from_the_first_rewards(toy):
    problem = toy.random_problem(3, 2, beta=0.5)
    bench = toy.Bench(problem, 3)
    bench.run_ppo(PPOConfig(updates=3, **SMALL), kl=KLConfig(mode="target", target=2.0, budget=4.0))
    first = bench.rows[0]
    assert first["kl_coef"] == pytest.approx(coef_for_target(first["score_std"], 2.0))
    assert [r["kl_coef"] for r in bench.rows] == [first["kl_coef"]] * 3


def test_the_best_policy_is_the_one_of_highest_value_within_the_kl_budget(toy):
    figures = {1: (1.0, 0.3), 2: (3.0, 99.0), 3: (2.0, 5.0), 4: (1.5, 0.1)}  # update -> value, KL
    kept = []
    bench = toy.Bench(toy.random_problem(3, 2, beta=0.5), 4)
    state = bench.run_ppo(
        PPOConfig(updates=4, eval_every=1, **SMALL),
        kl=KLConfig(mode="fixed", coef=0.5, budget=12.0),
        evaluate=lambda step: ({"eval_kl": figures[step][1]}, figures[step][0]),
        keep_best=kept.append,
    )
    assert kept == [1, 3] and (state.best_step, state.best_value) == (3, 2.0)


def test_the_sampler_gets_every_version_and_the_state_is_saved_on_time(toy):
    saved = []
    bench = toy.Bench(toy.random_problem(3, 2, beta=0.5), 5)
    cfg = PPOConfig(updates=5, save_every=2, eval_every=2, **SMALL)
    evaluated = []
    bench.run_ppo(
        cfg,
        save=lambda state: saved.append(state.step),
        evaluate=lambda step: (evaluated.append(step), ({"eval_kl": 0.0}, 0.0))[1],
    )
    assert bench.sampler.version == 5 and saved == [2, 4] and evaluated == [2, 4, 5]
    assert len(bench.rows) == 5


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"prompts_per_update": 1, "samples_per_prompt": 2, "minibatches": 3}, "only 2 rollouts"),
        ({"clip": 0.0}, "ppo.clip = 0.0"),
        ({"lam": 1.1}, "ppo.lam = 1.1"),
        ({"discount": 0.0}, "ppo.discount = 0.0"),
    ],
)
def test_settings_that_cannot_be(wrong, message):
    with pytest.raises(ConfigError, match=message):
        PPOConfig(**wrong)
