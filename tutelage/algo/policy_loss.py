"""Policy losses: pure functions of tensors. No model, no config, no collectives, no logging.

B sequences, T tokens. A mask is bool, True on the tokens that are trained. Log-probabilities are in nats.
"""

import torch
from torch import Tensor

from tutelage.algo.kl import k2


def ppo_clip_loss(
    logp_BT: Tensor,
    old_logp_BT: Tensor,
    adv_BT: Tensor,
    mask_BT: Tensor,
    *,
    clip_low: float,
    clip_high: float,
    n_trained: Tensor | float,
    weight_BT: Tensor | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """PPO's clipped surrogate, summed over the trained tokens and divided by `n_trained`.

    logp_BT      of each sampled token, under the policy being trained
    old_logp_BT  the same, under the policy that sampled it
    adv_BT       advantage of each token, in units of reward
    mask_BT      bool, True where the token is trained
    n_trained    trained tokens in the whole step, over all ranks and microbatches, so that
                 neither sharding nor gradient accumulation changes the loss
    weight_BT    importance weight of each token (`importance_weight`); None weighs all alike

    Gradient flows into logp_BT alone. Returns the loss [] and metrics [], all to be summed over ranks.
    Schulman et al. 2017 (arXiv:1707.06347), equation 7, with the two bounds set apart.
    """
    # Masked by `where` and before exp: multiplied by a mask, an inf or nan on padding would stay nan.
    log_ratio_BT = torch.where(mask_BT, logp_BT - old_logp_BT.detach(), 0.0)
    ratio_BT, adv_BT = log_ratio_BT.exp(), adv_BT.detach()
    clipped_BT = ratio_BT.clamp(1 - clip_low, 1 + clip_high)
    gain_BT = torch.minimum(ratio_BT * adv_BT, clipped_BT * adv_BT)
    if weight_BT is not None:
        gain_BT = gain_BT * weight_BT.detach()

    def over_trained(x_BT: Tensor) -> Tensor:
        return torch.where(mask_BT, x_BT, 0.0).sum() / n_trained

    with torch.no_grad():
        metrics = {
            "clip_frac": over_trained((clipped_BT * adv_BT < ratio_BT * adv_BT).float()),
            "kl_old": over_trained(ratio_BT - 1 - log_ratio_BT),
        }
    return -over_trained(gain_BT), metrics


def sequence_policy_loss(
    logp_BT: Tensor,
    old_logp_BT: Tensor,
    adv_B: Tensor,
    mask_BT: Tensor,
    *,
    clip: float | None,
    n_sequences: Tensor | float,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The policy gradient of RLOO: one ratio for each sequence, summed over sequences and divided by `n_sequences`.

    adv_B        advantage of each sequence, in units of reward
    clip         bound on the ratio of whole sequences, 1 +- clip; None leaves it free
    n_sequences  sequences in the whole step, over all ranks and microbatches

    The ratio is exp(sum of logp - old_logp over the row's tokens), so on fresh samples the gradient is that of
    adv * log p(sequence). A row without a trained token is filler and counts nothing. Gradient flows into logp_BT
    alone. Returns the loss [] and metrics [], per sequence, all to be summed over ranks.
    Ahmadian et al. 2024 (arXiv:2402.14740), with PPO's bound for rollouts used more than once.
    """
    log_ratio_B = torch.where(mask_BT, logp_BT - old_logp_BT.detach(), 0.0).sum(dim=1)
    ratio_B, adv_B = log_ratio_B.exp(), adv_B.detach()
    clipped_B = ratio_B if clip is None else ratio_B.clamp(1 - clip, 1 + clip)
    gain_B = torch.minimum(ratio_B * adv_B, clipped_B * adv_B)
    is_trained_B = mask_BT.any(dim=1)

    def over_sequences(x_B: Tensor) -> Tensor:
        return torch.where(is_trained_B, x_B, 0.0).sum() / n_sequences

    with torch.no_grad():
        metrics = {
            "clip_frac": over_sequences((clipped_B * adv_B < ratio_B * adv_B).float()),
            "kl_old": over_sequences(ratio_B - 1 - log_ratio_B),
        }
    return -over_sequences(gain_B), metrics


def k2_loss(logp_BT: Tensor, ref_logp_BT: Tensor, mask_BT: Tensor, *, n_trained: Tensor | float) -> Tensor:
    """KL penalty [] in nats per trained token, for a loss: its expected gradient on fresh samples is the reverse KL's.

    n_trained  trained tokens in the whole step, over all ranks and microbatches

    Gradient flows into logp_BT alone. Schulman 2020, "Approximating KL divergence", k2; see `tutelage.algo.kl`.
    """
    # Both sides are masked before the square, whose gradient on a nan of padding would be nan.
    logp_BT = torch.where(mask_BT, logp_BT, 0.0)
    ref_logp_BT = torch.where(mask_BT, ref_logp_BT.detach(), 0.0)
    return k2(logp_BT, ref_logp_BT).sum() / n_trained
