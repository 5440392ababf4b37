"""Expectations over subsets of a sample, exactly and without drawing any."""

import numpy as np
from numpy.typing import NDArray


def best_of_weights(total: int, k: int) -> NDArray[np.float64]:
    """Chance [total] that the i-th smallest of `total` values is the greatest of k drawn without replacement.

    C(i - 1, k - 1) / C(total, k) for i = 1 .. total.
    """
    assert 1 <= k <= total, f"k = {k}: the best of k needs between 1 and all {total} values of the sample"
    log_factorial = np.concatenate([[0.0], np.log(np.arange(1, total + 1)).cumsum()])
    n_below = np.arange(k - 1, total)
    log_weight = log_factorial[n_below] - log_factorial[n_below - k + 1] - log_factorial[k - 1]
    log_weight -= log_factorial[total] - log_factorial[k] - log_factorial[total - k]
    return np.concatenate([np.zeros(k - 1), np.exp(log_weight)])
