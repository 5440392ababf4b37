"""KL(policy || reference): estimators from samples, the exact value, and the coefficient that holds it in place.

N tokens (any leading shape), V vocabulary. Log-probabilities and KL are in nats; `coef` is reward lost per nat.
Which estimator goes where decides which objective is optimised. With tokens sampled by the policy:

    k1 in the detached reward   exact gradient of the reverse KL
    k2 as a loss                the same gradient
    k3 as a loss                gradient of the *forward* KL, another optimum
    k1 as a loss                expected gradient 0: no penalty at all
    k3 in the reward            wrong gradient, diverges

so report k1 and k3, optimise k1 (reward) or k2 (loss).
"""

import math

import torch
from torch import Tensor

MAX_RELATIVE_ERROR = 0.2  # of the adaptive rule: one batch moves the coefficient by a bounded step


def k1(logp: Tensor, ref_logp: Tensor) -> Tensor:
    """logp - ref_logp, elementwise: unbiased, of either sign, high variance."""
    return logp - ref_logp


def k2(logp: Tensor, ref_logp: Tensor) -> Tensor:
    """(logp - ref_logp)^2 / 2, elementwise: biased as a value, unbiased as a gradient."""
    return (logp - ref_logp).square() / 2


def k3(logp: Tensor, ref_logp: Tensor) -> Tensor:
    """exp(-d) - 1 + d with d = logp - ref_logp, elementwise: unbiased, never negative, low variance."""
    d = logp - ref_logp
    return torch.expm1(-d) + d


def exact_kl(logits_NV: Tensor, ref_logits_NV: Tensor) -> Tensor:
    """KL(softmax(logits) || softmax(ref_logits)) [N], summed over the vocabulary."""
    logp_NV, ref_logp_NV = logits_NV.log_softmax(dim=-1), ref_logits_NV.log_softmax(dim=-1)
    p_NV = logp_NV.exp()
    return (p_NV * torch.where(p_NV > 0, logp_NV - ref_logp_NV, 0.0)).sum(dim=-1)


def adaptive_coef(coef: float, kl: float, *, target: float, horizon: float, n_sequences: int) -> float:
    """The coefficient for the next batch: raised when `kl` exceeds `target`, lowered when it falls short.

    kl, target   nats per sequence (summed over its tokens), not per token
    horizon      sequences over which a full error would move the coefficient by MAX_RELATIVE_ERROR of itself
    n_sequences  in the batch just sampled, over all ranks

    Ziegler et al. 2019 (arXiv:1909.08593), with openai/lm-human-preferences.
    """
    error = min(max(kl / target - 1, -MAX_RELATIVE_ERROR), MAX_RELATIVE_ERROR)
    return coef * (1 + error * n_sequences / horizon)


def gaussian_kl(reward_std: float, coef: float) -> float:
    """KL at the optimum p exp(r / coef) / Z when the reward is Gaussian with `reward_std` under the reference."""
    return (reward_std / coef) ** 2 / 2


def coef_for_target(reward_std: float, kl_target: float) -> float:
    """The coefficient whose `gaussian_kl` is `kl_target`: a starting value, too small near the entropy cap."""
    return reward_std / math.sqrt(2 * kl_target)
