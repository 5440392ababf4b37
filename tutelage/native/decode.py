"""Tokens of every running sequence through a whole decoder, many steps in one call: what a rollout repeats.

The same weights and roundings as a pass through `layer.py`; a row is computed by itself, to the bit.
S running sequences, R samples of a rollout, L tokens of the longest, V vocabulary.
"""

import ctypes
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from tutelage.native.kernels import F32, I64, at, kernels_of, threads
from tutelage.native.memory import empty
from tutelage.native.slots import Slots
from tutelage.native.weights import DecoderWeights

Array = np.ndarray[tuple[int], np.dtype[Any]]
Array2 = np.ndarray[tuple[int, int], np.dtype[Any]]


@dataclass(frozen=True, slots=True)
class Draws:
    """All samples of a rollout: what each is drawn from, and what it has drawn."""

    seed_R: Array  # uint64
    prompt_R: Array  # int64, like all that follows but the log-probabilities: tokens of the prompt
    limit_R: Array  # tokens after which a sample ends
    drawn_R: Array  # tokens so far
    token_RL: Array2
    logp_RL: Array2  # float32, nats

    @classmethod
    def of(cls, seeds: list[int], prompts: list[int], limits: list[int]) -> "Draws":
        """Samples that have drawn nothing yet."""
        n, most = len(seeds), max(limits, default=0)
        return cls(
            np.array(seeds, dtype=np.uint64),
            np.array(prompts, dtype=np.int64),
            np.array(limits, dtype=np.int64),
            np.zeros(n, dtype=np.int64),
            np.zeros((n, most), dtype=np.int64),
            np.zeros((n, most), dtype=np.float32),
        )


class _Draws(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("seed", "prompt", "limit", "drawn", "token", "logp")),
        ("most", ctypes.c_long),
    )


class Decoder:
    """Decodes into given slots. Row i of a step is slot i."""

    def __init__(self, weights: DecoderWeights, slots: Slots) -> None:
        assert weights.has_head and slots.n_layers == len(weights.layers), "slots of another model"
        self._held = weights, slots
        self._slots, self._logits_SV = slots.n, empty(slots.n, weights.vocabulary, dtype=F32)
        self._n_positions = min(slots.capacity, weights.n_positions)
        self._weights_at, self._slots_at = ctypes.byref(weights.struct()), ctypes.byref(slots.struct())

    def logits(self, token_S: Tensor, position_S: Tensor) -> Tensor:
        """Next-token logits [S, V] float32 of one more token in each of the first slots, until the next call."""
        n = len(token_S)
        assert 0 < n <= self._slots, f"{n} rows, but {self._slots} slots"
        assert int(position_S.max()) < self._n_positions, "a position that the slots or the model do not have"
        kernels_of().decode_step(
            self._weights_at, self._slots_at, at(token_S, I64, n), at(position_S, I64, n), ctypes.c_long(n),
            ctypes.c_void_p(self._logits_SV.data_ptr()), threads(),
        )  # fmt: skip
        return self._logits_SV[:n]

    def run(
        self, draws: Draws, row_S: Array, n: int, *, end_id: int, temperature: float, steps: int, few: int = 0
    ) -> tuple[int, int]:
        """Up to `steps` tokens for the samples `row_S` of the first n slots, of which each has drawn one or more.

        A sample that draws `end_id` or reaches its limit frees its slot, and the last running one moves there, in
        `row_S`, too. Ends before its last step when no more than `few` run.
        Returns how many samples still run, and how many tokens were drawn.
        """
        d, running = draws, row_S[:n]
        limit_S, drawn_S = d.limit_R[running], d.drawn_R[running]
        assert 0 < n <= min(self._slots, len(row_S)), f"{n} rows, but {self._slots} slots"
        assert row_S.dtype == np.int64 and row_S.flags.c_contiguous, "samples of slots in another form"
        assert int((d.prompt_R[running] + limit_S).max()) <= self._n_positions + 1, (
            "a position that the slots or the model do not have"
        )
        assert limit_S.max() <= d.token_RL.shape[1], "a limit beyond the room for tokens"
        assert (drawn_S >= 1).all() and (drawn_S < limit_S).all(), "a sample without a first token, or one that is over"
        asked = _Draws(
            *(x.ctypes.data for x in (d.seed_R, d.prompt_R, d.limit_R, d.drawn_R, d.token_RL, d.logp_RL)),
            d.token_RL.shape[1],
        )
        left = ctypes.c_int64(n)
        drawn = kernels_of().decode_run(
            self._weights_at, self._slots_at, ctypes.byref(asked), ctypes.c_void_p(row_S.ctypes.data),
            ctypes.byref(left), ctypes.c_long(steps), ctypes.c_long(few), ctypes.c_int64(end_id),
            ctypes.c_float(1 / temperature), ctypes.c_void_p(self._logits_SV.data_ptr()), threads(),
        )  # fmt: skip
        return left.value, drawn
