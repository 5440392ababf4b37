"""Attention over sequences of many lengths on a GPU, without padding: flash attention, as torch brings it.

Equals what `Packed.attend` computes on padded blocks. N packed tokens, K keys, S spans, H query heads, G key heads.
"""

import functools
import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from tutelage.model.alike import Family
from tutelage.model.device import BF16_CARD

WIDEST_HEAD = 256
HEAD_STEP = 8  # heads are a multiple of this wide


@dataclass(frozen=True, slots=True)
class Spans:
    """Runs of neighbouring queries, each of which sees the keys of its span up to itself.

    The last query of a span sees all of its keys, the one before all but the last, and so on.
    """

    query_S1: Tensor  # int32, where each begins; the last one is N
    key_S1: Tensor  # int32, the same of the keys
    longest_query: int
    longest_key: int
    where_K: Tensor | None  # which packed token each key is; None: keys lie as queries do

    @classmethod
    def of(cls, lengths: Sequence[int], families: Sequence[Family], where_BT: Tensor) -> "Spans":
        """One for the trunk of each family, and one for what each row has of its own, which sees the trunk, too."""
        queries, keys, where = [0], [0], []
        for family in families:
            runs = [(family.rows[0], family.trunk, family.trunk)] if family.trunk else []
            runs += [(b, lengths[b] - family.trunk, lengths[b]) for b in family.rows]
            for b, n_queries, n_keys in runs:
                queries.append(queries[-1] + n_queries)
                keys.append(keys[-1] + n_keys)
                where.append(where_BT[b, :n_keys])
        is_alike = queries == keys
        device = where_BT.device
        return cls(
            torch.tensor(queries, dtype=torch.int32, device=device),
            torch.tensor(keys, dtype=torch.int32, device=device),
            max(b - a for a, b in pairwise(queries)),
            max(b - a for a, b in pairwise(keys)),
            None if is_alike else torch.cat(where),
        )


def attend(query_NHD: Tensor, key_NGD: Tensor, value_NGD: Tensor, spans: Spans, scaling: float) -> Tensor:
    """Causal attention within each span [N, H, D]."""
    if spans.where_K is not None:
        key_NGD, value_NGD = key_NGD[spans.where_K], value_NGD[spans.where_K]
    return kernel(
        query_NHD, key_NGD, value_NGD, spans.query_S1, spans.key_S1, spans.longest_query, spans.longest_key, scaling
    )


def kernel(
    query_NHD: Tensor, key_KGD: Tensor, value_KGD: Tensor, query_S1: Tensor, key_S1: Tensor, longest_query: int,
    longest_key: int, scaling: float,
) -> Tensor:  # fmt: skip
    """torch's own; where a span has fewer queries than keys, they are its last ones."""
    from torch.nn.attention.varlen import varlen_attn

    run: Any = varlen_attn
    out_NHD: Tensor = run(
        query_NHD, key_KGD, value_KGD, query_S1, key_S1, longest_query, longest_key, scale=scaling,
        window_size=(-1, 0), enable_gqa=True,
    )  # fmt: skip
    return out_NHD


def serves(value_NGD: Tensor) -> bool:
    """Whether the kernel is there for tensors of this type, width and device."""
    return (
        value_NGD.device.type == "cuda"
        and value_NGD.dtype in (torch.bfloat16, torch.float16)
        and value_NGD.shape[-1] <= WIDEST_HEAD
        and value_NGD.shape[-1] % HEAD_STEP == 0
        and torch.cuda.get_device_capability(value_NGD.device) >= BF16_CARD
        and torch.backends.cuda.is_flash_attention_available()
        and is_in_torch()
    )


@functools.cache
def is_in_torch() -> bool:
    """Whether this version of torch has it, with groups of heads."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return False
    return {"enable_gqa", "window_size"} <= inspect.signature(varlen_attn).parameters.keys()
