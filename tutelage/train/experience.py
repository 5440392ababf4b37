"""Rollouts with everything that an update needs: scores, penalties, old and reference log-probabilities. No algorithm.

B rollouts, T tokens. Log-probabilities in nats, rewards in the reward model's normalised unit.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from tutelage.algo.advantage import ess_fraction, importance_weight
from tutelage.algo.kl import k1, k3
from tutelage.algo.masked import masked_mean
from tutelage.data.batch import Rollouts
from tutelage.errors import ConfigError, TrainingError
from tutelage.stats.diversity import max_ngram_repeat
from tutelage.train.machines import Reference, Score

OldLogp = Literal["auto", "learner"]
EXACT = 0.005  # nats, mean |sampler - learner| below which the difference is rounding; bf16 itself costs as much


@dataclass(frozen=True, slots=True, kw_only=True)
class UnfinishedConfig:
    """What an answer earns that was cut at the length limit, or that is empty."""

    mode: Literal["auto", "replace", "subtract", "mask"] = "auto"
    value: float = (
        1.0  # `replace` scores -value; `subtract` takes it off; `auto` scores min(-value, 5 % quantile of finished - 1)
    )

    def __post_init__(self) -> None:
        if self.value < 0:
            raise ConfigError(
                f"unfinished.value = {self.value}, but that would reward answers without an end. Set it to 0 or more."
            )


@dataclass(frozen=True, slots=True)
class Experience:
    """One step's rollouts, made ready. Nothing in it carries a gradient."""

    rollouts: Rollouts
    score_B: Tensor  # as the reward model gave it
    reward_B: Tensor  # after the penalty for unfinished answers
    mask_BT: Tensor  # bool, tokens that are trained
    logp_BT: Tensor  # of the policy before the update: by the learner's own pass, or as the sampler recorded it
    entropy_BT: Tensor | None  # None where the learner made no pass of its own
    ref_logp_BT: Tensor
    weight_BT: Tensor  # truncated importance weights learner / sampler

    @property
    def kl_B(self) -> Tensor:
        """k1 estimate of each sequence's divergence from the reference."""
        return torch.where(self.mask_BT, k1(self.logp_BT, self.ref_logp_BT), 0.0).sum(dim=1)


def gather(
    rollouts: Rollouts,
    *,
    parts: Sequence[Tensor],
    logp: tuple[Tensor, Tensor] | None,
    reference: Reference,
    score: Score,
    unfinished: UnfinishedConfig,
    weight_cap: float,
) -> Experience:
    """Scores rollouts and brings their log-probabilities together. Raises TrainingError for a score that is not finite.

    parts  rows of each minibatch: the reference's pass is cut like the policy's
    logp   of the policy before the update, and entropy, by the learner; None: the sampler's are taken
    """
    score_B = score(rollouts.prompts, rollouts.texts)
    if not bool(torch.isfinite(score_B).all()):
        bad = int((~torch.isfinite(score_B)).nonzero()[0])
        raise TrainingError(
            f"the reward of rollout {bad} is {float(score_B[bad])}: {rollouts.texts[bad]!r}. A reward model whose "
            f"scores are not finite cannot teach; look at its training, and train it again."
        )
    logp_BT, entropy_BT = logp or (rollouts.sampler_logp_BT, None)
    has_words_B = torch.tensor([bool(t) for t in rollouts.texts])
    reward_B, mask_BT = penalise(score_B, rollouts.finished_B & has_words_B, rollouts.batch.mask_BT, unfinished)
    return Experience(
        rollouts,
        score_B,
        reward_B,
        mask_BT,
        logp_BT,
        entropy_BT,
        reference.logp(rollouts.batch, parts),
        importance_weight(logp_BT, rollouts.sampler_logp_BT, rollouts.batch.mask_BT, cap=weight_cap),
    )


def is_sampler_exact(history: Sequence[Mapping[str, float]]) -> bool:
    """Whether the last update has shown that the sampler's log-probabilities are the learner's, but for rounding.

    Then a pass that computes them once more tells nothing new. Each update shows it again (`first_look`).
    """
    return bool(history) and "mismatch_mean" in history[-1] and history[-1]["mismatch_mean"] <= EXACT


def first_look(out_BTC: Tensor, seen: Experience, rows: Tensor, minibatch: Tensor) -> dict[str, Tensor]:
    """What a pass of the learner tells of the policy that sampled, where it made none before; summed over microbatches.

    out_BTC    log-probability and entropy of these rows' tokens
    minibatch  rows over whose tokens the means are taken
    """
    mask_BT, n_written = seen.rollouts.batch.mask_BT[rows], seen.rollouts.batch.mask_BT[minibatch].sum()
    gap_BT = torch.where(mask_BT, (out_BTC[..., 0].detach() - seen.logp_BT[rows]).abs(), 0.0)
    return {
        "entropy": torch.where(mask_BT, out_BTC[..., 1].detach(), 0.0).sum() / n_written,
        "mismatch_mean": gap_BT.sum() / n_written,
        "max_mismatch": gap_BT.max(),
    }


def penalise(score_B: Tensor, good_B: Tensor, mask_BT: Tensor, cfg: UnfinishedConfig) -> tuple[Tensor, Tensor]:
    """Reward [B] and trained tokens [B, T] after dealing with unfinished answers (`good_B` False)."""
    if cfg.mode == "mask":
        return score_B, mask_BT & good_B[:, None]
    if cfg.mode == "subtract":
        return torch.where(good_B, score_B, score_B - cfg.value), mask_BT
    low = -cfg.value
    if cfg.mode == "auto" and bool(good_B.any()):
        # Below what bad finished answers earn, or never ending would be a way out.
        low = min(low, float(score_B[good_B].quantile(0.05)) - 1.0)
    return torch.where(good_B, score_B, low), mask_BT


def describe(e: Experience) -> dict[str, float]:
    """What the monitor and the log are told about a batch of rollouts."""
    mask_BT, n = e.rollouts.batch.mask_BT, len(e.rollouts)
    length_B = mask_BT.sum(dim=1).float()
    # Over all that the policy wrote, whether or not unfinished answers are trained on.
    kl_B = torch.where(mask_BT, k1(e.logp_BT, e.ref_logp_BT), 0.0).sum(dim=1)
    is_first_BT = mask_BT & (mask_BT.cumsum(dim=1) == 1)
    group_PG = e.reward_B.view(-1, e.rollouts.group)
    unique = [len(set(e.rollouts.texts[i : i + e.rollouts.group])) for i in range(0, n, e.rollouts.group)]
    return {
        "score": float(e.score_B.mean()),
        "score_std": float(e.score_B.std(unbiased=False)),
        "reward": float(e.reward_B.mean()),
        "kl": float(kl_B.mean()),
        "kl_se": float(kl_B.std() / n**0.5) if n > 1 else 0.0,
        "kl_k3": float(torch.where(mask_BT, k3(e.logp_BT, e.ref_logp_BT), 0.0).sum(dim=1).mean()),
        "length": float(length_B.mean()),
        "unfinished": float((~e.rollouts.finished_B).float().mean()),
        "empty": float(sum(not t for t in e.rollouts.texts)),
        "unique": sum(unique) / n,
        "repetition": sum(max_ngram_repeat(t.split()) for t in e.rollouts.texts) / n,
        "first_token_kl": float(torch.where(is_first_BT, k1(e.logp_BT, e.ref_logp_BT), 0.0).sum() / n),
        "zero_std_groups": float((group_PG.std(dim=1, unbiased=False) < 1e-6).float().mean())
        if e.rollouts.group > 1
        else 0.0,
        "length_corr": _correlation(e.score_B, length_B),
        **_of_both_passes(e),
    }


def _of_both_passes(e: Experience) -> dict[str, float]:
    """What the learner's pass says beside the sampler's; nothing where it made none."""
    if e.entropy_BT is None:
        return {}
    mask_BT, gap_BT = e.rollouts.batch.mask_BT, e.logp_BT - e.rollouts.sampler_logp_BT
    return {
        "entropy": float(masked_mean(e.entropy_BT, mask_BT)),
        "mismatch_mean": float(masked_mean(gap_BT.abs(), mask_BT)),
        "max_mismatch": float(torch.where(mask_BT, gap_BT.abs(), 0.0).max()),
        "ess": float(ess_fraction(gap_BT, mask_BT)),
    }


def _correlation(a_B: Tensor, b_B: Tensor) -> float:
    spread = float(a_B.std(unbiased=False) * b_B.std(unbiased=False))
    return float(((a_B - a_B.mean()) * (b_B - b_B.mean())).mean()) / spread if spread > 1e-9 else 0.0
