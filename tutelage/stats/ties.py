"""Scores of items from paired comparisons: Bradley-Terry, and Davidson's model with ties.

N comparisons of items i and j; an outcome is 1 (i better), 0 (tie) or -1 (j better). Scores are in nats (the log-odds
of a win against an equal) and have mean 0.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tutelage.stats.newton import Array, minimise

Indices = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Davidson:
    """P(i better) : P(tie) : P(j better) = exp(s_i) : nu exp((s_i + s_j) / 2) : exp(s_j)."""

    scores: Array  # [n_items]
    nu: float  # 0 without ties; equal items tie with chance nu / (2 + nu)


def _checked(i: ArrayLike, j: ArrayLike, outcome: ArrayLike, n_items: int) -> tuple[Indices, Indices, Array]:
    first, second = np.asarray(i, dtype=np.intp), np.asarray(j, dtype=np.intp)
    result = np.asarray(outcome, dtype=np.float64)
    assert first.shape == second.shape == result.shape and first.ndim == 1, "i, j and outcome: one entry a comparison"
    assert (first != second).all(), "an item is compared with itself"
    assert np.isin(result, (-1, 0, 1)).all(), "an outcome is 1 (i better), 0 (tie) or -1 (j better)"
    assert len(first) == 0 or 0 <= min(first.min(), second.min()) <= max(first.max(), second.max()) < n_items
    return first, second, result


def _to_items(i: Indices, j: Indices, per_pair: Array, n_items: int) -> Array:
    """Sum over comparisons of x (e_i - e_j), [n_items]."""
    out = np.zeros(n_items)
    np.add.at(out, i, per_pair)
    np.subtract.at(out, j, per_pair)
    return out


def _laplacian(i: Indices, j: Indices, per_pair: Array, n_items: int) -> Array:
    """Sum over comparisons of x (e_i - e_j)(e_i - e_j)^T, [n_items, n_items]."""
    out = np.zeros((n_items, n_items))
    for a, b, sign in ((i, i, 1), (j, j, 1), (i, j, -1), (j, i, -1)):
        np.add.at(out, (a, b), sign * per_pair)
    return out


def _weights(weight: ArrayLike | None, n: int) -> Array:
    found = np.ones(n) if weight is None else np.asarray(weight, dtype=np.float64)
    assert found.shape == (n,) and (found >= 0).all(), "a weight of 0 or more for each comparison"
    return found


def fit_bradley_terry(
    i: ArrayLike,
    j: ArrayLike,
    outcome: ArrayLike,
    *,
    n_items: int,
    l2: float = 1e-4,
    weight: ArrayLike | None = None,
) -> Array:
    """Scores [n_items], mean 0; a tie counts as half a win for each.

    weight  how often each comparison counts; None: once
    l2  weight of half the sum of squared scores against the summed log-likelihood: keeps the score of an item that
        never lost finite, and puts an item without comparisons at 0

    Bradley and Terry 1952, by Newton's method.
    """
    first, second, result = _checked(i, j, outcome, n_items)
    times = _weights(weight, len(first))

    def penalised(s: Array) -> tuple[float, Array, Array]:
        margin = s[first] - s[second]
        win = np.exp(-np.logaddexp(0, -margin))
        nll = np.logaddexp(0, -margin) + (1 - result) / 2 * margin
        gradient = _to_items(first, second, times * (win - (1 + result) / 2), n_items) + l2 * s
        hessian = _laplacian(first, second, times * win * (1 - win), n_items) + l2 * np.eye(n_items)
        return float((times * nll).sum() + l2 / 2 * (s @ s)), gradient, hessian

    scores = minimise(penalised, np.zeros(n_items))
    centred: Array = scores - scores.mean()
    return centred


def fit_davidson(
    i: ArrayLike,
    j: ArrayLike,
    outcome: ArrayLike,
    *,
    n_items: int,
    l2: float = 1e-4,
    weight: ArrayLike | None = None,
) -> Davidson:
    """Scores and tie parameter by penalised maximum likelihood; without a tie, Bradley-Terry and nu = 0.

    l2      as in `fit_bradley_terry`, on log nu as well
    weight  how often each comparison counts; None: once

    Davidson 1970, JASA 65; the log-likelihood is concave in (scores, log nu).
    """
    first, second, result = _checked(i, j, outcome, n_items)
    times = _weights(weight, len(first))
    is_tie = result == 0
    if not times[is_tie].any():
        return Davidson(fit_bradley_terry(first, second, result, n_items=n_items, l2=l2, weight=times), 0.0)

    def penalised(x: Array) -> tuple[float, Array, Array]:
        s, log_nu = x[:-1], x[-1]
        margin = s[first] - s[second]
        logits = np.stack([margin / 2, np.full_like(margin, log_nu), -margin / 2])  # win, tie, loss
        log_z = np.logaddexp.reduce(logits)
        win, tie, loss = np.exp(logits - log_z)
        nll = log_z - np.where(is_tie, log_nu, result * margin / 2)
        lead = (win - loss) / 2  # d log_z / d margin
        gradient = _to_items(first, second, times * (lead - result / 2), n_items)
        gradient = np.append(gradient, (times * (tie - is_tie)).sum()) + l2 * x
        hessian = l2 * np.eye(n_items + 1)
        hessian[:-1, :-1] += _laplacian(first, second, times * ((win + loss) / 4 - lead**2), n_items)
        hessian[:-1, -1] = hessian[-1, :-1] = _to_items(first, second, times * -lead * tie, n_items)
        hessian[-1, -1] += (times * tie * (1 - tie)).sum()
        return float((times * nll).sum() + l2 / 2 * (x @ x)), gradient, hessian

    x = minimise(penalised, np.zeros(n_items + 1))
    return Davidson(x[:-1] - x[:-1].mean(), float(np.exp(x[-1])))
