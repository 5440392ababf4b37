"""Log-probability and entropy of chosen tokens, in slices of rows: no float32 copy of all logits is ever held.

The same numbers as `algo.logprob`, to rounding (held by a test); this one bounds memory and halves the time.
`chosen_logp` reads logits that are there; `head_logp` makes a slice of them at a time, and once more on the way back.
M positions, m positions of a slice, D width, V vocabulary.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

SLICE = 1024  # rows widened to float32 at a time
MOST_LOGITS = 1 << 26  # numbers that are made at a time: 256 MB in float32


def slices(n: int, rows: int) -> Iterator[slice]:
    return (slice(start, start + rows) for start in range(0, n, rows))


def rows_of(vocabulary: int) -> int:
    """Positions whose logits are made at a time."""
    return max(1, min(SLICE, MOST_LOGITS // vocabulary))


def _scaled(logits_mV: Tensor, temperature: float) -> Tensor:
    wide_mV = logits_mV.float()
    return wide_mV if temperature == 1 else wide_mV / temperature


def _read(scaled_mV: Tensor, token_m: Tensor, *, with_entropy: bool) -> tuple[Tensor, Tensor, Tensor | float]:
    """Log-probability of each token, logsumexp, and entropy or 0."""
    norm_m = scaled_mV.logsumexp(dim=-1)
    logp_m = scaled_mV.gather(1, token_m[:, None]).squeeze(1) - norm_m
    if not with_entropy:
        return logp_m, norm_m, 0.0
    p_mV = (scaled_mV - norm_m[:, None]).exp_()
    return logp_m, norm_m, norm_m - (p_mV.mul_(scaled_mV)).sum(dim=-1)


def _slope(scaled_mV: Tensor, token_m: Tensor, norm_m: Tensor, grad_m: Tensor) -> Tensor:
    """grad * (onehot - softmax)."""
    slope_mV = (scaled_mV - norm_m[:, None]).exp_().mul_(-grad_m[:, None])
    return slope_mV.scatter_add_(1, token_m[:, None], grad_m[:, None])


class _ChosenLogp(torch.autograd.Function):
    """logp = logit[token] / T - logsumexp(logits / T); its gradient is onehot - softmax."""

    @staticmethod
    def forward(
        ctx: Any, logits_MV: Tensor, token_M: Tensor, temperature: float, with_entropy: bool
    ) -> tuple[Tensor, Tensor]:
        logp_M = torch.empty(len(token_M), dtype=torch.float32, device=logits_MV.device)
        norm_M, entropy_M = torch.empty_like(logp_M), torch.zeros_like(logp_M)
        for part in slices(len(token_M), SLICE):
            logp_M[part], norm_M[part], entropy_M[part] = _read(
                _scaled(logits_MV[part], temperature), token_M[part], with_entropy=with_entropy
            )
        ctx.save_for_backward(logits_MV, token_M, norm_M)
        ctx.temperature = temperature
        ctx.mark_non_differentiable(entropy_M)
        return logp_M, entropy_M

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        logits_MV, token_M, norm_M = ctx.saved_tensors
        grad_M = grads[0] / ctx.temperature
        grad_MV = torch.empty_like(logits_MV)
        for part in slices(len(token_M), SLICE):
            scaled_mV = _scaled(logits_MV[part], ctx.temperature)
            grad_MV[part] = _slope(scaled_mV, token_M[part], norm_M[part], grad_M[part])
        return grad_MV, None, None, None


def chosen_logp(
    logits_MV: Tensor, token_M: Tensor, *, temperature: float = 1.0, with_entropy: bool = True
) -> tuple[Tensor, Tensor]:
    """Log-probability [M] of `token_M` and entropy [M] (0 unless asked for), float32, nats, under softmax(logits / T).

    Gradient flows through the log-probability alone.
    """
    logp_M, entropy_M = _ChosenLogp.apply(logits_MV, token_M, temperature, with_entropy)  # type: ignore[no-untyped-call]
    return logp_M, entropy_M


class _HeadLogp(torch.autograd.Function):
    """The same of logits = x W^T, of which a slice is held at a time. `dtype` is that of the products."""

    @staticmethod
    def forward(
        ctx: Any, x_MD: Tensor, weight_VD: Tensor, token_M: Tensor, temperature: float, with_entropy: bool,
        dtype: torch.dtype,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        logp_M = torch.empty(len(token_M), dtype=torch.float32, device=x_MD.device)
        norm_M, entropy_M = torch.empty_like(logp_M), torch.zeros_like(logp_M)
        head_VD = weight_VD.to(dtype)
        for part in slices(len(token_M), rows_of(len(weight_VD))):
            scaled_mV = _scaled(linear(x_MD[part].to(dtype), head_VD), temperature)
            logp_M[part], norm_M[part], entropy_M[part] = _read(scaled_mV, token_M[part], with_entropy=with_entropy)
        ctx.save_for_backward(x_MD, weight_VD, token_M, norm_M)
        ctx.temperature, ctx.dtype = temperature, dtype
        ctx.mark_non_differentiable(entropy_M)
        return logp_M, entropy_M

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x_MD, weight_VD, token_M, norm_M = ctx.saved_tensors
        needs_x, needs_weight = ctx.needs_input_grad[:2]
        grad_M, head_VD = grads[0] / ctx.temperature, weight_VD.to(ctx.dtype)
        grad_MD = torch.empty_like(x_MD) if needs_x else None
        grad_VD = torch.zeros_like(weight_VD) if needs_weight else None
        for part in slices(len(token_M), rows_of(len(weight_VD))):
            half_mD = x_MD[part].to(ctx.dtype)
            scaled_mV = _scaled(linear(half_mD, head_VD), ctx.temperature)
            slope_mV = _slope(scaled_mV, token_M[part], norm_M[part], grad_M[part]).to(ctx.dtype)
            if grad_MD is not None:
                grad_MD[part] = (slope_mV @ head_VD).to(grad_MD.dtype)
            if grad_VD is not None:
                grad_VD += slope_mV.T @ half_mD
        return grad_MD, grad_VD, None, None, None, None


def head_logp(
    x_MD: Tensor, weight_VD: Tensor, token_M: Tensor, *, temperature: float = 1.0, with_entropy: bool = True
) -> tuple[Tensor, Tensor]:
    """`chosen_logp` of x W^T, whose logits are never held together; products in the precision of autocast."""
    kind = x_MD.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x_MD.dtype
    logp_M, entropy_M = _HeadLogp.apply(  # type: ignore[no-untyped-call]
        x_MD, weight_VD, token_M, temperature, with_entropy, dtype
    )
    return logp_M, entropy_M
