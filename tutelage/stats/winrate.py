"""Win rates against a baseline, plain and with length taken out. Shares run from 0 to 1."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from tutelage.stats.newton import Array, minimise


def win_rate(wins: float, ties: float, losses: float) -> float:
    """(wins + half the ties) / comparisons. A verdict that changed with the order of presentation is a tie."""
    n = wins + ties + losses
    assert n > 0, "no comparison was made, so there is no win rate"
    return (wins + ties / 2) / n


@dataclass(frozen=True, slots=True)
class LengthControlled:
    """`rate` is the win rate that the fit expects at equal lengths."""

    rate: float
    raw: float  # mean preference
    length_effect: float  # log-odds for a length lead of many standard deviations; 0 where lengths do not differ


def length_controlled_minimal(
    preference: ArrayLike, length: ArrayLike, baseline_length: ArrayLike, *, l2: float = 1.0
) -> LengthControlled:
    """AlpacaEval's length-controlled win rate without its term for the difficulty of each instruction.

    preference               [n], for the model over the baseline: 1, .5 a tie, 0, or anything between
    length, baseline_length  [n], characters of the two answers
    l2                       weight of half the squared length effect against the summed log-likelihood

    logit P = constant + effect * tanh(lead / std(lead)), read at lead 0; the std is of the leads' own sample. The
    constant is not penalised, so answers of equal lengths give the raw rate. Where every preference is 1, or every
    one 0, the rate is that. Dubois et al. 2024 (arXiv:2404.04475), without cross-validation.
    """
    y, lead = (
        np.asarray(preference, np.float64),
        np.asarray(length, np.float64) - np.asarray(baseline_length, np.float64),
    )
    assert y.shape == lead.shape and len(y) > 0, f"{y.shape} preferences for {lead.shape} lengths; give one each"
    raw, std = float(y.mean()), float(lead.std())
    if std == 0 or raw in (0.0, 1.0):
        return LengthControlled(raw, raw, 0.0)
    feature = np.stack([np.ones_like(lead), np.tanh(lead / std)], axis=1)
    penalty = np.array([0.0, l2])

    def penalised(w: Array) -> tuple[float, Array, Array]:
        logit = feature @ w
        p = np.exp(-np.logaddexp(0, -logit))
        loss = float((np.logaddexp(0, logit) - y * logit).sum() + (penalty * w * w).sum() / 2)
        hessian = (feature * (p * (1 - p))[:, None]).T @ feature + np.diag(penalty)
        return loss, feature.T @ (p - y) + penalty * w, hessian

    constant, effect = minimise(penalised, np.zeros(2)).tolist()
    return LengthControlled(float(np.exp(-np.logaddexp(0, -constant))), raw, effect)
