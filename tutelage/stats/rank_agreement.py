"""How far several labelers rank the same items alike: Kendall's W, and the mean of tau-b over their pairs.

Knows one set of items at a time; which rankings belong together, and how sets are averaged, is the caller's.
"""

import itertools

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tutelage.stats.agreement import kendall_tau_b


def middle_ranks(tiers: ArrayLike) -> NDArray[np.float64]:
    """Ranks [n] from 1; those of equal tiers share their mean. Example: tiers 1, 2, 2, 3 give 1, 2.5, 2.5, 4."""
    tier = np.asarray(tiers, dtype=np.float64)
    found: NDArray[np.float64] = (tier[:, None] > tier).sum(1) + ((tier[:, None] == tier).sum(1) + 1) / 2
    return found


def kendall_w(tiers: ArrayLike) -> float | None:
    """Concordance of m labelers over n items, 0 to 1, corrected for ties.

    tiers  [m, n]; of each labeler, 1 is best, equal tiers are ties

    None for one labeler, and where every labeler ties all items. Kendall and Gibbons 1990, chapter 6.
    """
    table = np.asarray(tiers, dtype=np.float64)
    assert table.ndim == 2, f"shape {table.shape}; give labelers by items"
    m, n = table.shape
    if m < 2 or n < 2:
        return None
    ranks = np.stack([middle_ranks(row) for row in table])
    sums = ranks.sum(0)
    # Within a labeler the ranks scatter by (n^3 - n) / 12, less (t^3 - t) / 12 for each t that are tied.
    greatest = m * float(((ranks - (n + 1) / 2) ** 2).sum())
    return float(((sums - sums.mean()) ** 2).sum()) / greatest if greatest > 0 else None


def mean_tau_b(tiers: ArrayLike) -> float | None:
    """Mean of Kendall's tau-b over the pairs of labelers; those of whom one ties everything are left out.

    tiers  [m, n]; None where no pair is left
    """
    table = np.asarray(tiers, dtype=np.float64)
    found = [tau for a, b in itertools.combinations(table, 2) if (tau := kendall_tau_b(a, b)) is not None]
    return float(np.mean(found)) if found else None
