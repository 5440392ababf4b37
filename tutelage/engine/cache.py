"""Keys and values of running sequences, one slot each, and the two layouts that fill and read them.

S slots, N packed tokens, H query heads, G key heads, T positions, D head width.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from tutelage.engine.prefix_cache import Ids, Prefix
from tutelage.model.attention import Packed
from tutelage.native import memory
from tutelage.native.forward import Into
from tutelage.native.kernels import Heads
from tutelage.native.slots import Slots


class SlotCache:
    """Static buffers. Running sequences lie in the first slots, side by side, so that a step reads one slice."""

    def __init__(self, n_slots: int, capacity: int) -> None:
        self.n_slots = n_slots
        self.capacity = capacity  # positions a slot can hold
        self.keys: list[Tensor] = []  # [S, G, T, D] a layer
        self.values: list[Tensor] = []
        self._blocks: list[Tensor] = []  # the same memory as [L, S, G, T, D], of all layers or of one
        self.native: Slots | None = None  # the same buffers, if the kernels fill them

    def open_native(self, n_layers: int, heads: Heads) -> Slots:
        """All buffers as the kernels want them, made when they are first asked for."""
        if self.native is None:
            shape = (n_layers, self.n_slots, heads.groups, self.capacity, heads.slot_width)
            is_padded = heads.slot_width > heads.width  # by columns that stay 0
            like = torch.empty(0, dtype=torch.bfloat16)
            keys, values = (_room(shape, like, clear=is_padded) for _ in range(2))
            self._blocks = [keys, values]
            self.keys, self.values = list(keys), list(values)
            self.native = Slots(self.keys, self.values, heads)
        return self.native

    def open(self, layer: int, groups: int, width: int, like: Tensor, *, clear: bool) -> tuple[Tensor, Tensor]:
        """The buffers of a layer, made when they are first asked for.

        clear  with zeros, for who reads what nobody has written, if only to multiply it by 0
        """
        if layer == len(self.keys):
            shape = (self.n_slots, groups, self.capacity, width)
            self.keys.append(_room(shape, like, clear=clear))
            self.values.append(_room(shape, like, clear=clear))
            self._blocks += [self.keys[layer][None], self.values[layer][None]]
        return self.keys[layer], self.values[layer]

    def prefix(self, slot: int, ids: Ids) -> Prefix:
        """What a slot holds of these tokens, which the sequence in it begins with, until another one moves there."""
        return Prefix(ids, *(block[:, slot, :, : len(ids)] for block in self._blocks))

    def put(self, prefix: Prefix, slots: Sequence[int]) -> None:
        """Lets each of these slots begin with the prefix."""
        for block, kept_LGPW in zip(self._blocks, (prefix.keys_LGPW, prefix.values_LGPW), strict=True):
            for slot in slots:
                block[:, slot, :, : len(prefix)] = kept_LGPW

    def move(self, source: int, target: int, length: int) -> None:
        """Copies what a slot holds of a sequence into another slot."""
        for block in self._blocks:
            block[:, target, :, :length] = block[:, source, :, :length]

    def step(self, position_S: Tensor, read: int) -> "DecodeLayout":
        """The layout of one new token in each of the first slots, at these positions, all of them below `read`."""
        return DecodeLayout(self.keys, self.values, position_S, min(read, self.capacity))


def _room(shape: tuple[int, ...], like: Tensor, *, clear: bool) -> Tensor:
    """On a processor in large pages: a step reads all of it, and with small ones the way to a page takes the time."""
    if like.device.type == "cpu":
        return (memory.zeros if clear else memory.empty)(*shape, dtype=like.dtype)
    return torch.zeros(shape, dtype=like.dtype, device=like.device)


class PrefillLayout:
    """Packed attention over whole prompts, whose keys and values go into slots: those of prompt b into `slots[b]`.

    prefix  what all prompts have before the tokens of the pass, which only the kernels go on behind
    """

    def __init__(
        self, packed: Packed, cache: SlotCache, slots: Sequence[Sequence[int]], prefix: Prefix | None = None
    ) -> None:
        assert packed.after == (len(prefix) if prefix else 0), "positions that do not count on from the prefix"
        self.packed, self._cache, self._slots, self._prefix = packed, cache, slots, prefix
        self._n_layers = 0

    def into(self, n_layers: int, heads: Heads) -> Into:
        """For who computes all layers without asking this layout for attention."""
        opened = self._cache.open_native(n_layers, heads)
        if self._prefix is not None:
            self._cache.put(self._prefix, [slots[0] for slots in self._slots])
        return Into(opened, self._slots, self.packed.after)

    def attend(self, layer: int, query_HND: Tensor, key_GND: Tensor, value_GND: Tensor, scaling: float) -> Tensor:
        assert self._prefix is None, "only the kernels go on behind a prefix"
        assert layer == self._n_layers, (
            f"layer {layer} ran after {self._n_layers} layers: the model skips or repeats one"
        )
        self._n_layers += 1
        keys, values = self._cache.open(layer, len(key_GND), key_GND.shape[2], value_GND, clear=True)
        start = 0
        for length, slots in zip(self.packed.lengths, self._slots, strict=True):
            span = slice(start, start + length)
            for slot in slots:
                keys[slot, :, :length], values[slot, :, :length] = key_GND[:, span], value_GND[:, span]
            start += length
        return self.packed.attend(layer, query_HND, key_GND, value_GND, scaling)


class DecodeLayout:
    """One token a slot: writes its key and value, then reads everything up to it.

    read  positions that are looked at. What there is to see of them is worked out on the device, so nobody waits for it
    """

    def __init__(self, keys: list[Tensor], values: list[Tensor], position_S: Tensor, read: int) -> None:
        self.keys, self.values = keys, values
        self._position_S, self._read = position_S, read
        self._slot_S = torch.arange(len(position_S), device=position_S.device)
        seen = torch.arange(self._read, device=position_S.device) <= position_S[:, None]
        self._mask_S11T = seen[:, None, None, :]

    def attend(self, layer: int, query_HND: Tensor, key_GND: Tensor, value_GND: Tensor, scaling: float) -> Tensor:
        keys, values = self.keys[layer], self.values[layer]
        keys[self._slot_S, :, self._position_S] = key_GND.transpose(0, 1).to(keys.dtype)
        values[self._slot_S, :, self._position_S] = value_GND.transpose(0, 1).to(values.dtype)
        n = len(self._slot_S)
        key_SGTD, value_SGTD = keys[:n, :, : self._read], values[:n, :, : self._read]
        groups = query_HND.shape[0] // key_GND.shape[0]
        # Query heads that share a key head stand as extra queries of it, so no key is ever repeated.
        query_SGRD = query_HND.transpose(0, 1).unflatten(1, (key_GND.shape[0], groups)).to(keys.dtype)
        out_SGRD = scaled_dot_product_attention(
            query_SGRD, key_SGTD, value_SGTD, attn_mask=self._mask_S11T, scale=scaling
        )
        return out_SGRD.flatten(1, 2).to(value_GND.dtype)
