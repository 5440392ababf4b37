"""A decoder layer of the Llama or the GPT kind, forwards and backwards by hand, on the kernels.

Between layers the residual stream travels as a pair: x_ND float32, and y_ND bf16 that is still to be added to it, so
that the addition is one with the next norm. y_ND is None before the first layer.
N tokens, M of them that go on, D width, C columns of the joined projections, O = H * K, F inner width; E what the MLP
keeps of a token: 2 F where gates open it, else F.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tutelage.native import kernels
from tutelage.native.kernels import Heads, Norm, Sequences
from tutelage.native.linear import Paired, activated, activated_backward, gated, gated_backward, linear

SILU_OF_GATE, GELU, GELU_TANH = range(3)  # activations, as in gelu.h


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """What a pass reads: matrices as the kernels want them, joined where they read the same rows; norms in float32."""

    qkv: Paired
    out: Paired
    gate: Paired | None  # None where the activation is not of a gate
    up: Paired
    down: Paired
    norm_attention: Norm
    norm_mlp: Norm
    q_norm_K: Tensor | None
    k_norm_K: Tensor | None
    turned: "TurnedWeights | None"  # None in a pass without gradient
    activation: int = SILU_OF_GATE
    is_parallel: bool = False  # the MLP reads the stream as attention did, not what attention added to


@dataclass(frozen=True, slots=True)
class TurnedWeights:
    """The matrices once more for the backward pass, which multiplies by them and not by their transposes."""

    qkv: Paired
    out: Paired
    gate_up: Paired  # up alone without a gate
    down: Paired


# Parameters in the order in which `layer` takes them and its gradients are given back.
PARAMETERS = ("norm_attention", "q", "k", "v", "out", "norm_mlp", "gate", "up", "down", "q_norm", "k_norm",
              "q_bias", "k_bias", "v_bias", "out_bias", "up_bias", "down_bias", "norm_attention_bias",
              "norm_mlp_bias")  # fmt: skip
Gradients = dict[str, Tensor | None]


class _Kept(NamedTuple):
    """What the backward pass needs of a layer besides what it gave."""

    sum_ND: Tensor  # the stream before the layer
    normed_ND: Tensor
    moments_2N: Tensor
    qkv_NC: Tensor
    out_NO: Tensor
    lse_NH: Tensor
    mlp_in_MD: Tensor
    mlp_moments_2M: Tensor
    opened_ME: Tensor | None


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
    return _forward(x_ND, y_ND, weights, rows, heads, only_M, keep=False)[:2]


def _forward(
    x_ND: Tensor, y_ND: Tensor | None, w: LayerWeights, rows: Sequences, heads: Heads, only_M: Tensor | None, *,
    keep: bool,
) -> tuple[Tensor, Tensor, _Kept]:  # fmt: skip
    """The new pair, and what the backward pass needs besides (without what opened the MLP unless `keep`)."""
    sum_ND, normed_ND, moments_2N = kernels.norm(x_ND, y_ND, w.norm_attention)
    qkv_NC = linear(normed_ND, w.qkv)
    out_NO, lse_NH = kernels.attention(qkv_NC, rows, heads, w.q_norm_K, w.k_norm_K)
    attended_MD, sum_MD = linear(_chosen(out_NO, only_M), w.out), _chosen(sum_ND, only_M)
    if w.is_parallel:
        middle_MD = sum_MD + attended_MD
        _, mlp_in_MD, mlp_moments_2M = kernels.norm(sum_MD, None, w.norm_mlp)
    else:
        middle_MD, mlp_in_MD, mlp_moments_2M = kernels.norm(sum_MD, attended_MD, w.norm_mlp)
    if w.gate is None:
        hidden_MF, opened_ME = activated(mlp_in_MD, w.up, w.activation, keep=keep)
    else:
        hidden_MF, opened_ME = gated(mlp_in_MD, w.gate, w.up, keep=keep)
    mlp_MD = linear(hidden_MF, w.down)
    kept = _Kept(sum_ND, normed_ND, moments_2N, qkv_NC, out_NO, lse_NH, mlp_in_MD, mlp_moments_2M, opened_ME)
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
        grad: Gradients = dict.fromkeys(PARAMETERS)
        assert w.turned is not None, "a pass with gradient has them"

        grad_mlp_in_MD = _mlp(grad, needed, grad_mlp_MD, kept, w)
        read_MD = _chosen(kept.sum_ND, only_M) if w.is_parallel else middle_MD
        past_MD, half_MD, grad["norm_mlp"], grad["norm_mlp_bias"] = kernels.norm_backward(
            grad_mlp_in_MD, grad_middle_MD, read_MD, kept.mlp_moments_2M, w.norm_mlp
        )
        grad_attended_MD = grad_mlp_MD if w.is_parallel else half_MD
        grad_out_MO = linear(grad_attended_MD, w.turned.out)
        if needed["out"]:
            grad["out"] = kernels.weight_gradient(grad_attended_MD, _chosen(kept.out_NO, only_M))
        if needed["out_bias"]:
            grad["out_bias"] = grad_attended_MD.sum(dim=0, dtype=torch.float32)
        n = len(kept.sum_ND)
        grad_qkv_NC, grad["q_norm"], grad["k_norm"] = kernels.attention_backward(
            _spread(grad_out_MO, only_M, n), kept.qkv_NC, kept.out_NO, kept.lse_NH, ctx.rows, ctx.heads, w.q_norm_K,
            w.k_norm_K,
        )  # fmt: skip
        _projections(grad, needed, grad_qkv_NC, kept.normed_ND, ctx.heads)
        grad_normed_ND = linear(grad_qkv_NC, w.turned.qkv)
        grad_ND, grad_half_ND, grad["norm_attention"], grad["norm_attention_bias"] = kernels.norm_backward(
            grad_normed_ND, _spread(past_MD, only_M, n), kept.sum_ND, kept.moments_2N, w.norm_attention
        )
        return (
            grad_ND, grad_half_ND if ctx.has_y else None, None, None, None, None,
            *(g if needed[name] else None for name, g in grad.items()),
        )  # fmt: skip


def _mlp(grad: Gradients, needed: dict[str, bool], grad_MD: Tensor, kept: _Kept, w: LayerWeights) -> Tensor:
    """Through the MLP: its gradients from that of what it gave. Returns that of what it read."""
    assert w.turned is not None and kept.opened_ME is not None, "a pass with gradient keeps both"
    if w.gate is None:
        grad_opened_ME, hidden_MF = activated_backward(grad_MD, w.turned.down, kept.opened_ME, w.activation)
    else:
        grad_opened_ME, hidden_MF = gated_backward(grad_MD, w.turned.down, kept.opened_ME)
    if needed["down"]:
        grad["down"] = kernels.weight_gradient(grad_MD, hidden_MF)
    if needed["down_bias"]:
        grad["down_bias"] = grad_MD.sum(dim=0, dtype=torch.float32)
    if needed["gate"] or needed["up"]:
        opened = kernels.weight_gradient(grad_opened_ME, kept.mlp_in_MD)
        grad["gate"], grad["up"] = (None, opened) if w.gate is None else opened.chunk(2)
    if needed["up_bias"]:
        grad["up_bias"] = grad_opened_ME.sum(dim=0, dtype=torch.float32)
    return linear(grad_opened_ME, w.turned.gate_up)


def _projections(
    grad: Gradients, needed: dict[str, bool], grad_qkv_NC: Tensor, normed_ND: Tensor, heads: Heads
) -> None:
    """Gradients of the three projections and their biases, taken together and then cut apart."""
    cut = [heads.queries * heads.width, heads.groups * heads.width, heads.groups * heads.width]
    if needed["q"] or needed["k"] or needed["v"]:
        grad["q"], grad["k"], grad["v"] = kernels.weight_gradient(grad_qkv_NC, normed_ND).split(cut)
    if needed["q_bias"] or needed["k_bias"] or needed["v_bias"]:
        grad["q_bias"], grad["k_bias"], grad["v_bias"] = grad_qkv_NC.sum(dim=0, dtype=torch.float32).split(cut)


def last_norm(
    x_ND: Tensor, y_ND: Tensor | None, weight_D: Tensor, bias_D: Tensor | None, eps: float, keep_M: Tensor | None
) -> Tensor:
    """The normed stream at the kept rows (all without a choice), float32 [M, D]."""
    out_MD: Tensor = _LastNorm.apply(x_ND, y_ND, weight_D, bias_D, eps, keep_M)  # type: ignore[no-untyped-call]
    return out_MD


class _LastNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x_ND: Tensor, y_ND: Tensor | None, weight_D: Tensor, bias_D: Tensor | None, eps: float,
        keep_M: Tensor | None,
    ) -> Tensor:  # fmt: skip
        ctx.n_tokens, ctx.has_y = len(x_ND), y_ND is not None
        if keep_M is not None:
            x_ND = x_ND.index_select(0, keep_M)
            y_ND = y_ND.index_select(0, keep_M) if y_ND is not None else None
        ctx.by = Norm(weight_D.detach(), None if bias_D is None else bias_D.detach(), eps)
        sum_MD, out_MD, moments_2M = kernels.norm(x_ND, y_ND, ctx.by, wide=True)
        ctx.save_for_backward(sum_MD, moments_2M, keep_M)
        return out_MD

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        sum_MD, moments_2M, keep_M = ctx.saved_tensors
        grad_ND, half_ND, grad_weight_D, grad_bias_D = kernels.norm_backward(
            grads[0].contiguous(), None, sum_MD, moments_2M, ctx.by
        )
        if keep_M is not None:
            # Added, not copied: a row may be kept twice.
            grad_ND = grad_ND.new_zeros(ctx.n_tokens, grad_ND.shape[1]).index_add_(0, keep_M, grad_ND)
            half_ND = grad_ND.bfloat16()
        return grad_ND, half_ND if ctx.has_y else None, grad_weight_D, grad_bias_D, None, None
