"""Whole sequences through a whole decoder in one call, where nobody asks for a gradient.

The same numbers, to the bit, as layer by layer through `layer.py`.
N tokens, U rows that are read, B sequences, D width.
"""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tutelage.native.kernels import F32, I64, Sequences, at, kernels_of, threads
from tutelage.native.memory import empty
from tutelage.native.slots import PAGE, Slots
from tutelage.native.weights import DecoderStruct, DecoderWeights


@dataclass(frozen=True, slots=True)
class Into:
    """Where the sequences of a pass go on: b in each of the slots `taken[b]`, if any.

    after  tokens of each sequence that stand in its first slot already, a multiple of PAGE; the pass computes the rest
    """

    slots: Slots
    taken: Sequence[Sequence[int]]
    after: int = 0


class _Pass(ctypes.Structure):
    _fields_ = (
        ("decoder", DecoderStruct),
        *((name, ctypes.c_void_p) for name in ("token", "position", "start", "trunk", "own")),
        ("n_sequences", ctypes.c_long), ("chosen", ctypes.c_void_p), ("n_chosen", ctypes.c_long),
        *((name, ctypes.c_void_p) for name in ("from_", "slot")), ("after", ctypes.c_long),
        *((name, ctypes.c_void_p) for name in ("slots", "hidden")),
    )  # fmt: skip


def forward(
    weights: DecoderWeights, token_N: Tensor, rows: Sequences, *, read_U: Tensor | None = None, into: Into | None = None
) -> Tensor:
    """Hidden states behind the last norm, float32: of all tokens [N, D], or of the rows that are read [U, D].

    read_U  int64, in order, none twice
    into    takes the keys, normed and rotated, and the values of every layer
    """
    n, b, d = len(token_N), len(rows.start_B1) - 1, weights.width
    assert not n or (int(token_N.min()) >= 0 and int(token_N.max()) < weights.vocabulary), "a token out of range"
    assert not n or int(rows.position_N.max()) < weights.n_positions, "a position that the model does not have"
    u = n if read_U is None else len(read_U)
    hidden_UD = empty(u, d, dtype=F32)
    from_B1, slot_S = (None, None) if into is None else _flat(into, rows.start_B1)
    asked = _Pass(
        weights.struct(), at(token_N, I64, n), at(rows.position_N, I64, n), at(rows.start_B1, I64, b + 1),
        at(rows.trunk_B, I64, b), at(rows.own_N, I64, n), b, at(read_U, I64, u),
        -1 if read_U is None else u, at(from_B1, I64, b + 1), at(slot_S, I64, 0 if slot_S is None else len(slot_S)),
        0 if into is None else into.after, None if into is None else ctypes.addressof(into.slots.struct()),
        at(hidden_UD, F32, u, d),
    )  # fmt: skip
    kernels_of().forward(ctypes.byref(asked), threads())
    return hidden_UD


def _flat(into: Into, start_B1: Tensor) -> tuple[Tensor, Tensor]:
    """All slots that are taken, one sequence after the other, and where each sequence's begin among them [B + 1]."""
    slots = into.slots
    assert len(into.taken) == len(start_B1) - 1, "a choice of slots for each sequence"
    assert into.after % PAGE == 0 and (not into.after or all(into.taken)), "a beginning that stands in no slot"
    assert into.after + int(start_B1.diff().max()) <= slots.capacity, "prompts that do not fit"
    assert all(0 <= slot < slots.n for taken in into.taken for slot in taken), "a slot that does not exist"
    from_B1 = torch.tensor([0, *map(len, into.taken)]).cumsum(0)
    return from_B1, torch.tensor([slot for taken in into.taken for slot in taken], dtype=I64)
