"""From scores to advantages: token rewards, GAE, group baselines, importance weights. Nothing here has a gradient.

B sequences, T tokens; samples of one prompt lie side by side in B. A mask is bool, True on the tokens that the policy
wrote: in each row one unbroken run, which may start after a prompt and end before padding. Log-probabilities are in
nats, rewards, values and advantages in units of reward.
"""

import torch
from torch import Tensor

from tutelage.algo.kl import k1

GROUP_STD_EPS = 1e-4  # units of reward, as published for GRPO


def token_rewards(score_B: Tensor, logp_BT: Tensor, ref_logp_BT: Tensor, mask_BT: Tensor, *, kl_coef: float) -> Tensor:
    """Reward [B, T] of each token: -kl_coef * k1 everywhere, plus the score on the row's last token; 0 where masked.

    kl_coef  reward lost per nat of divergence from the reference

    A row sums to score - kl_coef * sum(k1). A row without a token has nowhere to put its score, which is dropped.
    Stiennon et al. 2020 (arXiv:2009.01325); the score sits on the last token itself, not one past it,
    where GAE would shrink it by lambda.
    """
    penalty_BT = torch.where(mask_BT, -kl_coef * k1(logp_BT.detach(), ref_logp_BT.detach()), 0.0)
    n_left_BT = mask_BT.flip(1).cumsum(dim=1).flip(1)  # tokens of the row from here on, this one included
    is_last_BT = mask_BT & (n_left_BT == 1)
    return penalty_BT + torch.where(is_last_BT, score_B.detach()[:, None], 0.0)


def gae(
    reward_BT: Tensor, value_BT: Tensor, mask_BT: Tensor, *, discount: float | Tensor, lam: float
) -> tuple[Tensor, Tensor]:
    """Advantages [B, T] and returns [B, T] (advantage + value); both 0 where masked.

    value_BT  the critic's estimate before each token; past a row's last token it counts as 0, since a response cut
              at the length limit is over as well
    discount  of the step from t to t + 1: one number, or [B, T] with 0 on the last token of each packed sequence

    Schulman et al. 2016 (arXiv:1506.02438), equation 16.
    """
    starts = mask_BT[:, 0].long() + (mask_BT[:, 1:] & ~mask_BT[:, :-1]).sum(dim=1)
    assert bool((starts <= 1).all()), "gae: a row of mask_BT has a hole; values would leak across it, so close it"
    reward_BT = torch.where(mask_BT, reward_BT.detach(), 0.0)
    value_BT = torch.where(mask_BT, value_BT.detach(), 0.0)
    discount_BT = torch.as_tensor(discount, dtype=value_BT.dtype, device=value_BT.device).expand_as(value_BT)
    discount_BT = torch.where(mask_BT, discount_BT, 0.0)  # a nan on padding stays there
    next_value_BT = torch.cat([value_BT[:, 1:], torch.zeros_like(value_BT[:, :1])], dim=1)
    delta_BT = reward_BT + discount_BT * next_value_BT - value_BT

    adv_BT = torch.zeros_like(delta_BT)
    adv_B = torch.zeros_like(delta_BT[:, 0])
    for t in reversed(range(delta_BT.shape[1])):
        adv_B = delta_BT[:, t] + discount_BT[:, t] * lam * adv_B
        adv_BT[:, t] = adv_B
    return adv_BT, adv_BT + value_BT


def _centred(reward_B: Tensor, group: int) -> Tensor:
    """Reward minus the mean of its group, [B / group, group]."""
    assert group >= 2, f"group = {group}: a sample is measured against the others of its prompt, so there must be some"
    assert len(reward_B) % group == 0, f"{len(reward_B)} rewards do not fill groups of {group}"
    reward_PG = reward_B.detach().reshape(-1, group)
    # Measured from the first member: the mean of n equal floats may differ from them in the last bit, and an equal
    # group must give exactly 0.
    from_first_PG = reward_PG - reward_PG[:, :1]
    return from_first_PG - from_first_PG.mean(dim=1, keepdim=True)


def rloo_advantage(reward_B: Tensor, *, group: int) -> Tensor:
    """Reward [B] minus the mean reward of the other samples of the same prompt; sums to 0 in each group.

    group  samples per prompt, k

    Ahmadian et al. 2024 (arXiv:2402.14740), written as k / (k - 1) * (reward - mean).
    """
    return (_centred(reward_B, group) * (group / (group - 1))).reshape(-1)


def group_advantage(reward_B: Tensor, *, group: int, scale: bool) -> Tensor:
    """Reward [B] minus the mean of its group, and divided by the group's standard deviation if `scale`.

    group  samples per prompt
    scale  True is GRPO (Shao et al. 2024, arXiv:2402.03300, section 4.1), False is Dr. GRPO (arXiv:2503.20783)

    The deviation is the population's, plus 1e-4. A group of equal rewards gives exactly 0.
    """
    centred_PG = _centred(reward_B, group)
    if scale:
        std_P1 = centred_PG.square().mean(dim=1, keepdim=True).sqrt()
        centred_PG = centred_PG / (std_P1 + GROUP_STD_EPS)
    return centred_PG.reshape(-1)


def importance_weight(logp_BT: Tensor, sampler_logp_BT: Tensor, mask_BT: Tensor, *, cap: float) -> Tensor:
    """min(exp(logp - sampler_logp), cap) [B, T], detached; 0 where masked.

    logp_BT          under the learner, at the weights that sampled
    sampler_logp_BT  as the sampler reported it, with its own kernels and precision
    cap              2 or 3: bounds the variance at the price of a small bias

    Truncated importance sampling: Ionides 2008; Yao et al. 2025 for samplers that differ from the learner.
    """
    log_weight_BT = torch.where(mask_BT, logp_BT.detach() - sampler_logp_BT.detach(), 0.0)
    return torch.where(mask_BT, log_weight_BT.exp().clamp(max=cap), 0.0)


def ess_fraction(log_weight: Tensor, mask: Tensor) -> Tensor:
    """Effective sample size [] of the weights exp(log_weight) over their number, in (0, 1]; nan for an empty mask.

    (sum w)^2 / (n sum w^2), Kong 1992; 1 for equal weights, 1/n when one outweighs all.
    """
    log_weight = torch.where(mask, log_weight.detach(), float("-inf"))
    weight = (log_weight - log_weight.amax()).exp()  # the fraction does not depend on their scale
    return weight.sum().square() / weight.square().sum() / mask.sum()
