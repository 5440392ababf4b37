"""RLOO: k samples a prompt, each measured against the mean of the others; no critic. The whole algorithm is `run`.

B rollouts, T tokens. Ahmadian et al. 2024 (arXiv:2402.14740).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tutelage.algo.advantage import rloo_advantage
from tutelage.algo.policy_loss import sequence_policy_loss
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
from tutelage.train.machines import Policy, Reference, Sampler, Score
from tutelage.train.monitor import Monitor
from tutelage.train.ppo import RLState
from tutelage.types import Prompt


@dataclass(frozen=True, slots=True, kw_only=True)
class RLOOConfig:
    """Settings of the algorithm alone: models, data and machines have their own."""

    updates: int = 60  # batches of fresh rollouts
    prompts_per_update: int = 32
    samples_per_prompt: int = 4
    epochs: int = 1
    minibatches: int = 1
    clip: float = 0.2  # of the whole sequence's ratio, when rollouts are used more than once
    old_logp: OldLogp = "auto"  # by a pass of the learner; auto: by the sampler once the two are seen to agree
    eval_every: int = 10  # updates
    save_every: int = 20  # updates

    def __post_init__(self) -> None:
        if self.samples_per_prompt < 2:
            raise ConfigError(
                f"rloo.samples_per_prompt = {self.samples_per_prompt}, but each sample is measured against the others "
                f"of its prompt. Set it to 2 or more (4 is usual)."
            )
        if not 0 < self.clip < 1:
            raise ConfigError(
                f"rloo.clip = {self.clip}, but the ratio is held within 1 +- clip. Set it between 0 and 1 (0.2 is "
                f"usual)."
            )


def run(
    cfg: RLOOConfig,
    *,
    kl: KLConfig,
    unfinished: UnfinishedConfig,
    prompts: Callable[[int], Sequence[Prompt]],
    sampler: Sampler,
    policy: Policy,
    reference: Reference,
    score: Score,
    evaluate: Callable[[int], tuple[dict[str, float], float]],
    monitor: Monitor,
    log: Callable[[int, dict[str, float]], None],
    save: Callable[[RLState], None],
    keep_best: Callable[[int], None],
    state: RLState,
    seed: int,
) -> RLState:
    """prompts -> k rollouts each -> rewards minus KL -> leave-one-out advantages -> update.

    Arguments as in `ppo.run`.
    """
    monitor.resume(state.history)
    while state.step < cfg.updates and not state.stopped:
        step = state.step
        rollouts = sampler.sample(prompts(step), n=cfg.samples_per_prompt, step=step)
        parts = shuffled_parts(len(rollouts), cfg.minibatches, seed=derive(seed, "minibatch", step))
        is_served = cfg.old_logp == "auto" and is_sampler_exact(state.history)
        seen = gather(
            rollouts,
            parts=parts,
            logp=None if is_served else policy.logp(rollouts.batch, parts),
            reference=reference,
            score=score,
            unfinished=unfinished,
            weight_cap=float("inf"),
        )
        if state.kl_coef is None:
            state.kl_coef = first_coef(kl, float(seen.reward_B.std(unbiased=False)))
        adv_B = rloo_advantage(seen.reward_B - state.kl_coef * seen.kl_B, group=rollouts.group)

        metrics = describe(seen) | {"kl_coef": state.kl_coef, "tokens": float(rollouts.batch.length_B.sum())}
        monitor.before_update(step, metrics, seen)
        for epoch in range(cfg.epochs):
            for i, rows in enumerate(parts):
                found = policy.step([Term(rollouts.batch, rows, sequence_loss(cfg, seen, adv_B, rows))])
                metrics |= monitor.after_minibatch(step, epoch, i, found)
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


def sequence_loss(cfg: RLOOConfig, seen: Experience, adv_B: Tensor, rows: Tensor) -> Loss:
    """The loss of one minibatch, averaged over its sequences.

    On fresh rollouts the ratio is 1 and nothing is clipped.
    """
    reused = cfg.epochs * cfg.minibatches > 1

    def loss(out_BTC: Tensor, r: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        logp_BT = out_BTC[..., 0]
        value, metrics = sequence_policy_loss(
            logp_BT,
            seen.logp_BT[r],
            adv_B[r],
            seen.mask_BT[r],
            clip=cfg.clip if reused else None,
            n_sequences=len(rows),
        )
        if seen.entropy_BT is None:
            return value, metrics | first_look(out_BTC, seen, r, rows)
        drift_BT = torch.where(seen.mask_BT[r], logp_BT.detach() - seen.logp_BT[r], 0.0)
        return value, {**metrics, "max_ratio_error": drift_BT.exp().sub(1).abs().max()}

    return loss
