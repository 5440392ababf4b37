"""A decoder layer of the Llama kind, forwards and backwards by hand, on the kernels and bf16 matrix products.

Between layers the residual stream travels as a pair: x_ND float32, and y_ND bf16 that is still to be added to it, so
that the addition is one with the next norm. y_ND is None before the first layer.
N tokens, M of them that go on, D width, C columns of the joined projections, O = H * K, F inner width.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tutelage.native import kernels
from tutelage.native.kernels import Heads, Sequences
from tutelage.native.linear import Paired, gated, gated_backward, linear


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """What a pass reads: matrices as the kernels want them, joined where they read the same rows; norms in float32."""

    qkv: Paired
    out: Paired
    gate: Paired
    up: Paired
    down: Paired
    norm_attention_D: Tensor
    norm_mlp_D: Tensor
    q_norm_K: Tensor | None
    k_norm_K: Tensor | None
    eps: float  # of the norms
    turned: "TurnedWeights | None"  # None in a pass without gradient


@dataclass(frozen=True, slots=True)
class TurnedWeights:
    """The matrices once more for the backward pass, which multiplies by them and not by their transposes."""

    qkv: Paired
    out: Paired
    gate_up: Paired
    down: Paired


# Parameters in the order in which `layer` takes them and its gradients are given back.
PARAMETERS = ("norm_attention", "q", "k", "v", "out", "norm_mlp", "gate", "up", "down", "q_norm", "k_norm",
              "q_bias", "k_bias", "v_bias")  # fmt: skip


class _Kept(NamedTuple):
    """What the backward pass needs of a layer besides what it gave."""

    sum_ND: Tensor  # the stream before the layer
    normed_ND: Tensor
    inverse_N: Tensor
    qkv_NC: Tensor
    out_NO: Tensor
    lse_NH: Tensor
    mlp_in_MD: Tensor
    mlp_inverse_M: Tensor
    gate_up_M2F: Tensor | None


def layer(
    x_ND: Tensor, y_ND: Tensor | None, weights: LayerWeights, rows: Sequences, heads: Heads,
    parameters: tuple[Tensor | None, ...], only_M: Tensor | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """One layer on the stream. `parameters`, in the order of PARAMETERS, take the gradients; None where absent.

    only_M  rows that anything reads afterwards, none twice: behind attention the others are left out; None: all
    """
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x_ND, y_ND, *parameters)):
        out: tuple[Tensor, Tensor] = _Layer.apply(x_ND, y_ND, weights, rows, heads, only_M, *parameters)  # type: ignore[no-untyped-call]
        return out
    return layer_and_qkv(x_ND, y_ND, weights, rows, heads, only_M)[:2]


def layer_and_qkv(
    x_ND: Tensor, y_ND: Tensor | None, weights: LayerWeights, rows: Sequences, heads: Heads,
    only_M: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """`layer` without gradient, and the projections [N, C] that its attention read."""
    x_MD, y_MD, kept = _forward(x_ND, y_ND, weights, rows, heads, only_M, keep=False)
    return x_MD, y_MD, kept.qkv_NC


def _forward(
    x_ND: Tensor, y_ND: Tensor | None, w: LayerWeights, rows: Sequences, heads: Heads, only_M: Tensor | None, *,
    keep: bool,
) -> tuple[Tensor, Tensor, _Kept]:  # fmt: skip
    """The new pair, and what the backward pass needs besides (without gates and ups unless `keep`)."""
    sum_ND, normed_ND, inverse_N = kernels.norm(x_ND, y_ND, w.norm_attention_D, w.eps)
    qkv_NC = linear(normed_ND, w.qkv)
    out_NO, lse_NH = kernels.attention(qkv_NC, rows, heads, w.q_norm_K, w.k_norm_K)
    attended_MD = linear(_chosen(out_NO, only_M), w.out)
    middle_MD, mlp_in_MD, mlp_inverse_M = kernels.norm(_chosen(sum_ND, only_M), attended_MD, w.norm_mlp_D, w.eps)
    hidden_MF, gate_up_M2F = gated(mlp_in_MD, w.gate, w.up, keep=keep)
    mlp_MD = linear(hidden_MF, w.down)
    kept = _Kept(sum_ND, normed_ND, inverse_N, qkv_NC, out_NO, lse_NH, mlp_in_MD, mlp_inverse_M, gate_up_M2F)
    return middle_MD, mlp_MD, kept


def _chosen(x_N: Tensor, only_M: Tensor | None) -> Tensor:
    return x_N if only_M is None else x_N.index_select(0, only_M)


def _spread(x_M: Tensor, only_M: Tensor | None, n: int) -> Tensor:
    """The inverse of `_chosen` for gradients: 0 for rows that nothing reads."""
    return x_M if only_M is None else x_M.new_zeros(n, x_M.shape[1]).index_copy_(0, only_M, x_M)


class _Layer(torch.autograd.Function):
    """The chain rule through `_forward`, last step first. Weights that are frozen cost no product."""

    @staticmethod
    def forward(
        ctx: Any, x_ND: Tensor, y_ND: Tensor | None, w: LayerWeights, rows: Sequences, heads: Heads,
        only_M: Tensor | None, *parameters: Tensor | None,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        middle_MD, mlp_MD, kept = _forward(x_ND, y_ND, w, rows, heads, only_M, keep=True)
        ctx.save_for_backward(only_M, middle_MD, *kept)
        ctx.w, ctx.rows, ctx.heads, ctx.has_y = w, rows, heads, y_ND is not None
        return middle_MD, mlp_MD

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad_middle_MD, grad_mlp_MD = grads  # the second is the first, rounded: both flow from one sum
        w: LayerWeights = ctx.w
        only_M, middle_MD, *saved = ctx.saved_tensors
        kept = _Kept(*saved)
        needed = dict(zip(PARAMETERS, ctx.needs_input_grad[6:], strict=True))
        grad: dict[str, Tensor | None] = dict.fromkeys(PARAMETERS)

        assert w.turned is not None and kept.gate_up_M2F is not None, "a pass with gradient keeps both"
        grad_gate_up_M2F, hidden_MF = gated_backward(grad_mlp_MD, w.turned.down, kept.gate_up_M2F)
        if needed["down"]:
            grad["down"] = kernels.weight_gradient(grad_mlp_MD, hidden_MF)
        if needed["gate"] or needed["up"]:
            grad["gate"], grad["up"] = kernels.weight_gradient(grad_gate_up_M2F, kept.mlp_in_MD).chunk(2)
        grad_mlp_in_MD = linear(grad_gate_up_M2F, w.turned.gate_up)
        past_MD, half_MD, grad["norm_mlp"] = kernels.norm_backward(
            grad_mlp_in_MD, grad_middle_MD, middle_MD, kept.mlp_inverse_M, w.norm_mlp_D
        )
        grad_out_MO = linear(half_MD, w.turned.out)
        if needed["out"]:
            grad["out"] = kernels.weight_gradient(half_MD, _chosen(kept.out_NO, only_M))
        n = len(kept.sum_ND)
        grad_qkv_NC, grad["q_norm"], grad["k_norm"] = kernels.attention_backward(
            _spread(grad_out_MO, only_M, n), kept.qkv_NC, kept.out_NO, kept.lse_NH, ctx.rows, ctx.heads, w.q_norm_K,
            w.k_norm_K,
        )  # fmt: skip
        _projections(grad, needed, grad_qkv_NC, kept.normed_ND, ctx.heads)
        grad_normed_ND = linear(grad_qkv_NC, w.turned.qkv)
        grad_ND, grad_half_ND, grad["norm_attention"] = kernels.norm_backward(
            grad_normed_ND, _spread(past_MD, only_M, n), kept.sum_ND, kept.inverse_N, w.norm_attention_D
        )
        return (
            grad_ND, grad_half_ND if ctx.has_y else None, None, None, None, None,
            *(g if needed[name] else None for name, g in grad.items()),
        )  # fmt: skip


def _projections(
    grad: dict[str, Tensor | None], needed: dict[str, bool], grad_qkv_NC: Tensor, normed_ND: Tensor, heads: Heads
) -> None:
    """Gradients of the three projections and their biases, taken together and then cut apart."""
    cut = [heads.queries * heads.width, heads.groups * heads.width, heads.groups * heads.width]
    if needed["q"] or needed["k"] or needed["v"]:
        grad["q"], grad["k"], grad["v"] = kernels.weight_gradient(grad_qkv_NC, normed_ND).split(cut)
    if needed["q_bias"] or needed["k_bias"] or needed["v_bias"]:
        grad["q_bias"], grad["k_bias"], grad["v_bias"] = grad_qkv_NC.sum(dim=0, dtype=torch.float32).split(cut)


def last_norm(x_ND: Tensor, y_ND: Tensor | None, weight_D: Tensor, eps: float, keep_M: Tensor | None) -> Tensor:
    """The normed stream at the kept rows (all without a choice), float32 [M, D]."""
    out_MD: Tensor = _LastNorm.apply(x_ND, y_ND, weight_D, eps, keep_M)  # type: ignore[no-untyped-call]
    return out_MD


class _LastNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x_ND: Tensor, y_ND: Tensor | None, weight_D: Tensor, eps: float, keep_M: Tensor | None
    ) -> Tensor:
        ctx.n_tokens, ctx.has_y = len(x_ND), y_ND is not None
        if keep_M is not None:
            x_ND = x_ND.index_select(0, keep_M)
            y_ND = y_ND.index_select(0, keep_M) if y_ND is not None else None
        sum_MD, out_MD, inverse_M = kernels.norm(x_ND, y_ND, weight_D.detach(), eps, wide=True)
        ctx.save_for_backward(sum_MD, inverse_M, weight_D, keep_M)
        return out_MD

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        sum_MD, inverse_M, weight_D, keep_M = ctx.saved_tensors
        grad_ND, half_ND, grad_weight_D = kernels.norm_backward(
            grads[0].contiguous(), None, sum_MD, inverse_M, weight_D.detach()
        )
        if keep_M is not None:
            # Added, not copied: a row may be kept twice.
            grad_ND = grad_ND.new_zeros(ctx.n_tokens, grad_ND.shape[1]).index_add_(0, keep_M, grad_ND)
            half_ND = grad_ND.bfloat16()
        return grad_ND, half_ND if ctx.has_y else None, grad_weight_D, None, None
