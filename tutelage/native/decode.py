"""One token of every running sequence through a whole decoder in one call: what a rollout repeats.

The same weights and roundings as a pass through `layer.py`; a row is computed by itself, to the bit.
S running sequences, V vocabulary.
"""

import ctypes
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tutelage.native.kernels import F32, at, kernels_of, threads
from tutelage.native.slots import Slots
from tutelage.native.weights import DecoderWeights

Array = np.ndarray[tuple[int], np.dtype[Any]]


class Decoder:
    """Decodes into given slots. Row i of a step is slot i."""

    def __init__(self, weights: DecoderWeights, slots: Slots) -> None:
        assert weights.has_head and slots.n_layers == len(weights.layers), "slots of another model"
        self._held = weights, slots
        self._slots, self._io = slots.n, _Exchange(slots.n, weights.vocabulary)
        self._n_positions = min(slots.capacity, weights.n_positions)
        self._weights_at, self._slots_at = ctypes.byref(weights.struct()), ctypes.byref(slots.struct())

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
            self._weights_at, self._slots_at, io.at_token, io.at_position, ctypes.c_long(n), io.at_logits,
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
