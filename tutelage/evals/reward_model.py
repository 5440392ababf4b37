"""How well a reward model orders answers as people did: accuracy with interval, calibration, and what length explains.

Accuracy counts untied pairs; two answers with exactly the same score count as wrong, so a constant model scores 0.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np
from torch import Tensor

from tutelage.errors import DataError
from tutelage.stats.agreement import pairwise_agreement
from tutelage.stats.calibration import ece, fit_temperature, fold
from tutelage.stats.intervals import cluster_bootstrap
from tutelage.types import Prompt, RankedGroup

Score = Callable[[Sequence[Prompt], Sequence[str]], Tensor]


@dataclass(frozen=True, slots=True)
class Pair:
    """Two answers that one labeler told apart, better one first, with their scores."""

    prompt: str
    labeler: str
    source: str
    better: float
    worse: float
    longer_by: int  # characters by which the better answer is longer


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Example: n 812, accuracy .71, low .68, high .74."""

    n: int
    accuracy: float
    low: float  # 95 %, bootstrap over prompts
    high: float


@dataclass(frozen=True, slots=True)
class RewardReport:
    """Everything that `tutelage eval reward` prints."""

    n: int  # untied pairs
    n_ties: int
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    accuracy_better_second: float  # the same pairs with the better answer given second: a pointwise score cannot differ
    ece: float  # of sigmoid(margin), folded to p >= .5
    temperature: float | None  # that would calibrate the margins; None where none fits
    longer_wins_accuracy: float  # of a model that prefers the longer answer; equal lengths as half
    when_longer_wins: Accuracy | None  # pairs whose better answer is longer
    when_shorter_wins: Accuracy | None
    length_corr: float  # of score and length in characters, within prompts
    agreement: float | None  # between people on the same pairs: the ceiling; None where nobody judged twice
    by_source: dict[str, Accuracy]
    by_labeler: dict[str, Accuracy]
    reliability: tuple[tuple[float, float, int], ...]  # (mean p, share right, n) of each bin that is not empty

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def evaluate(score: Score, groups: Sequence[RankedGroup], *, seed: int = 0) -> RewardReport:
    """Scores every text once and compares within rankings. Raises DataError when no pair has a winner."""
    pairs, n_ties, within = _pairs(score, groups)
    if not pairs:
        raise DataError(
            f"{len(groups)} rankings hold no pair with a winner, so accuracy is undefined. Give comparisons that are "
            f"not all ties."
        )
    margin = np.array([p.better - p.worse for p in pairs])
    whole = _accuracy(pairs, seed)
    p, right = fold(1 / (1 + np.exp(-margin)), np.ones(len(pairs)))
    longer = np.array([p.longer_by for p in pairs])
    return RewardReport(
        n=len(pairs),
        n_ties=n_ties,
        accuracy=whole.accuracy,
        accuracy_low=whole.low,
        accuracy_high=whole.high,
        accuracy_better_second=float(np.mean(-margin < 0)),
        ece=float(ece(p, right)),
        temperature=fit_temperature(margin, np.ones(len(pairs))),
        longer_wins_accuracy=float(np.mean(np.where(longer == 0, 0.5, longer > 0))),
        when_longer_wins=_optional([q for q in pairs if q.longer_by > 0], seed),
        when_shorter_wins=_optional([q for q in pairs if q.longer_by < 0], seed),
        length_corr=_correlation(within),
        agreement=_ceiling(groups),
        by_source=_by(pairs, lambda q: q.source, seed),
        by_labeler=_by(pairs, lambda q: q.labeler, seed),
        reliability=_bins(p, right),
    )


def _pairs(score: Score, groups: Sequence[RankedGroup]) -> tuple[list[Pair], int, list[tuple[float, float]]]:
    """Pairs with a winner, the number of ties, and (score, length) of every text, both centred within its ranking."""
    flat = [(g.prompt, text) for g in groups for text in g.texts]
    scores = iter(score([p for p, _ in flat], [t for _, t in flat]).tolist())
    pairs, n_ties = [], 0
    within: list[tuple[float, float]] = []
    for g in groups:
        own = [next(scores) for _ in g.texts]
        lengths = [len(t) for t in g.texts]
        within += list(zip(np.array(own) - np.mean(own), np.array(lengths) - np.mean(lengths), strict=True))
        for i, j in combinations(range(len(own)), 2):
            if g.tiers[i] == g.tiers[j]:
                n_ties += 1
                continue
            b, w = (i, j) if g.tiers[i] < g.tiers[j] else (j, i)
            pairs.append(Pair(g.prompt.id, g.labeler, g.source, own[b], own[w], lengths[b] - lengths[w]))
    return pairs, n_ties, within


def _accuracy(pairs: Sequence[Pair], seed: int) -> Accuracy:
    right = [float(p.better > p.worse) for p in pairs]
    low, high = cluster_bootstrap(right, [p.prompt for p in pairs], seed=seed)
    return Accuracy(len(pairs), float(np.mean(right)), low, high)


def _optional(pairs: Sequence[Pair], seed: int) -> Accuracy | None:
    return _accuracy(pairs, seed) if pairs else None


def _by(pairs: Iterable[Pair], key: Callable[[Pair], str], seed: int) -> dict[str, Accuracy]:
    found: dict[str, list[Pair]] = defaultdict(list)
    for pair in pairs:
        if key(pair):
            found[key(pair)].append(pair)
    return {name: _accuracy(part, seed) for name, part in sorted(found.items())}


def _correlation(within: Sequence[tuple[float, float]]) -> float:
    both = np.array(within)
    if both.std(axis=0).min() < 1e-9:
        return 0.0
    return float(np.corrcoef(both.T)[0, 1])


def _ceiling(groups: Sequence[RankedGroup]) -> float | None:
    judged = [(g.labeler, g.prompt.id, dict(zip(g.texts, g.tiers, strict=True))) for g in groups if g.labeler]
    rate = pairwise_agreement(judged).untied if judged else None
    return rate.value if rate else None


def _bins(p: Any, right: Any) -> tuple[tuple[float, float, int], ...]:
    cell = np.minimum((np.asarray(p) - 0.5) / 0.05, 9).astype(int)
    return tuple(
        (float(p[cell == c].mean()), float(right[cell == c].mean()), int((cell == c).sum()))
        for c in range(10)
        if (cell == c).any()
    )
