"""The output layer and the log-probability of chosen tokens in one: logits exist for a few rows at a time, in bf16.

The backward pass computes them again: at 4096 tokens of vocabulary that costs 5 % of an update, and keeping them would
cost 8 KB a position. The same numbers as `model.logits` on whole logits, to rounding (held by a test).
M positions, D width, V vocabulary, m positions of a slice.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from tutelage.native import kernels

ROUND = 128  # positions are filled up to this
SLICE_BYTES = 8 << 20  # of logits at a time


def head_logp(
    hidden_MD: Tensor, weight_VD: Tensor, half_VD: Tensor, token_M: Tensor, *, temperature: float, with_entropy: bool
) -> tuple[Tensor, Tensor]:
    """Log-probability [M] of `token_M` and entropy [M] (0 unless asked for), float32, nats.

    weight_VD  the parameter, which the gradient goes to
    half_VD    the same in bf16
    """
    logp_M, entropy_M = _HeadLogp.apply(  # type: ignore[no-untyped-call]
        hidden_MD, weight_VD, half_VD, token_M, temperature, with_entropy
    )
    return logp_M, entropy_M


def _slices(n: int, vocabulary: int) -> list[slice]:
    rows = max(1, SLICE_BYTES // (2 * vocabulary))
    return [slice(start, min(start + rows, n)) for start in range(0, n, rows)]


class _HeadLogp(torch.autograd.Function):
    """logp = logit[token] / T - logsumexp(logits / T); its gradient by the logits is (onehot - softmax) / T."""

    @staticmethod
    def forward(
        ctx: Any, hidden_MD: Tensor, weight_VD: Tensor, half_VD: Tensor, token_M: Tensor, temperature: float,
        with_entropy: bool,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        n_asked = len(token_M)
        half_MD = pad(hidden_MD.bfloat16(), (0, 0, 0, -n_asked % ROUND))  # of few shapes, as in model.fused
        token_M = pad(token_M, (0, -n_asked % ROUND))
        logp_M, norm_M, entropy_M = (torch.empty(len(token_M)) for _ in range(3))
        for part in _slices(len(token_M), len(half_VD)):
            logits_mV = torch.mm(half_MD[part], half_VD.T)
            logp_M[part], norm_M[part], entropy_M[part] = kernels.logp(
                logits_mV, token_M[part], temperature, with_entropy=with_entropy
            )
        ctx.save_for_backward(half_MD, half_VD, token_M, norm_M)
        ctx.temperature, ctx.n_asked = temperature, n_asked
        entropy_M = entropy_M[:n_asked].clone()
        ctx.mark_non_differentiable(entropy_M)
        return logp_M[:n_asked].clone(), entropy_M

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        half_MD, half_VD, token_M, norm_M = ctx.saved_tensors
        needs_hidden, needs_weight = ctx.needs_input_grad[:2]
        grad_M = pad(grads[0], (0, len(token_M) - ctx.n_asked)).contiguous()
        grad_MD = torch.empty(half_MD.shape) if needs_hidden else None
        grad_VD: Tensor | None = None
        for part in _slices(len(token_M), len(half_VD)):
            slope_mV = torch.mm(half_MD[part], half_VD.T)
            kernels.logp_backward_(slope_mV, token_M[part], norm_M[part], grad_M[part], ctx.temperature)
            if grad_MD is not None:
                grad_MD[part] = torch.mm(slope_mV, half_VD)
            if needs_weight:
                grad_VD = kernels.weight_gradient(slope_mV, half_MD[part], grad_VD)
        if needs_weight and grad_VD is None:
            grad_VD = torch.zeros(half_VD.shape)
        return None if grad_MD is None else grad_MD[: ctx.n_asked], grad_VD, None, None, None, None
