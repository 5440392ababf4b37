"""The kernels as functions of tensors, each the equal of one in `plain.py`. Checked here, so that C++ can trust.

N tokens, B sequences, H query heads, G key heads, K head width, D width, F inner width, V vocabulary.
"""

import ctypes
from dataclasses import dataclass

import torch
from torch import Tensor

from tutelage.native.build import library

BF16, F32, I64 = torch.bfloat16, torch.float32, torch.int64


@dataclass(frozen=True, slots=True)
class Heads:
    """The shape of attention."""

    queries: int  # H
    groups: int  # G
    width: int  # K
    scaling: float  # multiplies the scores
    eps: float  # of the norms of queries and keys

    @property
    def columns(self) -> int:
        """Numbers that a token's projections take: H + 2 G vectors."""
        return (self.queries + 2 * self.groups) * self.width


@dataclass(frozen=True, slots=True)
class Sequences:
    """Where the sequences of a packed row begin, and the rotations of their positions."""

    start_B1: Tensor  # int64, the last one is N
    cos_TK: Tensor  # float32, at least as long as the longest sequence
    sin_TK: Tensor


def is_ready() -> bool:
    """Whether the kernels can run here; compiles them when asked first."""
    return library() is not None


def _kernels() -> ctypes.CDLL:
    opened = library()
    assert opened is not None, "ask is_ready() first"
    return opened


def _at(x: Tensor | None, dtype: torch.dtype, *shape: int) -> ctypes.c_void_p:
    """The address of a tensor that is what the kernel expects; None is the null pointer."""
    if x is None:
        return ctypes.c_void_p(None)
    assert x.dtype == dtype and x.shape == shape and x.is_contiguous() and x.device.type == "cpu", (
        f"a kernel expects {dtype} {shape}, contiguous, and was given {x.dtype} {tuple(x.shape)} on {x.device}"
    )
    return ctypes.c_void_p(x.data_ptr())


def _n(x: int) -> ctypes.c_long:
    return ctypes.c_long(x)


def _threads() -> ctypes.c_int:
    return ctypes.c_int(torch.get_num_threads())


def norm(
    x_ND: Tensor, y_ND: Tensor | None, weight_D: Tensor, eps: float, *, wide: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """x + y (x itself without a y), its RMS norm times the weight (bf16, or float32 if `wide`), and 1 / rms [N]."""
    n, d = x_ND.shape
    sum_ND = torch.empty_like(x_ND) if y_ND is not None else x_ND
    out_ND = torch.empty(n, d, dtype=F32 if wide else BF16)
    inverse_N = torch.empty(n)
    none = ctypes.c_void_p(None)
    _kernels().norm_forward(
        _at(x_ND, F32, n, d), _at(y_ND, BF16, n, d), _at(weight_D, F32, d), ctypes.c_float(eps),
        _at(sum_ND, F32, n, d), none if wide else _at(out_ND, BF16, n, d), _at(out_ND, F32, n, d) if wide else none,
        _at(inverse_N, F32, n), _n(n), _n(d), _threads(),
    )  # fmt: skip
    return sum_ND, out_ND, inverse_N


def norm_backward(
    grad_ND: Tensor, past_ND: Tensor | None, x_ND: Tensor, inverse_N: Tensor, weight_D: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradient of x + y in float32 and rounded to bf16, and of the weight.

    grad_ND  of the normed rows, bf16 or float32
    past_ND  what flows past the norm to the same sum
    """
    n, d = x_ND.shape
    out_ND, half_ND = torch.empty(n, d), torch.empty(n, d, dtype=BF16)
    threads = torch.get_num_threads()
    weight_PD = torch.empty(threads, d)
    none = ctypes.c_void_p(None)
    is_half = grad_ND.dtype == BF16
    _kernels().norm_backward(
        _at(grad_ND, BF16, n, d) if is_half else none, none if is_half else _at(grad_ND, F32, n, d),
        _at(past_ND, F32, n, d), _at(x_ND, F32, n, d), _at(inverse_N, F32, n), _at(weight_D, F32, d),
        _at(out_ND, F32, n, d), _at(half_ND, BF16, n, d), _at(weight_PD, F32, threads, d), _n(n), _n(d), _threads(),
    )  # fmt: skip
    return out_ND, half_ND, weight_PD.sum(dim=0)


def gate(gate_up_N2F: Tensor) -> Tensor:
    """silu(gate) * up [N, F]; the gates stand before the ups."""
    n, f = gate_up_N2F.shape[0], gate_up_N2F.shape[1] // 2
    out_NF = torch.empty(n, f, dtype=BF16)
    _kernels().gate_forward(_at(gate_up_N2F, BF16, n, 2 * f), _at(out_NF, BF16, n, f), _n(n), _n(f), _threads())
    return out_NF


def gate_backward(grad_NF: Tensor, gate_up_N2F: Tensor) -> tuple[Tensor, Tensor]:
    """Gradient of gates and ups [N, 2 F], and what `gate` gave, so that nobody need keep it."""
    n, f = grad_NF.shape
    grad_N2F, out_NF = torch.empty_like(gate_up_N2F), torch.empty_like(grad_NF)
    _kernels().gate_backward(
        _at(grad_NF, BF16, n, f), _at(gate_up_N2F, BF16, n, 2 * f), _at(grad_N2F, BF16, n, 2 * f),
        _at(out_NF, BF16, n, f), _n(n), _n(f), _threads(),
    )  # fmt: skip
    return grad_N2F, out_NF


def attention(
    qkv_NC: Tensor, rows: Sequences, heads: Heads, q_norm_K: Tensor | None, k_norm_K: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Causal attention within each sequence [N, H * K] bf16, and the logsumexp of its scores [N, H].

    qkv_NC  bf16: query heads, key heads, value heads; queries and keys are normed (if there are weights) and rotated
    """
    n = len(qkv_NC)
    out_NO = torch.empty(n, heads.queries * heads.width, dtype=BF16)
    lse_NH = torch.empty(n, heads.queries)
    _kernels().attention_forward(
        _at(qkv_NC, BF16, n, heads.columns), *_rows(rows, heads), *_norms(heads, q_norm_K, k_norm_K),
        _at(out_NO, BF16, *out_NO.shape), _at(lse_NH, F32, *lse_NH.shape), _threads(),
    )  # fmt: skip
    return out_NO, lse_NH


def attention_backward(
    grad_NO: Tensor, qkv_NC: Tensor, out_NO: Tensor, lse_NH: Tensor, rows: Sequences, heads: Heads,
    q_norm_K: Tensor | None, k_norm_K: Tensor | None,
) -> tuple[Tensor, Tensor | None, Tensor | None]:  # fmt: skip
    """Gradients of the projections [N, C] bf16 and of the two norms' weights."""
    n, tasks = len(qkv_NC), (len(rows.start_B1) - 1) * heads.groups
    grad_NC = torch.empty_like(qkv_NC)
    norms = [None if w is None else torch.zeros(tasks, heads.width) for w in (q_norm_K, k_norm_K)]
    _kernels().attention_backward(
        _at(qkv_NC, BF16, n, heads.columns), _at(out_NO, BF16, n, heads.queries * heads.width),
        _at(grad_NO, BF16, n, heads.queries * heads.width), _at(lse_NH, F32, n, heads.queries), *_rows(rows, heads),
        *_norms(heads, q_norm_K, k_norm_K), _at(grad_NC, BF16, n, heads.columns),
        *(_at(w, F32, tasks, heads.width) for w in norms), _threads(),
    )  # fmt: skip
    q_norm, k_norm = (None if w is None else w.sum(dim=0) for w in norms)
    return grad_NC, q_norm, k_norm


def weight_gradient(grad_NR: Tensor, x_NC: Tensor, onto_RC: Tensor | None = None) -> Tensor:
    """grad^T x in float32 [R, C], the gradient of a linear layer's weight; added in place if there is something to."""
    (n, r), c = grad_NR.shape, x_NC.shape[1]
    if r % 32 or c % 32 or not n:
        slope_RC = torch.mm(grad_NR.T, x_NC).float()
        return slope_RC if onto_RC is None else onto_RC.add_(slope_RC)
    out_RC = torch.empty(r, c) if onto_RC is None else onto_RC
    _kernels().weight_gradient(
        _at(grad_NR, BF16, n, r), _at(x_NC, BF16, n, c), _at(out_RC, F32, r, c), _n(n), _n(r), _n(c),
        ctypes.c_int(onto_RC is not None), _threads(),
    )  # fmt: skip
    return out_RC


def _rows(rows: Sequences, heads: Heads) -> tuple[object, ...]:
    n = len(rows.start_B1) - 1
    t = len(rows.cos_TK)
    return (
        _at(rows.start_B1, I64, n + 1), _n(n), _n(heads.queries), _n(heads.groups), _n(heads.width),
        ctypes.c_float(heads.scaling), _at(rows.cos_TK, F32, t, heads.width), _at(rows.sin_TK, F32, t, heads.width),
    )  # fmt: skip


def _norms(heads: Heads, q_norm_K: Tensor | None, k_norm_K: Tensor | None) -> tuple[object, ...]:
    return _at(q_norm_K, F32, heads.width), _at(k_norm_K, F32, heads.width), ctypes.c_float(heads.eps)


def logp(
    logits_NV: Tensor, token_N: Tensor, temperature: float, *, with_entropy: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probability of each token under softmax(logits / temperature), logsumexp, entropy (0 unless asked for)."""
    n, v = logits_NV.shape
    logp_N, norm_N, entropy_N = torch.empty(n), torch.empty(n), torch.zeros(n)
    _kernels().logp_forward(
        _at(logits_NV, BF16, n, v), _at(token_N, I64, n), ctypes.c_float(1 / temperature), _at(logp_N, F32, n),
        _at(norm_N, F32, n), _at(entropy_N if with_entropy else None, F32, n), _n(n), _n(v), _threads(),
    )  # fmt: skip
    return logp_N, norm_N, entropy_N


def logp_backward_(logits_NV: Tensor, token_N: Tensor, norm_N: Tensor, grad_N: Tensor, temperature: float) -> None:
    """Writes the gradient of the log-probability over the logits."""
    n, v = logits_NV.shape
    _kernels().logp_backward(
        _at(logits_NV, BF16, n, v), _at(token_N, I64, n), _at(norm_N, F32, n), _at(grad_N, F32, n),
        ctypes.c_float(1 / temperature), _n(n), _n(v), _threads(),
    )  # fmt: skip
