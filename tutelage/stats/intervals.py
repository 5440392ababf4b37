"""Intervals and tests for shares and means. Knows nothing of where the numbers come from.

Rows that share a prompt are not independent: resample prompts (`cluster_bootstrap`), not rows.
"""

import math
from collections.abc import Callable, Hashable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Interval = tuple[float, float]


def wilson(k: float, n: float, z: float = 1.959964) -> Interval:
    """Interval (low, high) of a share, from `k` successes in `n` independent trials; (0, 1) for no trial.

    z  half-width in standard errors, 1.959964 for 95 %. Wilson 1927, JASA 22.
    """
    assert 0 <= k <= n, f"{k} successes in {n} trials"
    if n == 0:
        return 0.0, 1.0
    share, z2_n = k / n, z * z / n
    centre = share + z2_n / 2
    half = z * math.sqrt(share * (1 - share) / n + z2_n / (4 * n))
    # At the ends the bound is exact; rounding would leave it a hair off.
    low = 0.0 if k == 0 else (centre - half) / (1 + z2_n)
    high = 1.0 if k == n else (centre + half) / (1 + z2_n)
    return low, high


def cluster_bootstrap(
    values: ArrayLike,
    clusters: Sequence[Hashable],
    statistic: Callable[[NDArray[np.float64]], float] | None = None,
    n_resamples: int = 2000,
    *,
    seed: int,
    level: float = 0.95,
) -> Interval:
    """Percentile interval (low, high) of a statistic when whole clusters are drawn again, with replacement.

    values     [n] or [n, F], one row an observation
    clusters   of each row: its prompt, usually
    statistic  of the rows drawn; None is the mean of [n], computed from sums

    Field and Welsh 2007, JRSS B 69. One cluster alone says nothing of its spread: the interval has no width.
    """
    data = np.asarray(values, dtype=np.float64)
    assert len(data) == len(clusters) > 0, f"{len(data)} values for {len(clusters)} cluster names; give one each"
    index = {name: i for i, name in enumerate(dict.fromkeys(clusters))}
    cluster = np.array([index[name] for name in clusters])
    rng = np.random.default_rng(seed)
    drawn = (rng.integers(len(index), size=len(index)) for _ in range(n_resamples))
    if statistic is None:
        assert data.ndim == 1, "the mean is of one number a row; give a statistic for more"
        sums, sizes = np.bincount(cluster, weights=data), np.bincount(cluster)
        results = [float(sums[c].sum() / sizes[c].sum()) for c in drawn]
    else:
        rows = [np.flatnonzero(cluster == c) for c in range(len(index))]
        results = [statistic(data[np.concatenate([rows[i] for i in c])]) for c in drawn]
    low, high = np.quantile(results, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def cluster_wilson(values: ArrayLike, clusters: Sequence[Hashable], z: float = 1.959964) -> Interval:
    """Interval (low, high) of a share when rows of one cluster go together: Wilson's, for as many independent rows as
    would scatter alike. Quick and honest where there are few clusters, unlike a bootstrap.

    values    [n], each from 0 to 1
    clusters  of each row: its prompt, usually

    Kish 1965's effective sample size, never above the rows nor below the clusters. No row: (0, 1).
    """
    data = np.asarray(values, dtype=np.float64)
    assert len(data) == len(clusters), f"{len(data)} values for {len(clusters)} cluster names; give one each"
    if len(data) == 0:
        return 0.0, 1.0
    index = {name: i for i, name in enumerate(dict.fromkeys(clusters))}
    n, share = len(data), float(data.mean())
    off = np.bincount([index[name] for name in clusters], weights=data - share)
    variance = float((off**2).sum()) / n**2 * len(index) / max(1, len(index) - 1)
    alike = share * (1 - share) / variance if variance > 0 else 0.0
    n_eff = min(max(alike, len(index)), n)
    return wilson(min(share * n_eff, n_eff), n_eff, z)


def mcnemar_exact(b: int, c: int) -> float:
    """Two-sided p-value that the two kinds of discordant pairs are equally likely; 1 where there is none.

    b, c  pairs in which only the first, only the second succeeded. McNemar 1947, with the binomial itself.
    """
    n = b + c
    tail = sum(math.comb(n, i) for i in range(min(b, c) + 1))
    return min(1.0, 2 * tail / (1 << n))
