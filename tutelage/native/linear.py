"""Linear layers in bf16 on weights that lie as the kernels read them. A row's result does not depend on its company.

N tokens, I columns of the input, O of the output, F inner width of an MLP, M chosen positions, V vocabulary.
"""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from tutelage.native.kernels import BF16, F32, I64, at, kernels_of, threads
from tutelage.native.memory import empty

NULL = ctypes.c_void_p(None)
STEP = 32  # sizes of a weight are padded with zeros to multiples of this


class LinearStruct(ctypes.Structure):
    """`Linear` of linear.h."""

    _fields_ = (("weight", ctypes.c_void_p), ("bias", ctypes.c_void_p), ("out", ctypes.c_long), ("into", ctypes.c_long))


@dataclass(frozen=True, slots=True)
class Paired:
    """A weight [O, I] (and a bias, in bf16) as the kernels read it."""

    weight: Tensor  # flat: padded and paired
    n_out: int
    n_in: int
    bias_O: Tensor | None = None

    def struct(self) -> LinearStruct:
        """For C; it points into the tensors, which whoever holds it must hold, too."""
        size = (self.n_out + -self.n_out % STEP) * (self.n_in + -self.n_in % STEP)
        return LinearStruct(
            at(self.weight, BF16, size), at(self.bias_O, BF16, self.n_out), self.n_out, self.n_in
        )  # fmt: skip


def pair(weights: Sequence[Tensor], *, turned: bool = False) -> Tensor:
    """The weight of a `Paired` from matrices [O, I], one below the other, rounded to bf16.

    That of x W^T or, turned, that of x W, which has I outputs.
    """
    n_out, n_in = sum(map(len, weights)), weights[0].shape[1]
    beyond = -n_out % STEP, -n_in % STEP
    if any(beyond) or any(len(w) % STEP for w in weights):
        weights = [pad(torch.cat([*weights]), (0, beyond[1], 0, beyond[0]))]
    o, i, first = n_out + beyond[0], n_in + beyond[1], 0
    out = empty(o * i, dtype=BF16)
    for weight_OI in weights:
        rows, wide_OI = len(weight_OI), weight_OI.float().contiguous()
        kernels_of().pair_weight(
            at(wide_OI, F32, rows, i), at(out, BF16, o * i), ctypes.c_long(rows), ctypes.c_long(i),
            ctypes.c_long(first), ctypes.c_long(o), ctypes.c_int(turned), threads(),
        )  # fmt: skip
        first += rows
    return out


def linear(x_NI: Tensor, layer: Paired) -> Tensor:
    """x W^T + bias [N, O]."""
    n = len(x_NI)
    out_NO = empty(n, layer.n_out, dtype=BF16)
    kernels_of().linear(
        ctypes.byref(layer.struct()), at(x_NI, BF16, n, layer.n_in), at(out_NO, BF16, n, layer.n_out),
        ctypes.c_long(n), threads(),
    )  # fmt: skip
    return out_NO


def gated(x_NI: Tensor, gate: Paired, up: Paired, *, keep: bool) -> tuple[Tensor, Tensor | None]:
    """silu(gate) * up [N, F], and gates and ups side by side [N, 2 F] if they are to be kept."""
    n, f = len(x_NI), gate.n_out
    out_NF = empty(n, f, dtype=BF16)
    kept_N2F = empty(n, 2 * f, dtype=BF16) if keep else None
    kernels_of().gated(
        ctypes.byref(gate.struct()), ctypes.byref(up.struct()), at(x_NI, BF16, n, gate.n_in),
        at(kept_N2F, BF16, n, 2 * f), at(out_NF, BF16, n, f), ctypes.c_long(n), threads(),
    )  # fmt: skip
    return out_NF, kept_N2F


def gated_backward(grad_NO: Tensor, turned: Paired, kept_N2F: Tensor) -> tuple[Tensor, Tensor]:
    """Gradient of gates and ups [N, 2 F], and what `gated` gave, so that nobody need keep it.

    grad_NO  of what the next layer made of it
    turned   that layer, for x W
    """
    n, f = len(grad_NO), turned.n_out
    grad_N2F, out_NF = empty(n, 2 * f, dtype=BF16), empty(n, f, dtype=BF16)
    kernels_of().gated_backward(
        ctypes.byref(turned.struct()), at(grad_NO, BF16, n, turned.n_in), at(kept_N2F, BF16, n, 2 * f),
        at(grad_N2F, BF16, n, 2 * f), at(out_NF, BF16, n, f), ctypes.c_long(n), threads(),
    )  # fmt: skip
    return grad_N2F, out_NF


def activated(x_NI: Tensor, layer: Paired, activation: int, *, keep: bool) -> tuple[Tensor, Tensor | None]:
    """gelu(x W^T + bias) [N, F], and what it is of [N, F] if that is to be kept."""
    n, f = len(x_NI), layer.n_out
    out_NF = empty(n, f, dtype=BF16)
    kept_NF = empty(n, f, dtype=BF16) if keep else None
    kernels_of().activated(
        ctypes.byref(layer.struct()), ctypes.c_int(activation), at(x_NI, BF16, n, layer.n_in), at(kept_NF, BF16, n, f),
        at(out_NF, BF16, n, f), ctypes.c_long(n), threads(),
    )  # fmt: skip
    return out_NF, kept_NF


def activated_backward(grad_NO: Tensor, turned: Paired, kept_NF: Tensor, activation: int) -> tuple[Tensor, Tensor]:
    """Gradient [N, F] of what `activated` kept, and what it gave; arguments as in `gated_backward`."""
    n, f = len(grad_NO), turned.n_out
    grad_NF, out_NF = empty(n, f, dtype=BF16), empty(n, f, dtype=BF16)
    kernels_of().activated_backward(
        ctypes.byref(turned.struct()), ctypes.c_int(activation), at(grad_NO, BF16, n, turned.n_in),
        at(kept_NF, BF16, n, f), at(grad_NF, BF16, n, f), at(out_NF, BF16, n, f), ctypes.c_long(n), threads(),
    )  # fmt: skip
    return grad_NF, out_NF


def read_head(
    x_MI: Tensor, head: Paired, token_M: Tensor, temperature: float, *, with_entropy: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probability of each token under softmax(x W^T / temperature), logsumexp, and entropy or 0, all [M]."""
    m = len(x_MI)
    logp_M, norm_M, entropy_M = torch.empty(m), torch.empty(m), torch.zeros(m)
    _check_tokens(token_M, head.n_out)
    kernels_of().head_forward(
        ctypes.byref(head.struct()), at(x_MI, BF16, m, head.n_in), at(token_M, I64, m), ctypes.c_float(1 / temperature),
        at(logp_M, F32, m), at(norm_M, F32, m), at(entropy_M if with_entropy else None, F32, m), ctypes.c_long(m),
        threads(),
    )  # fmt: skip
    return logp_M, norm_M, entropy_M


def read_head_backward(
    x_MI: Tensor, head: Paired, turned: Paired | None, token_M: Tensor, norm_M: Tensor, grad_M: Tensor,
    temperature: float,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """Gradient of the logits [M, V] by that of the log-probabilities, and of x [M, I] if the turned head is given."""
    m, v = len(x_MI), head.n_out
    # Rows a power of two apart would fight for one place in the cache.
    room = empty(m + -m % STEP, v + -v % STEP + STEP, dtype=BF16)
    grad_MI = None if turned is None else empty(m, head.n_in, dtype=BF16)
    kernels_of().head_backward(
        ctypes.byref(head.struct()), NULL if turned is None else ctypes.byref(turned.struct()),
        at(x_MI, BF16, m, head.n_in), at(token_M, I64, m), at(norm_M, F32, m), at(grad_M, F32, m),
        ctypes.c_float(1 / temperature), at(room, BF16, *room.shape), ctypes.c_long(room.shape[1]),
        at(grad_MI, BF16, m, head.n_in), ctypes.c_long(m), threads(),
    )  # fmt: skip
    return room[:m, :v], grad_MI


def read_logits(x_MI: Tensor, head: Paired) -> Tensor:
    """x W^T [M, V], not rounded."""
    m, v = len(x_MI), head.n_out
    logits_MV = empty(m, v, dtype=F32)
    kernels_of().head_logits(
        ctypes.byref(head.struct()), at(x_MI, BF16, m, head.n_in), at(logits_MV, F32, m, v), ctypes.c_long(m), threads()
    )
    return logits_MV


def draw_rows(logits_MV: Tensor, uniform_M: Tensor, *, temperature: float) -> tuple[Tensor, Tensor]:
    """A token [M] of each row, by inverse cumulative distribution, and its log-probability [M] (nats)."""
    m, v = logits_MV.shape
    drawn_M, logp_M = torch.empty(m, dtype=I64), torch.empty(m)
    kernels_of().draw_rows(
        at(logits_MV, F32, m, v), at(uniform_M, torch.float64, m), ctypes.c_float(1 / temperature), at(drawn_M, I64, m),
        at(logp_M, F32, m), ctypes.c_long(m), ctypes.c_long(v), threads(),
    )  # fmt: skip
    return drawn_M, logp_M


def _check_tokens(token_M: Tensor, vocabulary: int) -> None:
    assert not len(token_M) or (int(token_M.min()) >= 0 and int(token_M.max()) < vocabulary), "a token out of range"
