"""Cutting a batch into microbatches by tokens, so that memory is bounded and short rows go together."""

from collections.abc import Sequence

import torch
from torch import Tensor

from tutelage.data.batch import TokenBatch
from tutelage.model.alike import LEAST


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


def cut(batch: TokenBatch, max_tokens: int) -> list[Tensor]:
    """Rows of each microbatch. Those that answer one prompt stay together where they fit, since a pass computes what
    rows begin with once; the prompt is what stands before the first masked token.
    """
    prompt_B = batch.mask_BT.int().argmax(dim=1).tolist()
    prompts = [tuple(row[:n]) for row, n in zip(batch.token_BT.tolist(), prompt_B, strict=True)]
    seen: dict[tuple[int, ...], list[int]] = {}
    for b, prompt in enumerate(prompts):
        seen.setdefault(prompt, []).append(b)
    unit_B, size_B = torch.arange(len(batch)), batch.length_B.clone()
    for prompt, rows in seen.items():
        total = int(batch.length_B[rows].sum()) - len(prompt) * (len(rows) - 1)
        if len(prompt) >= LEAST and total <= max_tokens:
            unit_B[rows] = rows[0]
            size_B[rows[1:]] -= len(prompt)
    if len(unit_B.unique()) == len(unit_B):
        return microbatches(size_B.tolist(), max_tokens)
    return cut_units(unit_B.unique(return_inverse=True)[1], size_B, max_tokens)


def cut_units(unit_B: Tensor, size_B: Tensor, max_tokens: int) -> list[Tensor]:
    """Microbatches of whole units, which rows with the same number make up."""
    per_unit = torch.zeros(int(unit_B.max()) + 1, dtype=torch.int64).index_add(0, unit_B, size_B)
    return [torch.isin(unit_B, units).nonzero().squeeze(1) for units in microbatches(per_unit.tolist(), max_tokens)]


def fill_rows(documents: Sequence[Sequence[int]], tokens: int) -> list[list[int]]:
    """Cuts documents into pieces of at most `tokens`; no token is lost, and a piece never crosses two documents."""
    return [list(d[start : start + tokens]) for d in documents for start in range(0, len(d), tokens)]


def shuffled_parts(n: int, n_parts: int, *, seed: int) -> list[Tensor]:
    """0..n-1 in an order given by the seed, cut into `n_parts` of as equal size as can be."""
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    return list(order.tensor_split(n_parts))
