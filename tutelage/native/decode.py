"""One token of every running sequence through a whole decoder in one call: what a rollout repeats.

The same weights and roundings as a pass through `layer.py`; a row is computed by itself, to the bit.
S running sequences, G key heads, T positions a slot can hold, K head width, W the same padded to a multiple of 32, D
width, V vocabulary.
"""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tutelage.native.kernels import BF16, F32, I64, Heads, Norm, at, kernels_of, threads
from tutelage.native.layer import LayerWeights
from tutelage.native.linear import LinearStruct, Paired

Array = np.ndarray[tuple[int], np.dtype[Any]]

POSITIONS = 16  # a slot holds a multiple of this, since scores are computed by so many


@dataclass(frozen=True, slots=True)
class DecoderWeights:
    """All weights of a model, and the rotations of its positions."""

    embedding_VD: Tensor  # float32
    place_PD: Tensor | None  # float32, what is added at each of the positions that the model knows
    layers: Sequence[LayerWeights]
    last_norm: Norm
    head: Paired
    heads: Heads
    cos_TK: Tensor
    sin_TK: Tensor


class _Layer(ctypes.Structure):
    _fields_ = (
        *((name, LinearStruct) for name in ("qkv", "attended", "gate", "up", "down")),
        *(
            (name, ctypes.c_void_p)
            for name in (
                "norm_attention",
                "norm_mlp",
                "q_norm",
                "k_norm",
                "bias_attention",
                "bias_mlp",
                "keys",
                "values",
            )
        ),
    )


class _Decoder(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("embedding", "place", "last_norm", "last_bias")),
        ("head", LinearStruct),
        *((name, ctypes.c_long) for name in (
            "layers", "width", "heads", "groups", "head_width", "inner", "vocabulary", "capacity")),
        ("eps", ctypes.c_float), ("head_eps", ctypes.c_float), ("scale", ctypes.c_float),
        ("cos", ctypes.c_void_p), ("sin", ctypes.c_void_p), ("activation", ctypes.c_long),
        ("is_parallel", ctypes.c_long),
    )  # fmt: skip


class Decoder:
    """Decodes into given buffers of keys and values, [slots, G, T, W] bf16 a layer. Row i of a step is slot i."""

    def __init__(self, weights: DecoderWeights, keys: Sequence[Tensor], values: Sequence[Tensor]) -> None:
        self._held = weights, list(keys), list(values)  # what the structures point to
        slots, groups, capacity, padded_width = shape = keys[0].shape
        width = weights.heads.width
        assert groups == weights.heads.groups and padded_width == weights.heads.slot_width, "keys of another model"
        assert capacity % POSITIONS == 0 and len(weights.cos_TK) >= capacity, "a slot of a length that cannot be read"
        self._slots, self._io = slots, _Exchange(slots, len(weights.embedding_VD))
        # Beyond what the model knows there is nothing to read.
        self._n_positions = capacity if weights.place_PD is None else min(capacity, len(weights.place_PD))
        self._layers = (_Layer * len(weights.layers))(
            *(
                _layer(layer, at(k, BF16, *shape), at(v, BF16, *shape))
                for layer, k, v in zip(weights.layers, keys, values, strict=True)
            )
        )
        v, d = weights.embedding_VD.shape
        t, first, last = len(weights.cos_TK), weights.layers[0], weights.last_norm
        place = weights.place_PD
        self._decoder = _Decoder(
            at(weights.embedding_VD, F32, v, d), at(place, F32, 0 if place is None else len(place), d),
            at(last.weight_D, F32, d), at(last.bias_D, F32, d), weights.head.struct(), len(weights.layers), d,
            weights.heads.queries, groups, width, first.up.n_out, v, capacity, last.eps, weights.heads.eps,
            weights.heads.scaling, at(weights.cos_TK, F32, t, width), at(weights.sin_TK, F32, t, width),
            first.activation, int(first.is_parallel),
        )  # fmt: skip
        self._by_reference = ctypes.byref(self._decoder)

    def logits(self, token_S: Array, position_S: Array) -> Tensor:
        """Next-token logits [S, V] float32 of one more token in each of the first slots."""
        return self._step(token_S, position_S, None, 1.0).clone()

    def draw(self, token_S: Array, position_S: Array, uniform_S: Array, *, temperature: float) -> tuple[Array, Array]:
        """The token that follows each [S], by inverse cumulative distribution, and its log-probability [S] (nats)."""
        self._step(token_S, position_S, uniform_S, temperature)
        n = len(token_S)
        return self._io.drawn_S[:n].copy(), self._io.logp_S[:n].copy()

    def _step(self, token_S: Array, position_S: Array, uniform_S: Array | None, temperature: float) -> Tensor:
        """The logits, in memory that the next step writes over."""
        n, io = len(token_S), self._io
        assert n <= self._slots, f"{n} rows, but {self._slots} slots"
        assert len(position_S) == n and (uniform_S is None or len(uniform_S) == n), "one position and one draw a row"
        assert not n or int(position_S.max()) < self._n_positions, "a position that the slots or the model do not have"
        io.token_S[:n], io.position_S[:n] = token_S, position_S
        if uniform_S is not None:
            io.uniform_S[:n] = uniform_S
        kernels_of().decode_step(
            self._by_reference, self._layers, io.at_token, io.at_position, ctypes.c_long(n), io.at_logits,
            None if uniform_S is None else io.at_uniform, ctypes.c_float(1 / temperature), io.at_drawn, io.at_logp,
            threads(),
        )  # fmt: skip
        return io.logits_SV[:n]


class _Exchange:
    """What steps read and write, at addresses that stay: to find new ones would take a small model's time."""

    def __init__(self, slots: int, vocabulary: int) -> None:
        self.token_S, self.position_S, self.drawn_S = np.empty((3, slots), dtype=np.int64)
        self.uniform_S, self.logp_S = np.empty(slots), np.empty(slots, dtype=np.float32)
        self.logits_SV = torch.empty(slots, vocabulary)
        self.at_token, self.at_position, self.at_drawn, self.at_uniform, self.at_logp = (
            ctypes.c_void_p(x.ctypes.data)
            for x in (self.token_S, self.position_S, self.drawn_S, self.uniform_S, self.logp_S)
        )
        self.at_logits = at(self.logits_SV, F32, slots, vocabulary)


def _layer(layer: LayerWeights, keys: ctypes.c_void_p, values: ctypes.c_void_p) -> _Layer:
    d = len(layer.norm_attention.weight_D)
    k = 0 if layer.q_norm_K is None else len(layer.q_norm_K)
    parts = (layer.qkv, layer.out, layer.gate, layer.up, layer.down)
    return _Layer(
        *(LinearStruct() if part is None else part.struct() for part in parts),
        at(layer.norm_attention.weight_D, F32, d), at(layer.norm_mlp.weight_D, F32, d), at(layer.q_norm_K, F32, k),
        at(layer.k_norm_K, F32, k), at(layer.norm_attention.bias_D, F32, d), at(layer.norm_mlp.bias_D, F32, d), keys,
        values,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Projections:
    """What attention of a packed row read, bf16 [N, C], and what turns its keys by their positions."""

    qkv_NC: Tensor
    heads: Heads
    cos_TK: Tensor
    sin_TK: Tensor
    k_norm_K: Tensor | None


def fill_slots(
    projections: Projections, lengths: Sequence[int], slots: Sequence[Sequence[int]], keys_SGTW: Tensor,
    values_SGTW: Tensor,
) -> None:  # fmt: skip
    """Writes keys, normed and rotated, and values of prompt b, `lengths[b]` tokens long, into each of `slots[b]`."""
    p, heads = projections, projections.heads
    n, t = len(p.qkv_NC), len(p.cos_TK)
    s, _, capacity, w = keys_SGTW.shape
    assert sum(lengths) == n and max(lengths) <= min(t, capacity), "prompts that do not fit"
    assert all(0 <= slot < s for taken in slots for slot in taken), "a slot that does not exist"
    start_B1, from_B1 = (torch.tensor([0, *x]).cumsum(0) for x in (lengths, [len(taken) for taken in slots]))
    slot_S = torch.tensor([slot for taken in slots for slot in taken], dtype=I64)
    kernels_of().fill_slots(
        at(p.qkv_NC, BF16, n, heads.columns), at(start_B1, I64, len(lengths) + 1), at(from_B1, I64, len(slots) + 1),
        at(slot_S, I64, len(slot_S)), at(p.cos_TK, F32, t, heads.width), at(p.sin_TK, F32, t, heads.width),
        at(p.k_norm_K, F32, heads.width), ctypes.c_float(heads.eps), at(keys_SGTW, BF16, s, heads.groups, capacity, w),
        at(values_SGTW, BF16, s, heads.groups, capacity, w),
        *(ctypes.c_long(x) for x in (len(lengths), heads.queries, heads.groups, heads.width, capacity)), threads(),
    )  # fmt: skip
