"""The critic's loss and how much of the returns it explains. Pure functions; no model, no config.

B sequences, T tokens. A mask is bool, True on the tokens that are trained. Values and returns are in units of reward.
"""

import torch
from torch import Tensor

from tutelage.algo.masked import masked_var


def clipped_value_loss(
    value_BT: Tensor,
    old_value_BT: Tensor,
    return_BT: Tensor,
    mask_BT: Tensor,
    *,
    clip: float | None,
    n_trained: Tensor | float,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Half the squared error, the worse of the plain and the clipped value, summed and divided by `n_trained`.

    value_BT      under the critic being trained
    old_value_BT  the same, when the rollout was scored
    return_BT     targets: advantage (before whitening) + old value
    clip          how far a value may move from the old one, in units of reward; too small against the spread of
                  the returns it freezes the critic (watch vf_clip_frac). None leaves it free
    n_trained     trained tokens in the whole step, over all ranks and microbatches

    Gradient flows into value_BT alone. Returns the loss [] and metrics [], all to be summed over ranks.
    As in openai/baselines ppo2 and Ziegler et al. 2019; in no equation of the PPO paper.
    """
    value_BT = torch.where(mask_BT, value_BT, 0.0)
    old_value_BT = torch.where(mask_BT, old_value_BT.detach(), 0.0)
    return_BT = torch.where(mask_BT, return_BT.detach(), 0.0)
    plain_BT = (value_BT - return_BT).square()
    near_BT = value_BT if clip is None else value_BT.clamp(old_value_BT - clip, old_value_BT + clip)
    clipped_BT = (near_BT - return_BT).square()
    loss = 0.5 * torch.maximum(plain_BT, clipped_BT).sum() / n_trained
    with torch.no_grad():
        metrics = {"vf_clip_frac": (clipped_BT > plain_BT).float().sum() / n_trained}
    return loss, metrics


def explained_variance(value_BT: Tensor, return_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """1 - Var(return - value) / Var(return) over the mask, []; below 0 the critic is worse than a constant.

    nan where the returns do not vary, since there is nothing to explain.
    """
    value_BT, return_BT = value_BT.detach(), return_BT.detach()
    var = masked_var(return_BT, mask_BT)
    return torch.where(var > 0, 1 - masked_var(return_BT - value_BT, mask_BT) / var, float("nan"))
