"""Proxy and gold reward against the distance from the reference: best-of-n, and Gao's two curves.

KL in nats; d is the root of the KL. Rewards in any unit, gold 0 at d = 0. Gao et al. 2022 (arXiv:2210.10760).
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tutelage.stats.order_statistics import best_of_weights


@dataclass(frozen=True, slots=True)
class BestOfN:
    """Expected rewards of the best of n by proxy. Example: n = 4 lies at kl = log 4 - 3/4 = .636."""

    n: int
    kl: float  # nats, an upper bound; exact for rewards without ties
    proxy: float
    gold: float


@dataclass(frozen=True, slots=True)
class ScalingFit:
    """R(d) = d (a - b f(d)), f(d) = d for best-of-n and log d for reinforcement learning. Read `r2` before the rest."""

    a: float
    b: float
    r2: float | None  # share of the variance explained; None where the rewards do not vary
    d_star: float | None  # where R is greatest; None where the curve has no peak at d > 0
    r_star: float | None  # R there


def bon_kl(n: int) -> float:
    """KL of best-of-n from the reference: log n - (n - 1) / n."""
    assert n >= 1, f"n = {n}: the best of none"
    return math.log(n) - (n - 1) / n


def bon_curve(proxy: ArrayLike, gold: ArrayLike, ns: Iterable[int]) -> list[BestOfN]:
    """Mean over all subsets of size n of the proxy and gold reward of the member with the greatest proxy.

    proxy, gold  [total], of samples of one prompt's reference policy; average the curves of several prompts
    ns           each at most total

    No subset is drawn: order statistics give the mean (Nakano et al. 2021, appendix I). Members with equal proxy are
    equally likely to be taken.
    """
    p, g = np.asarray(proxy, dtype=np.float64), np.asarray(gold, dtype=np.float64)
    assert p.shape == g.shape and p.ndim == 1, f"{p.shape} proxy and {g.shape} gold rewards; give one each a sample"
    _, i_level, n_level = np.unique(p, return_inverse=True, return_counts=True)
    g = (np.bincount(i_level, g) / n_level)[i_level]
    order = np.argsort(p)
    p, g = p[order], g[order]
    curve = []
    for n in ns:
        weight = best_of_weights(len(p), n)
        curve.append(BestOfN(n, bon_kl(n), float(weight @ p), float(weight @ g)))
    return curve


def _fit(d: NDArray[np.float64], r: NDArray[np.float64], f: NDArray[np.float64]) -> tuple[float, float, float | None]:
    assert len(np.unique(d)) >= 2, "two coefficients need rewards at two distances above 0 or more"
    x = np.stack([d, -d * f], axis=1)
    coefficient = np.linalg.lstsq(x, r)[0]
    residual, spread = float(np.square(r - x @ coefficient).sum()), float(np.square(r - r.mean()).sum())
    a, b = coefficient.tolist()
    return a, b, None if spread == 0 else 1 - residual / spread


def _above_nought(d: ArrayLike, r: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    distance, reward = np.asarray(d, dtype=np.float64), np.asarray(r, dtype=np.float64)
    return distance[distance > 0], reward[distance > 0]


def fit_bon(d: ArrayLike, r: ArrayLike) -> ScalingFit:
    """Least squares of R = d (a - b d); the peak lies at a / (2 b). Points at d = 0 are left out: R is 0 there."""
    distance, reward = _above_nought(d, r)
    a, b, r2 = _fit(distance, reward, distance)
    if a <= 0 or b <= 0:
        return ScalingFit(a, b, r2, None, None)
    return ScalingFit(a, b, r2, a / (2 * b), a * a / (4 * b))


def fit_rl(d: ArrayLike, r: ArrayLike) -> ScalingFit:
    """Least squares of R = d (a - b log d); the peak lies at exp(a / b - 1). Points at d = 0 are left out."""
    distance, reward = _above_nought(d, r)
    a, b, r2 = _fit(distance, reward, np.log(distance))
    if b <= 0 or a / b > 100:  # a peak at e^99 nats is none
        return ScalingFit(a, b, r2, None, None)
    d_star = math.exp(a / b - 1)
    return ScalingFit(a, b, r2, d_star, b * d_star)
