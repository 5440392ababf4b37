"""Log-probability and entropy of chosen tokens, in slices of rows: no float32 copy of all logits is ever held.

The same numbers as `algo.logprob`, to rounding (held by a test); this one bounds memory and halves the time.
M positions, V vocabulary.
"""

from typing import Any

import torch
from torch import Tensor

SLICE = 1024  # rows widened to float32 at a time


class _ChosenLogp(torch.autograd.Function):
    """logp = logit[token] / T - logsumexp(logits / T); its gradient is onehot - softmax."""

    @staticmethod
    def forward(
        ctx: Any, logits_MV: Tensor, token_M: Tensor, temperature: float, with_entropy: bool
    ) -> tuple[Tensor, Tensor]:
        logp_M = torch.empty(len(token_M), dtype=torch.float32, device=logits_MV.device)
        norm_M = torch.empty_like(logp_M)
        entropy_M = torch.zeros_like(logp_M)
        for start in range(0, len(token_M), SLICE):
            part = slice(start, start + SLICE)
            scaled_mV = logits_MV[part].float()
            if temperature != 1:
                scaled_mV = scaled_mV / temperature
            norm_M[part] = scaled_mV.logsumexp(dim=-1)
            logp_M[part] = scaled_mV.gather(1, token_M[part, None]).squeeze(1) - norm_M[part]
            if with_entropy:
                p_mV = (scaled_mV - norm_M[part, None]).exp_()
                entropy_M[part] = norm_M[part] - (p_mV.mul_(scaled_mV)).sum(dim=-1)
        ctx.save_for_backward(logits_MV, token_M, norm_M)
        ctx.temperature = temperature
        ctx.mark_non_differentiable(entropy_M)
        return logp_M, entropy_M

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        logits_MV, token_M, norm_M = ctx.saved_tensors
        grad_M = grads[0] / ctx.temperature
        grad_MV = torch.empty_like(logits_MV)
        for start in range(0, len(token_M), SLICE):
            part = slice(start, start + SLICE)
            scaled_mV = logits_MV[part].float()
            if ctx.temperature != 1:
                scaled_mV = scaled_mV / ctx.temperature
            slope_mV = (scaled_mV - norm_M[part, None]).exp_().mul_(-grad_M[part, None])
            slope_mV.scatter_add_(1, token_M[part, None], grad_M[part, None])
            grad_MV[part] = slope_mV
        return grad_MV, None, None, None


def chosen_logp(
    logits_MV: Tensor, token_M: Tensor, *, temperature: float = 1.0, with_entropy: bool = True
) -> tuple[Tensor, Tensor]:
    """Log-probability [M] of `token_M` and entropy [M] (0 unless asked for), float32, nats, under softmax(logits / T).

    Gradient flows through the log-probability alone.
    """
    logp_M, entropy_M = _ChosenLogp.apply(logits_MV, token_M, temperature, with_entropy)  # type: ignore[no-untyped-call]
    return logp_M, entropy_M
