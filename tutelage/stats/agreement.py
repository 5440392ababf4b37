"""How far labelers agree: pairwise rates, Cohen's kappa, Krippendorff's alpha, Kendall's tau-b.

A coefficient that the data cannot determine is None, never 0 or 1: labelers who all give one and the same answer may
be in perfect agreement or asleep.
"""

import itertools
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tutelage.stats.intervals import cluster_bootstrap

Judgement = tuple[str, str, Mapping[str, int]]  # labeler, prompt, tier of each item (1 best, equal where tied)
Level = Literal["nominal", "ordinal", "interval"]


@dataclass(frozen=True, slots=True)
class Rate:
    """A share of `n` comparisons with its 95 % interval over prompts."""

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True, slots=True)
class Agreement:
    """Agreement over every pair of labelers and every pair of items that both judged.

    Example: on items x, y, Ann says x = y, Bob says x > y: exact 0, half .5, and left out of untied. Both say x = y:
    exact 1, half 1, left out of untied.
    """

    n_prompts: int  # judged by two labelers or more
    exact: Rate | None  # better, tie and worse are three answers
    half: Rate | None  # a tie against a preference counts half
    untied: Rate | None  # comparisons in which either saw a tie are left out
    labelers: tuple[str, ...]  # sorted
    matrix: tuple[tuple[float | None, ...], ...]  # `half`, labeler by labeler; None: nothing in common


def _sign(tiers: Mapping[str, int], a: str, b: str) -> int:
    return (tiers[b] > tiers[a]) - (tiers[b] < tiers[a])


def _rate(values: Sequence[float], prompts: Sequence[str], seed: int) -> Rate | None:
    if not values:
        return None
    low, high = cluster_bootstrap(values, prompts, seed=seed)
    return Rate(float(np.mean(values)), low, high, len(values))


def pairwise_agreement(judgements: Iterable[Judgement], *, seed: int = 0) -> Agreement:
    """Agreement of different labelers on the same prompts; a labeler who judged a prompt twice is not his own peer.

    A rate is None where nothing can be compared. Intervals resample prompts.
    """
    by_prompt: dict[str, list[tuple[str, Mapping[str, int]]]] = defaultdict(list)
    for labeler, prompt, tiers in judgements:
        by_prompt[prompt].append((labeler, tiers))
    labelers = tuple(sorted({labeler for judged in by_prompt.values() for labeler, _ in judged}))
    cells: dict[frozenset[str], list[float]] = defaultdict(list)
    pairs: list[tuple[str, int, int]] = []  # prompt and the sign that each of the two gave
    n_prompts = 0
    for prompt, judged in by_prompt.items():
        n_prompts += len({labeler for labeler, _ in judged}) > 1
        for (first, tiers), (second, other) in itertools.combinations(judged, 2):
            if first == second:
                continue
            for a, b in itertools.combinations(sorted(tiers.keys() & other.keys()), 2):
                x, y = _sign(tiers, a, b), _sign(other, a, b)
                pairs.append((prompt, x, y))
                cells[frozenset((first, second))].append(1 - abs(x - y) / 2)
    prompts = [prompt for prompt, _, _ in pairs]
    strict = [(prompt, x, y) for prompt, x, y in pairs if x and y]
    return Agreement(
        n_prompts=n_prompts,
        exact=_rate([float(x == y) for _, x, y in pairs], prompts, seed),
        half=_rate([1 - abs(x - y) / 2 for _, x, y in pairs], prompts, seed),
        untied=_rate([float(x == y) for _, x, y in strict], [prompt for prompt, _, _ in strict], seed),
        labelers=labelers,
        matrix=tuple(tuple(_cell(cells, a, b) for b in labelers) for a in labelers),
    )


def _cell(cells: Mapping[frozenset[str], list[float]], a: str, b: str) -> float | None:
    values = cells.get(frozenset((a, b)), []) if a != b else []
    return float(np.mean(values)) if values else None


def cohen_kappa(labels_a: Sequence[Hashable], labels_b: Sequence[Hashable]) -> float | None:
    """Agreement of two labelers beyond what their own label shares would give by chance, at most 1.

    None without items, or where both gave one and the same label throughout. Cohen 1960.
    """
    n = len(labels_a)
    assert n == len(labels_b), f"{n} labels against {len(labels_b)}; both must have judged every item"
    count_a, count_b = Counter(labels_a), Counter(labels_b)
    n_same = sum(a == b for a, b in zip(labels_a, labels_b, strict=True))
    n2_chance = sum(count_a[label] * count_b[label] for label in count_a)
    return None if n2_chance == n * n else 1 - n * (n - n_same) / (n * n - n2_chance)


def _squared_distance(values: NDArray[np.float64], n_value: NDArray[np.float64], level: Level) -> NDArray[np.float64]:
    """Krippendorff's delta^2 [C, C] between the C distinct ratings, which occur `n_value` [C] times."""
    if level == "nominal":
        return 1 - np.eye(len(values))
    place = values if level == "interval" else n_value.cumsum() - n_value / 2  # ordinal: the middle of its ranks
    squared: NDArray[np.float64] = np.square(place[:, None] - place[None, :])
    return squared


def krippendorff_alpha(units: Iterable[Sequence[float | None]], level: Level = "nominal") -> float | None:
    """1 - observed / expected disagreement over units rated by any number of labelers.

    units  ratings of each unit; None is a missing one, and a unit with fewer than two is left out

    None where nothing can be paired or every rating is the same. Krippendorff 2011, "Computing Krippendorff's
    Alpha-Reliability".
    """
    rated = [unit for unit in _present(units) if len(unit) > 1]
    values, counts = _counts(rated)
    if len(values) < 2:
        return None
    return _alpha(_coincidence(counts).sum(axis=0), values, level)


@dataclass(frozen=True, slots=True)
class Coefficient:
    """A coefficient of agreement over `n` units with its 95 % interval over prompts."""

    value: float
    low: float
    high: float
    n: int


def alpha_with_interval(
    units: Sequence[Sequence[float | None]],
    prompts: Sequence[Hashable],
    level: Level = "nominal",
    *,
    seed: int = 0,
    n_resamples: int = 1000,
) -> Coefficient | None:
    """`krippendorff_alpha` with a percentile interval: whole prompts are drawn again, with replacement.

    prompts  of each unit

    A draw in which all ratings are the same has no alpha, and counts for neither end.
    """
    assert len(units) == len(prompts), f"{len(units)} units of {len(prompts)} prompts; name the prompt of each unit"
    kept = [(unit, p) for unit, p in zip(_present(units), prompts, strict=True) if len(unit) > 1]
    values, counts = _counts([unit for unit, _ in kept])
    if len(values) < 2:
        return None
    index = {name: i for i, name in enumerate(dict.fromkeys(p for _, p in kept))}
    per_prompt = np.zeros((len(index), len(values), len(values)))
    np.add.at(per_prompt, [index[p] for _, p in kept], _coincidence(counts))
    rng, found = np.random.default_rng(seed), []
    for _ in range(n_resamples):
        times = np.bincount(rng.integers(len(index), size=len(index)), minlength=len(index))
        drawn = _alpha(np.tensordot(times, per_prompt, 1), values, level)
        found += [] if drawn is None else [drawn]
    whole = _alpha(per_prompt.sum(axis=0), values, level)
    if whole is None or not found:
        return None
    low, high = np.quantile(found, [0.025, 0.975])
    return Coefficient(whole, float(low), float(high), len(kept))


def _present(units: Iterable[Sequence[float | None]]) -> list[list[float]]:
    return [[r for r in unit if r is not None] for unit in units]


def _counts(rated: Sequence[Sequence[float]]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The distinct ratings [C], and how often each unit was given each [U, C]."""
    values = np.array(sorted({r for unit in rated for r in unit}), dtype=np.float64)
    counts = np.zeros((len(rated), len(values)))
    of = np.repeat(np.arange(len(rated)), [len(unit) for unit in rated])
    np.add.at(counts, (of, np.searchsorted(values, [r for unit in rated for r in unit])), 1.0)
    return values, counts


def _coincidence(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """[U, C, C]: ordered pairs of ratings within each unit, each rating counted once."""
    pairs = counts[:, :, None] * counts[:, None, :] - counts[:, :, None] * np.eye(counts.shape[1])
    found: NDArray[np.float64] = pairs / (counts.sum(axis=1) - 1)[:, None, None]
    return found


def _alpha(coincidence: NDArray[np.float64], values: NDArray[np.float64], level: Level) -> float | None:
    """From the coincidences [C, C] of all units; None where one value is all there is."""
    n_value = coincidence.sum(axis=1)
    distance = _squared_distance(values, n_value, level)
    observed = (coincidence * distance).sum()
    expected = (np.outer(n_value, n_value) * distance).sum() / (n_value.sum() - 1)
    return float(1 - observed / expected) if expected > 0 else None


def kendall_tau_b(a: ArrayLike, b: ArrayLike) -> float | None:
    """Rank correlation of two orders with ties, -1 to 1; None where either is constant. Kendall 1945."""
    x, y = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    assert x.shape == y.shape and x.ndim == 1, f"shapes {x.shape} and {y.shape}; give two lists of one length"
    sign_x, sign_y = np.sign(x[:, None] - x), np.sign(y[:, None] - y)
    n_untied = float(np.abs(sign_x).sum()) * float(np.abs(sign_y).sum())
    return None if n_untied == 0 else float((sign_x * sign_y).sum() / np.sqrt(n_untied))
