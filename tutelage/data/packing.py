"""Cutting a batch into microbatches by tokens, so that memory is bounded and short rows go together."""

from collections.abc import Sequence

import torch
from torch import Tensor


def microbatches(lengths: Sequence[int], max_tokens: int) -> list[Tensor]:
    """Indices of rows, longest together, no part holding more than `max_tokens` (a longer row stands alone).

    The parts depend on the lengths alone, and every row is in exactly one.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    parts: list[list[int]] = []
    room = 0
    for i in order:
        if not parts or lengths[i] > room:
            parts.append([])
            room = max_tokens
        parts[-1].append(i)
        room -= lengths[i]
    return [torch.tensor(part) for part in parts]


def fill_rows(documents: Sequence[Sequence[int]], tokens: int) -> list[list[int]]:
    """Cuts documents into pieces of at most `tokens`; no token is lost, and a piece never crosses two documents."""
    return [list(d[start : start + tokens]) for d in documents for start in range(0, len(d), tokens)]


def shuffled_parts(n: int, n_parts: int, *, seed: int) -> list[Tensor]:
    """0..n-1 in an order given by the seed, cut into `n_parts` of as equal size as can be."""
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    return list(order.tensor_split(n_parts))
