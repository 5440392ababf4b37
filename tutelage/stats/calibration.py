"""Whether a predicted probability means what it says: calibration error, and the temperature that mends it."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

_HOTTEST, _COLDEST = 1e6, 1e-6  # temperatures beyond these are as good as infinite and nought


def fold(p: ArrayLike, correct: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Predictions below .5 turned round: probability of the favoured side [n], and whether that side was right [n].

    Pairs have no natural first side; unfolded, presentation order would decide the bin.
    """
    p_n, correct_n = np.asarray(p, dtype=np.float64), np.asarray(correct, dtype=np.float64)
    is_below = p_n < 0.5
    return np.where(is_below, 1 - p_n, p_n), np.where(is_below, 1 - correct_n, correct_n)


def ece(p: ArrayLike, correct: ArrayLike, bins: int = 10) -> float:
    """Expected calibration error: |accuracy - mean probability| by bin, weighted by the bin's share; 0 is best.

    p, correct  [n]; for pairs, `fold` them first. Bins are equally wide over [0, 1]. Guo et al. 2017, equation 3.
    """
    p_n, correct_n = np.asarray(p, dtype=np.float64), np.asarray(correct, dtype=np.float64)
    assert p_n.shape == correct_n.shape and len(p_n) > 0, f"{p_n.shape} probabilities for {correct_n.shape} outcomes"
    # An edge belongs to the bin above it; without the nudge .29 * 100 = 28.999... would fall below.
    i_bin = np.minimum((p_n * bins + 1e-9).astype(np.intp), bins - 1)
    gap = np.bincount(i_bin, correct_n - p_n, bins)
    return float(np.abs(gap).sum() / len(p_n))


def fit_temperature(margin: ArrayLike, outcome: ArrayLike) -> float | None:
    """The T for which sigmoid(margin / T) fits the outcomes best, by maximum likelihood.

    margin   [n], score_i - score_j
    outcome  [n], 1 (i better), 0 (tie: half each) or -1 (j better)

    None where no T above 0 and below infinity is best: margins that separate the outcomes want T = 0, margins that
    tell nothing, or the wrong way round, want T = infinity. Guo et al. 2017, section 4.2.
    """
    m, y = np.asarray(margin, dtype=np.float64), (1 + np.asarray(outcome, dtype=np.float64)) / 2

    def slope(log_t: float) -> float:
        """Derivative of the negative log-likelihood by 1 / T, which rises with 1 / T."""
        scaled = m * np.exp(-log_t)
        return float((m * (np.exp(-np.logaddexp(0, -scaled)) - y)).sum())

    hot, cold = np.log(_HOTTEST), np.log(_COLDEST)
    if slope(hot) >= 0 or slope(cold) <= 0:
        return None
    for _ in range(100):
        middle = (hot + cold) / 2
        hot, cold = (middle, cold) if slope(middle) < 0 else (hot, middle)
    return float(np.exp((hot + cold) / 2))
