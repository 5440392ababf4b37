"""What the kernels compute, in plain torch: the definition that they are tested against, in any dtype.

N tokens, B sequences, H query heads, G key heads, K head width, D width, F inner width, T positions.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import silu


def rms_norm(x_ND: Tensor, weight_D: Tensor, eps: float) -> Tensor:
    """Each row over the root of its mean square, times the weight (Zhang and Sennrich 2019)."""
    return weight_D * (x_ND * torch.rsqrt(x_ND.pow(2).mean(-1, keepdim=True) + eps))


def layer_norm(x_ND: Tensor, weight_D: Tensor, bias_D: Tensor, eps: float) -> Tensor:
    """Each row about its mean, over its standard deviation, times the weight, plus the bias (Ba et al. 2016)."""
    centred_ND = x_ND - x_ND.mean(-1, keepdim=True)
    return weight_D * (centred_ND * torch.rsqrt(centred_ND.pow(2).mean(-1, keepdim=True) + eps)) + bias_D


def gelu(x_NF: Tensor, *, tanh: bool) -> Tensor:
    """x times the share of a standard normal distribution below it (Hendrycks and Gimpel 2016), exact or by tanh."""
    if tanh:
        return 0.5 * x_NF * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (x_NF + 0.044715 * x_NF**3)))
    return 0.5 * x_NF * (1 + torch.erf(x_NF / 2**0.5))


def gate(gate_up_N2F: Tensor) -> Tensor:
    """silu(gate) * up, the gates before the ups (Shazeer 2020)."""
    gate_NF, up_NF = gate_up_N2F.chunk(2, dim=-1)
    return silu(gate_NF) * up_NF


def rotate(x_HTK: Tensor, cos_TK: Tensor, sin_TK: Tensor) -> Tensor:
    """Rotary positions, the first half of a head turned against the second (Su et al. 2021)."""
    first, second = x_HTK.chunk(2, dim=-1)
    return x_HTK * cos_TK + torch.cat([-second, first], dim=-1) * sin_TK


def attention(
    qkv_NC: Tensor,
    lengths: Sequence[int],
    cos_TK: Tensor,
    sin_TK: Tensor,
    *,
    queries: int,
    groups: int,
    scaling: float,
    eps: float = 0.0,
    q_norm_K: Tensor | None = None,
    k_norm_K: Tensor | None = None,
) -> Tensor:
    """Causal attention within each sequence [N, H * K]; query heads that share a key head stand side by side."""
    out = []
    for qkv_TC in qkv_NC.split(list(lengths)):
        t = len(qkv_TC)
        heads_HTK = qkv_TC.view(t, queries + 2 * groups, -1).transpose(0, 1)
        query_HTK, key_GTK, value_GTK = heads_HTK.split([queries, groups, groups])
        query_HTK = query_HTK if q_norm_K is None else rms_norm(query_HTK, q_norm_K, eps)
        key_GTK = key_GTK if k_norm_K is None else rms_norm(key_GTK, k_norm_K, eps)
        query_HTK, key_GTK = (rotate(x, cos_TK[:t], sin_TK[:t]) for x in (query_HTK, key_GTK))
        key_HTK, value_HTK = (x.repeat_interleave(queries // groups, dim=0) for x in (key_GTK, value_GTK))
        score_HTT = query_HTK @ key_HTK.transpose(1, 2) * scaling
        later_TT = torch.ones(t, t, dtype=torch.bool).triu(1)
        weight_HTT = score_HTT.masked_fill(later_TT, -torch.inf).softmax(dim=-1)
        out.append((weight_HTT @ value_HTK).transpose(0, 1).flatten(1))
    return torch.cat(out)
