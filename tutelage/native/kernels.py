"""The kernels as functions of tensors, each the equal of one in `plain.py`. Checked here, so that C++ can trust.

N tokens, B sequences, H query heads, G key heads, K head width, D width, F inner width, V vocabulary.
"""

import ctypes
from dataclasses import dataclass

import torch
from torch import Tensor

from tutelage.native.build import library
from tutelage.native.memory import empty

BF16, F32, I64 = torch.bfloat16, torch.float32, torch.int64
HEAD_STEP = 32
NORM_ROWS = 512  # whose part of the gradient of a norm's weight is summed by itself


@dataclass(frozen=True, slots=True)
class Heads:
    """The shape of attention."""

    queries: int  # H
    groups: int  # G
    width: int  # K
    scaling: float  # multiplies the scores
    eps: float  # of the norms of queries and keys

    @property
    def slot_width(self) -> int:
        """Numbers that a head takes in a slot: padded with zeros to a multiple of HEAD_STEP."""
        return self.width + -self.width % HEAD_STEP

    @property
    def columns(self) -> int:
        """Numbers that a token's projections take: H + 2 G vectors."""
        return (self.queries + 2 * self.groups) * self.width


@dataclass(frozen=True, slots=True)
class Sequences:
    """Where the sequences of a packed row begin, how they branch, and the rotations of their positions.

    A sequence is a trunk and branches behind it; a branch sees the trunk and itself. Without branches all is trunk.
    """

    start_B1: Tensor  # int64, the last one is N
    trunk_B: Tensor  # int64, tokens before the first branch; without branches it is not read
    own_N: Tensor  # int64, where a token's branch begins in its sequence; 0 in the trunk
    position_N: Tensor  # int64
    cos_TK: Tensor  # float32, at least as long as the longest sequence
    sin_TK: Tensor


def is_ready() -> bool:
    """Whether the kernels can run here; compiles them when asked first."""
    return library() is not None


def kernels_of() -> ctypes.CDLL:
    """The library; whoever calls has asked `is_ready`."""
    opened = library()
    assert opened is not None, "ask is_ready() first"
    return opened


def at(x: Tensor | None, dtype: torch.dtype, *shape: int) -> ctypes.c_void_p:
    """The address of a tensor that is what the kernel expects; None is the null pointer."""
    if x is None:
        return ctypes.c_void_p(None)
    assert x.dtype == dtype and x.shape == shape and x.is_contiguous() and x.device.type == "cpu", (
        f"a kernel expects {dtype} {shape}, contiguous, and was given {x.dtype} {tuple(x.shape)} on {x.device}"
    )
    return ctypes.c_void_p(x.data_ptr())


def _n(x: int) -> ctypes.c_long:
    return ctypes.c_long(x)


def threads() -> ctypes.c_int:
    """How many a kernel may use: as many as torch."""
    return ctypes.c_int(torch.get_num_threads())


@dataclass(frozen=True, slots=True)
class Norm:
    """RMS norm, or layer norm where there is a bias; float32."""

    weight_D: Tensor
    bias_D: Tensor | None
    eps: float


def norm(x_ND: Tensor, y_ND: Tensor | None, by: Norm, *, wide: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """x + y (x itself without a y), its norm (bf16, or float32 if `wide`), and of each row 1 / rms and mean [2, N]."""
    n, d = x_ND.shape
    sum_ND = empty(n, d, dtype=F32) if y_ND is not None else x_ND
    out_ND = empty(n, d, dtype=F32 if wide else BF16)
    moments_2N = torch.empty(2, n)
    none = ctypes.c_void_p(None)
    kernels_of().norm_forward(
        at(x_ND, F32, n, d), at(y_ND, BF16, n, d), at(by.weight_D, F32, d), at(by.bias_D, F32, d),
        ctypes.c_float(by.eps), at(sum_ND, F32, n, d), none if wide else at(out_ND, BF16, n, d),
        at(out_ND, F32, n, d) if wide else none, at(moments_2N[0], F32, n), at(moments_2N[1], F32, n), _n(n), _n(d),
        threads(),
    )  # fmt: skip
    return sum_ND, out_ND, moments_2N


def norm_backward(
    grad_ND: Tensor, past_ND: Tensor | None, x_ND: Tensor, moments_2N: Tensor, by: Norm
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Gradient of x + y in float32 and rounded to bf16, of the weight, and of the bias where there is one.

    grad_ND  of the normed rows, bf16 or float32
    past_ND  what flows past the norm to the same sum
    """
    n, d = x_ND.shape
    out_ND, half_ND = empty(n, d, dtype=F32), empty(n, d, dtype=BF16)
    parts = max(1, -(-n // NORM_ROWS))
    weight_PD = torch.empty(parts, d)
    bias_PD = None if by.bias_D is None else torch.empty(parts, d)
    none = ctypes.c_void_p(None)
    is_half = grad_ND.dtype == BF16
    kernels_of().norm_backward(
        at(grad_ND, BF16, n, d) if is_half else none, none if is_half else at(grad_ND, F32, n, d),
        at(past_ND, F32, n, d), at(x_ND, F32, n, d), at(moments_2N[0], F32, n), at(moments_2N[1], F32, n),
        at(by.weight_D, F32, d), at(out_ND, F32, n, d), at(half_ND, BF16, n, d), at(weight_PD, F32, parts, d),
        at(bias_PD, F32, parts, d), _n(n), _n(d), _n(parts), threads(),
    )  # fmt: skip
    return out_ND, half_ND, weight_PD.sum(dim=0), None if bias_PD is None else bias_PD.sum(dim=0)


def attention(
    qkv_NC: Tensor, rows: Sequences, heads: Heads, q_norm_K: Tensor | None, k_norm_K: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Causal attention within each sequence [N, H * K] bf16, and the logsumexp of its scores [N, H].

    qkv_NC  bf16: query heads, key heads, value heads; queries and keys are normed (if there are weights) and rotated
    """
    n = len(qkv_NC)
    out_NO = empty(n, heads.queries * heads.width, dtype=BF16)
    lse_NH = torch.empty(n, heads.queries)
    kernels_of().attention_forward(
        at(qkv_NC, BF16, n, heads.columns), *_rows(rows, heads, n), *_norms(heads, q_norm_K, k_norm_K),
        at(out_NO, BF16, *out_NO.shape), at(lse_NH, F32, *lse_NH.shape), threads(),
    )  # fmt: skip
    return out_NO, lse_NH


def attention_backward(
    grad_NO: Tensor, qkv_NC: Tensor, out_NO: Tensor, lse_NH: Tensor, rows: Sequences, heads: Heads,
    q_norm_K: Tensor | None, k_norm_K: Tensor | None,
) -> tuple[Tensor, Tensor | None, Tensor | None]:  # fmt: skip
    """Gradients of the projections [N, C] bf16 and of the two norms' weights."""
    n, tasks = len(qkv_NC), (len(rows.start_B1) - 1) * heads.groups
    grad_NC = empty(*qkv_NC.shape, dtype=BF16)
    norms = [None if w is None else torch.zeros(tasks, heads.width) for w in (q_norm_K, k_norm_K)]
    kernels_of().attention_backward(
        at(qkv_NC, BF16, n, heads.columns), at(out_NO, BF16, n, heads.queries * heads.width),
        at(grad_NO, BF16, n, heads.queries * heads.width), at(lse_NH, F32, n, heads.queries), *_rows(rows, heads, n),
        *_norms(heads, q_norm_K, k_norm_K), at(grad_NC, BF16, n, heads.columns),
        *(at(w, F32, tasks, heads.width) for w in norms), threads(),
    )  # fmt: skip
    q_norm, k_norm = (None if w is None else w.sum(dim=0) for w in norms)
    return grad_NC, q_norm, k_norm


def weight_gradient(grad_NR: Tensor, x_NC: Tensor, onto_RC: Tensor | None = None) -> Tensor:
    """grad^T x in float32 [R, C], the gradient of a linear layer's weight; added in place if there is something to.

    grad_NR  rows may lie apart, as a part of a wider tensor
    """
    (n, r), c = grad_NR.shape, x_NC.shape[1]
    if r % 32 or c % 32 or not n:
        slope_RC = torch.mm(grad_NR.T, x_NC).float()
        return slope_RC if onto_RC is None else onto_RC.add_(slope_RC)
    out_RC = empty(r, c, dtype=F32) if onto_RC is None else onto_RC
    kernels_of().weight_gradient(
        _rows_apart(grad_NR), _n(grad_NR.stride(0)), at(x_NC, BF16, n, c), at(out_RC, F32, r, c), _n(n), _n(r), _n(c),
        ctypes.c_int(onto_RC is not None), threads(),
    )  # fmt: skip
    return out_RC


def _rows_apart(x_NR: Tensor) -> ctypes.c_void_p:
    assert x_NR.dtype == BF16 and x_NR.stride(1) == 1 and x_NR.device.type == "cpu", (
        "a kernel expects whole rows in bf16"
    )
    return ctypes.c_void_p(x_NR.data_ptr())


def _rows(rows: Sequences, heads: Heads, n_tokens: int) -> tuple[object, ...]:
    n = len(rows.start_B1) - 1
    t = len(rows.cos_TK)
    assert not n_tokens or int(rows.position_N.max()) < t, "a position without a rotation"
    return (
        at(rows.start_B1, I64, n + 1), at(rows.trunk_B, I64, n), at(rows.own_N, I64, n_tokens),
        at(rows.position_N, I64, n_tokens), _n(n), _n(heads.queries), _n(heads.groups), _n(heads.width),
        ctypes.c_float(heads.scaling), at(rows.cos_TK, F32, t, heads.width), at(rows.sin_TK, F32, t, heads.width),
    )  # fmt: skip


def _norms(heads: Heads, q_norm_K: Tensor | None, k_norm_K: Tensor | None) -> tuple[object, ...]:
    return at(q_norm_K, F32, heads.width), at(k_norm_K, F32, heads.width), ctypes.c_float(heads.eps)
