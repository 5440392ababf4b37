"""Where the keys and values of running sequences lie, for the kernels that fill and read them.

S slots, G key heads, T positions a slot can hold, W head width padded to a multiple of 32.
"""

import ctypes
from collections.abc import Sequence

from torch import Tensor

from tutelage.native.kernels import BF16, Heads, at

POSITIONS = 16  # a slot holds a multiple of this, since scores are computed by so many
PAGE = 64  # a pass goes on behind a multiple of this, since queries are computed by so many


class SlotsStruct(ctypes.Structure):
    """`Slots` of decoder.h."""

    _fields_ = (("keys", ctypes.c_void_p), ("values", ctypes.c_void_p), ("capacity", ctypes.c_long))


class Slots:
    """Buffers [S, G, T, W] bf16 of each layer. Columns beyond the head width are zero."""

    def __init__(self, keys: Sequence[Tensor], values: Sequence[Tensor], heads: Heads) -> None:
        self.n, groups, self.capacity, padded_width = shape = keys[0].shape
        assert groups == heads.groups and padded_width == heads.slot_width, "keys of another model"
        assert self.capacity % POSITIONS == 0, "a slot of a length that cannot be read"
        self.n_layers = len(keys)
        self._held = list(keys), list(values)  # what the structure points to
        self._at = [(ctypes.c_void_p * len(x))(*(at(t, BF16, *shape).value for t in x)) for x in self._held]
        self._struct = SlotsStruct(*(ctypes.addressof(x) for x in self._at), self.capacity)

    def struct(self) -> SlotsStruct:
        """For C; it points into the buffers, which whoever holds it must hold, too."""
        return self._struct
