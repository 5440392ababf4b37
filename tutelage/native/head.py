"""The output layer and the log-probability of chosen tokens in one: logits exist for a panel of columns at a time.

The backward pass computes them again: at 4096 tokens of vocabulary that costs 5 % of an update, and keeping them would
cost 8 KB a position. The same numbers as `model.logits` on whole logits, to rounding (held by a test).
M positions, D width, V vocabulary, m positions of a slice.
"""

from typing import Any

import torch
from torch import Tensor

from tutelage.native import kernels
from tutelage.native.linear import Paired, read_head, read_head_backward
from tutelage.native.memory import empty, zeros

SLICE_BYTES = 16 << 20  # of the logits' gradient at a time
LEAST_ROWS = 256  # of a slice: each reads and writes the whole gradient of the weight


def slice_rows(vocabulary: int) -> int:
    """Positions whose logits' gradient is held at once."""
    return max(LEAST_ROWS, SLICE_BYTES // (2 * vocabulary))


def head_logp(
    hidden_MD: Tensor, weight_VD: Tensor, head: Paired, turned: Paired | None, token_M: Tensor, *, temperature: float,
    with_entropy: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Log-probability [M] of `token_M` and entropy [M] (0 unless asked for), float32, nats.

    weight_VD  the parameter, which the gradient goes to
    head       the same as the kernels read it; turned: the same for the backward pass, None without one
    """
    logp_M, entropy_M = _HeadLogp.apply(  # type: ignore[no-untyped-call]
        hidden_MD, weight_VD, head, turned, token_M, temperature, with_entropy
    )
    return logp_M, entropy_M


class _HeadLogp(torch.autograd.Function):
    """logp = logit[token] / T - logsumexp(logits / T); its gradient by the logits is (onehot - softmax) / T."""

    @staticmethod
    def forward(
        ctx: Any, hidden_MD: Tensor, weight_VD: Tensor, head: Paired, turned: Paired | None, token_M: Tensor,
        temperature: float, with_entropy: bool,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        half_MD = hidden_MD.bfloat16()
        logp_M, norm_M, entropy_M = read_head(half_MD, head, token_M, temperature, with_entropy=with_entropy)
        ctx.save_for_backward(half_MD, token_M, norm_M)
        ctx.head, ctx.turned, ctx.temperature = head, turned, temperature
        ctx.mark_non_differentiable(entropy_M)
        return logp_M, entropy_M

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        half_MD, token_M, norm_M = ctx.saved_tensors
        needs_hidden, needs_weight = ctx.needs_input_grad[:2]
        grad_M = grads[0].contiguous()
        grad_MD = empty(*half_MD.shape, dtype=torch.float32) if needs_hidden else None
        grad_VD = None if len(token_M) else zeros(ctx.head.n_out, ctx.head.n_in, dtype=torch.float32)
        rows = slice_rows(ctx.head.n_out)
        for start in range(0, len(token_M), rows):
            part = slice(start, start + rows)
            slope_mV, grad_mD = read_head_backward(
                half_MD[part], ctx.head, ctx.turned if needs_hidden else None, token_M[part], norm_M[part],
                grad_M[part], ctx.temperature,
            )  # fmt: skip
            if grad_MD is not None and grad_mD is not None:
                grad_MD[part] = grad_mD
            if needs_weight:
                grad_VD = kernels.weight_gradient(slope_mV, half_MD[part], grad_VD)
        return grad_MD, grad_VD if needs_weight else None, None, None, None, None, None
