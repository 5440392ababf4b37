"""PPO with a critic and a KL price: sample, score, shape, estimate advantages, step. The whole algorithm is `run`.

B rollouts, T tokens. Ouyang et al. 2022 (arXiv:2203.02155); Schulman et al. 2017 (arXiv:1707.06347).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from tutelage.algo.advantage import gae, token_rewards
from tutelage.algo.masked import whiten
from tutelage.algo.policy_loss import ppo_clip_loss
from tutelage.algo.value_loss import clipped_value_loss, explained_variance
from tutelage.data.packing import shuffled_parts
from tutelage.errors import ConfigError
from tutelage.seed import derive
from tutelage.train.experience import (
    Experience,
    OldLogp,
    UnfinishedConfig,
    describe,
    first_look,
    gather,
    is_sampler_exact,
)
from tutelage.train.kl_control import KLConfig, first_coef, next_coef
from tutelage.train.learner import Loss, Term
from tutelage.train.machines import ActorCritic, Reference, Sampler, Score
from tutelage.train.monitor import Monitor
from tutelage.types import Prompt


@dataclass(frozen=True, slots=True, kw_only=True)
class PPOConfig:
    """Settings of the algorithm alone: models, data and machines have their own."""

    updates: int = 60  # batches of fresh rollouts
    prompts_per_update: int = 64
    samples_per_prompt: int = 2
    epochs: int = 1  # passes over one batch of rollouts
    minibatches: int = 2  # optimiser steps of one pass
    clip: float = 0.2  # of the ratio
    value_clip: float = 0.2  # of the value, in standard deviations of the rollouts' rewards; 0 = none
    discount: float = 1.0
    lam: float = 0.95
    critic_warmup: int = 2  # first updates that train the critic alone
    epoch_kl: float = 0.05  # nats a token from the old policy at which no further epoch follows
    weight_cap: float = 2.0  # of the importance weights learner / sampler
    old_logp: OldLogp = "auto"  # by a pass of the learner; auto: by the sampler once the two are seen to agree
    ptx_coef: float = 0.0  # weight of the language loss on demonstrations or pre-training text
    eval_every: int = 10  # updates
    save_every: int = 20  # updates

    def __post_init__(self) -> None:
        n_rollouts = self.prompts_per_update * self.samples_per_prompt
        if n_rollouts < self.minibatches:
            raise ConfigError(
                f"ppo.minibatches = {self.minibatches}, but one update has only {n_rollouts} rollouts, so some "
                f"minibatches would be empty. Lower it."
            )
        if not 0 < self.clip < 1:
            raise ConfigError(
                f"ppo.clip = {self.clip}, but the ratio is held within 1 +- clip. Set it between 0 and 1 (0.2 is "
                f"usual)."
            )
        if not 0 <= self.lam <= 1 or not 0 < self.discount <= 1:
            raise ConfigError(f"ppo.lam = {self.lam}, ppo.discount = {self.discount}: both are shares, at most 1.")


@dataclass(slots=True)
class RLState:
    """What the next update depends on besides the learners."""

    step: int = 0
    kl_coef: float | None = None  # None until the first rollouts have been scored
    best_step: int = -1
    best_value: float = float("-inf")
    stopped: str = ""  # why the run ended early
    history: list[dict[str, float]] = field(default_factory=list)  # metrics of past updates, for the monitor


def run(
    cfg: PPOConfig,
    *,
    kl: KLConfig,
    unfinished: UnfinishedConfig,
    prompts: Callable[[int], Sequence[Prompt]],
    sampler: Sampler,
    actor_critic: ActorCritic,
    reference: Reference,
    score: Score,
    language: Callable[[int, int], Sequence[Term]],
    evaluate: Callable[[int], tuple[dict[str, float], float]],
    monitor: Monitor,
    log: Callable[[int, dict[str, float]], None],
    save: Callable[[RLState], None],
    keep_best: Callable[[int], None],
    state: RLState,
    seed: int,
) -> RLState:
    """prompts -> rollouts -> rewards -> advantages -> update, `cfg.updates` times or until the monitor stops it.

    prompts    of update i
    language   terms of the language loss for (update, minibatch); used when ptx_coef > 0
    evaluate   figures of the present policy, and the one by which the best is chosen (within the KL budget)
    keep_best  stores the present policy as the best so far
    """
    monitor.resume(state.history)
    while state.step < cfg.updates and not state.stopped:
        step = state.step
        rollouts = sampler.sample(prompts(step), n=cfg.samples_per_prompt, step=step)
        parts = shuffled_parts(len(rollouts), cfg.minibatches, seed=derive(seed, "minibatch", step))
        # While the policy is not trained, no pass of an update would show that sampler and learner still agree.
        is_served = cfg.old_logp == "auto" and step >= cfg.critic_warmup and is_sampler_exact(state.history)
        seen = gather(
            rollouts,
            parts=parts,
            logp=None if is_served else actor_critic.logp(rollouts.batch, parts),
            reference=reference,
            score=score,
            unfinished=unfinished,
            weight_cap=cfg.weight_cap,
        )
        if state.kl_coef is None:
            state.kl_coef = first_coef(kl, float(seen.reward_B.std(unbiased=False)))
        reward_BT = token_rewards(seen.reward_B, seen.logp_BT, seen.ref_logp_BT, seen.mask_BT, kl_coef=state.kl_coef)
        value_BT = actor_critic.values(rollouts.batch, parts, value_loss(cfg, seen, reward_BT, None, parts[0]))
        adv_BT, return_BT = gae(reward_BT, value_BT, seen.mask_BT, discount=cfg.discount, lam=cfg.lam)
        adv_BT = whiten(adv_BT, seen.mask_BT)

        metrics = describe(seen) | {"kl_coef": state.kl_coef, "tokens": float(rollouts.batch.length_B.sum())}
        metrics["explained_variance"] = float(explained_variance(value_BT, return_BT, seen.mask_BT))
        monitor.before_update(step, metrics, seen)
        for epoch in range(cfg.epochs):
            for i, rows in enumerate(parts):
                found = actor_critic.step(
                    rollouts.batch,
                    rows,
                    policy_loss(cfg, seen, adv_BT, rows),
                    value_loss(cfg, seen, reward_BT, value_BT, rows),
                    extra=language(step, epoch * cfg.minibatches + i) if cfg.ptx_coef else (),
                    train_policy=step >= cfg.critic_warmup,
                )
                metrics |= monitor.after_minibatch(step, epoch, i, found)
            if metrics.get("kl_old", 0.0) > cfg.epoch_kl:
                break
        sampler.load(version=step + 1)
        state.kl_coef = next_coef(kl, state.kl_coef, metrics["kl"], len(rollouts))
        state.step = step + 1
        if state.step % cfg.eval_every == 0 or state.step == cfg.updates:
            figures, value = evaluate(state.step)
            metrics |= figures
            if value > state.best_value and figures["eval_kl"] <= kl.budget:
                state.best_step, state.best_value = state.step, value
                keep_best(state.step)
        state.history.append(metrics)
        state.stopped = monitor.after_update(step, state.history)
        log(step, metrics)
        if state.step % cfg.save_every == 0:
            save(state)
    return state


def policy_loss(cfg: PPOConfig, seen: Experience, adv_BT: Tensor, rows: Tensor) -> Loss:
    """The clipped loss of one minibatch, averaged over its trained tokens."""
    n_trained = seen.mask_BT[rows].sum().clamp(min=1)

    def loss_of(out_BTC: Tensor, r: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        logp_BT = out_BTC[..., 0]
        loss, metrics = ppo_clip_loss(
            logp_BT,
            seen.logp_BT[r],
            adv_BT[r],
            seen.mask_BT[r],
            clip_low=cfg.clip,
            clip_high=cfg.clip,
            n_trained=n_trained,
            weight_BT=seen.weight_BT[r],
        )
        if seen.entropy_BT is None:
            return loss, metrics | first_look(out_BTC, seen, r, rows)
        drift_BT = torch.where(seen.mask_BT[r], logp_BT.detach() - seen.logp_BT[r], 0.0)
        return loss, {**metrics, "max_ratio_error": drift_BT.exp().sub(1).abs().max()}

    return loss_of


def value_loss(cfg: PPOConfig, seen: Experience, reward_BT: Tensor, value_BT: Tensor | None, rows: Tensor) -> Loss:
    """The critic's loss of one minibatch, averaged over its trained tokens.

    value_BT  before the update; None in the first step, whose own pass tells them
    """
    n_trained = seen.mask_BT[rows].sum().clamp(min=1)
    clip = cfg.value_clip * float(seen.reward_B.std(unbiased=False)) or None

    def loss_of(value_now_BT: Tensor, r: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        old_BT = value_now_BT.detach() if value_BT is None else value_BT[r]
        _, return_BT = gae(reward_BT[r], old_BT, seen.mask_BT[r], discount=cfg.discount, lam=cfg.lam)
        return clipped_value_loss(value_now_BT, old_BT, return_BT, seen.mask_BT[r], clip=clip, n_trained=n_trained)

    return loss_of
