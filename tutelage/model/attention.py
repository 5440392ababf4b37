"""The attention that tutelage lends to `transformers`, so that any causal model runs on packed rows without padding.

All tokens of a batch lie in one row [1, N]; a `Layout` says which of them belong together. Linear layers so compute
real tokens only. Which architecture is running is not known here.

N packed tokens, B sequences, T longest sequence, H query heads, G key heads, D head width.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from tutelage.errors import ModelError
from tutelage.model import flash
from tutelage.model.alike import Family, families
from tutelage.native.forward import Into
from tutelage.native.kernels import Heads

NAME = "tutelage"


class Layout(Protocol):
    """Which packed tokens see which others."""

    def attend(self, layer: int, query_HND: Tensor, key_GND: Tensor, value_GND: Tensor, scaling: float) -> Tensor:
        """One layer's attention over the row. Returns [N, H, D]."""
        ...


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    layout: Layout | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """What `transformers` calls in each layer: query [1, H, N, D], key and value [1, G, N, D] -> [1, N, H, D].

    Raises ModelError for attention that the layouts do not compute: soft caps and sinks. A sliding window is checked
    against the length when the model is loaded (`load.py`).
    """
    if softcap is not None or s_aux is not None:
        raise ModelError(
            "this model caps its attention logits or uses attention sinks, which tutelage does not compute. "
            "Use a model of the Llama, Mistral, Qwen2, Qwen3, GPT-2 or GPT-NeoX kind."
        )
    if layout is None:
        raise ModelError(
            "this model does not hand the packing of its rows to its attention layers, so its rows would mix. "
            "Use a model of the Llama, Mistral, Qwen2, Qwen3, GPT-2 or GPT-NeoX kind."
        )
    if dropout:
        raise ModelError(
            f"attention dropout is {dropout}, but two forward passes of one batch must agree. Load models through "
            f"tutelage.model.load, which sets every dropout to 0."
        )
    out_NHD = layout.attend(module.layer_idx, query[0], key[0], value[0], scaling)  # type: ignore[arg-type]
    return out_NHD.unsqueeze(0), None


ALL_ATTENTION_FUNCTIONS.register(NAME, attention)


class Packed:
    """Sequences side by side in one row, each seeing itself alone, causally (or in full, for encoders of our own).

    Attention runs on right-padded blocks, where causality alone keeps real tokens from seeing padding: no mask tensor.
    On a GPU it runs without padding, if it is in half precision (`flash.py`).
    Rows of one family share the tokens that they begin with: these stand in the packed row once, before what is left
    of each.

    after  tokens that every sequence has before those of this row; who knows them attends, as `PrefillLayout`
    """

    def __init__(
        self,
        lengths: Sequence[int],
        *,
        causal: bool = True,
        device: torch.device | None = None,
        families: Sequence[Family] | None = None,
        after: int = 0,
    ) -> None:
        self.lengths = list(lengths)
        self.causal = causal
        self.after = after
        self.families = list(families or (Family((b,), 0) for b in range(len(self.lengths))))
        length_B = torch.tensor(self.lengths, device=device)
        self.n_rows, self.longest = len(self.lengths), int(length_B.max())
        step_T = torch.arange(self.longest, device=device)
        self._is_token_BT = step_T < length_B[:, None]
        self.is_shared = len(self.families) < self.n_rows
        assert not (after and self.is_shared), "families are not counted on from what is before them"
        if self.is_shared:
            self.flat_N, self.where_BT = _lay_out(self.families, self.lengths, self.longest, device)
        else:
            self.flat_N = self._is_token_BT.flatten().nonzero().squeeze(1)  # where each packed token lies in [B * T]
            # Where the token of a row lies in the packed row; 0 on the padding.
            self.where_BT = (self._is_token_BT.flatten().cumsum(0) - 1).view_as(self._is_token_BT) * self._is_token_BT
        self.position_N = self.flat_N % self.longest + after
        self.is_even = len(self.flat_N) == self.n_rows * self.longest

    @classmethod
    def of(cls, token_BT: Tensor, length_B: Tensor) -> "Packed":
        """Causal packing of these rows; what several of them begin with is computed once."""
        lengths = length_B.tolist()
        rows = [row[:n] for row, n in zip(token_BT.tolist(), lengths, strict=True)]
        return cls(lengths, device=token_BT.device, families=families(rows))

    def pack(self, x_BT: Tensor) -> Tensor:
        """[B, T, ...] -> [N, ...]: drops the padding, and takes what is shared from the first of its rows."""
        return x_BT.flatten(0, 1)[self.flat_N]

    def unpack(self, x_N: Tensor) -> Tensor:
        """[N, ...] -> [B, T, ...], zero on the padding."""
        if self.is_shared:
            flat = x_N.index_select(0, self.where_BT.flatten()).view(self.n_rows, self.longest, *x_N.shape[1:])
            return flat.masked_fill(~self._is_token_BT.view(self.n_rows, self.longest, *(1 for _ in x_N.shape[1:])), 0)
        if self.is_even:
            return x_N.reshape(self.n_rows, self.longest, *x_N.shape[1:])
        flat = x_N.new_zeros(self.n_rows * self.longest, *x_N.shape[1:])
        return flat.index_copy(0, self.flat_N, x_N).view(self.n_rows, self.longest, *x_N.shape[1:])

    @cached_property
    def _spans(self) -> flash.Spans:
        return flash.Spans.of(self.lengths, self.families, self.where_BT)

    def attend(self, layer: int, query_HND: Tensor, key_GND: Tensor, value_GND: Tensor, scaling: float) -> Tensor:
        assert not self.after, "what is before the row is not known here"
        if self.causal and flash.serves(value_GND):
            query_NHD, key_NGD, value_NGD = (
                x.transpose(0, 1).to(value_GND.dtype) for x in (query_HND, key_GND, value_GND)
            )
            return flash.attend(query_NHD, key_NGD, value_NGD, self._spans, scaling)
        n_groups = query_HND.shape[0] // key_GND.shape[0]
        query_BHTD, key_BHTD, value_BHTD = (
            self.unpack(x.transpose(0, 1)).transpose(1, 2)
            for x in (query_HND.to(value_GND.dtype), key_GND.to(value_GND.dtype), value_GND)
        )
        if n_groups > 1:
            key_BHTD = key_BHTD.repeat_interleave(n_groups, dim=1)
            value_BHTD = value_BHTD.repeat_interleave(n_groups, dim=1)
        if self.causal or self.is_even:
            seen = None
        else:
            length_B = torch.tensor(self.lengths, device=query_HND.device)
            seen = (torch.arange(self.longest, device=query_HND.device) < length_B[:, None])[:, None, None, :]
        out_BHTD = scaled_dot_product_attention(
            query_BHTD, key_BHTD, value_BHTD, attn_mask=seen, is_causal=self.causal, scale=scaling
        )
        return self.pack(out_BHTD.transpose(1, 2))


def _lay_out(
    families: Sequence[Family], lengths: Sequence[int], longest: int, device: torch.device | None
) -> tuple[Tensor, Tensor]:
    """Where each packed token lies in [B * T], and where each row's tokens lie among the packed ones [B, T]."""
    flat: list[Tensor] = []
    where_BT = torch.zeros(len(lengths), longest, dtype=torch.int64)
    n = 0
    for family in families:
        trunk_T = torch.arange(family.trunk)
        flat.append(family.rows[0] * longest + trunk_T)
        where_BT[list(family.rows), : family.trunk] = n + trunk_T
        n += family.trunk
        for b in family.rows:
            rest_T = torch.arange(family.trunk, lengths[b])
            flat.append(b * longest + rest_T)
            where_BT[b, family.trunk : lengths[b]] = n + rest_T - family.trunk
            n += len(rest_T)
    return torch.cat(flat).to(device), where_BT.to(device)


@runtime_checkable
class KeepingLayout(Protocol):
    """A layout that attends as its `packed` does, and wants the keys and values of every layer."""

    packed: Packed

    def attend(self, layer: int, query_HND: Tensor, key_GND: Tensor, value_GND: Tensor, scaling: float) -> Tensor: ...
    def into(self, n_layers: int, heads: Heads) -> Into: ...
