"""Sums, means and whitening over the entries that a mask selects. Knows nothing of what the entries mean.

B sequences, T tokens; `x` and `mask` without a suffix have any one shape in common. A mask is bool, True where the
entry counts. Every function selects with `where`, so inf and nan outside the mask reach neither values nor gradients.
"""

import torch
from torch import Tensor


def masked_sum(x: Tensor, mask: Tensor) -> Tensor:
    """Sum [] of `x` where `mask` is True; 0 for an empty mask."""
    return torch.where(mask, x, 0.0).sum()


def masked_mean(x: Tensor, mask: Tensor, *, n: Tensor | float | None = None) -> Tensor:
    """Mean [] of `x` where `mask` is True.

    n  the count to divide by, over all ranks and microbatches; None counts this mask alone, and the mean of an
       empty mask is then nan
    """
    return masked_sum(x, mask) / (mask.sum() if n is None else n)


def masked_var(x: Tensor, mask: Tensor) -> Tensor:
    """Biased variance [] (divided by the count, not the count - 1) of `x` where `mask` is True."""
    return masked_mean((x - masked_mean(x, mask)).square(), mask)


def whiten(x_BT: Tensor, mask_BT: Tensor, *, shift_mean: bool = True, eps: float = 1e-8) -> Tensor:
    """`x_BT` scaled to variance 1 over the mask, and to mean 0 if `shift_mean`; 0 where masked.

    eps  added to the variance, in squared units of x

    The variance is biased, as in Ziegler et al. 2019 (tf.nn.moments): the unbiased one gives other advantages on
    small batches. Give it the whole batch of the step, not a microbatch.
    """
    mean, var = masked_mean(x_BT, mask_BT), masked_var(x_BT, mask_BT)
    white_BT = (x_BT - mean) * torch.rsqrt(var + eps)
    return torch.where(mask_BT, white_BT if shift_mean else white_BT + mean, 0.0)
