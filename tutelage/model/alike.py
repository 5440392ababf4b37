"""Which rows of a batch begin with the same tokens, so that their beginning is computed once. Knows no model.

A causal model's state at a token depends on what stands before it alone, so rows may share whatever they begin with:
the prompt of several answers, above all.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

LEAST = 16  # tokens that are worth sharing


@dataclass(frozen=True, slots=True)
class Family:
    """Rows whose first `trunk` tokens are the same. Example: `Family((0, 2), 64)`; a row alone has trunk 0."""

    rows: tuple[int, ...]
    trunk: int


def families(rows: Sequence[list[int]]) -> list[Family]:
    """Every row in one family, in the order of the families' first rows; each row keeps a token of its own.

    Rows are put in the order of the dictionary, where those that begin alike are neighbours, and cut into families so
    that as few tokens as possible are left.
    """
    order = sorted(range(len(rows)), key=lambda b: rows[b])
    common = [0, *(_common(rows[a], rows[b]) for a, b in pairwise(order))]  # with the one before
    saved = [0]  # tokens, among the first rows
    best: list[tuple[int, int]] = []  # of the last family among them: where it begins, and its trunk
    for last in range(len(order)):
        saved.append(saved[last])
        best.append((last, 0))
        trunk = len(rows[order[last]]) - 1
        for first in range(last - 1, -1, -1):
            trunk = min(trunk, common[first + 1], len(rows[order[first]]) - 1)
            if trunk < LEAST:
                break
            if (total := saved[first] + trunk * (last - first)) > saved[-1]:
                saved[-1], best[-1] = total, (first, trunk)
    found, end = [], len(order)
    while end:
        first, trunk = best[end - 1]
        found.append(Family(tuple(sorted(order[first:end])), trunk))
        end = first
    return sorted(found, key=lambda f: f.rows)


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    """How many first tokens are the same."""
    shorter = min(len(a), len(b))
    return next((i for i in range(shorter) if a[i] != b[i]), shorter)
