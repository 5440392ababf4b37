"""Simulated labellers: they see the gold score through noise, and rank with ties. Knows no store and no gold formula.

Agreement is measured as in tutelage/stats/agreement.py (`half`): over all pairs of different texts that two labellers
both ranked, the same answer (better, tie, worse) counts 1, a tie against a preference 1/2, opposite preferences 0.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tutelage.errors import ConfigError
from tutelage.seed import derive

Array = NDArray[np.float64]
Tiers = NDArray[np.int64]

N_CALIBRATION_PAIRS = 40_000  # compared pairs to draw: the standard error of the agreement is then about .0025
N_BISECTIONS = 40  # halvings of log(sigma) between the bounds below; the last is far finer than the draws
SIGMA_BOUNDS = (1e-3, 1e3)  # in spreads of the gold scores: from no noise to nothing but noise
SPREAD_OF_TIME = 0.35  # standard deviation of log(seconds): nine in ten answers take 0.6 to 1.8 times the usual


@dataclass(frozen=True, slots=True, kw_only=True)
class LabellerConfig:
    """How many simulated labellers there are and how they err."""

    n_labelers: int = 6  # more of them average out more of the noise where labels overlap
    agreement: float = 0.73  # of two careful labellers, as InstructGPT's 72.6 %: higher makes cleaner labels
    tie_width: float = 0.25  # units of gold: answers that seem nearer than this are tied; 0 = never
    position_bias: float = 0.0  # units of gold that the answer shown first seems better: to test what detects it
    carelessness: float = 0.0  # share of rankings made without looking, in 0..1
    seconds_per_item: float = 8.0  # median seconds for each answer on the screen

    def __post_init__(self) -> None:
        if self.n_labelers < 1:
            raise ConfigError(
                f"simulate.n_labelers = {self.n_labelers}, but somebody has to judge. Set it to 1 or more (6 is usual)."
            )
        if not 0.5 < self.agreement <= 1:
            raise ConfigError(
                f"simulate.agreement = {self.agreement}, but labellers who answer at random agree on half of the "
                f"pairs, and no two agree on more than all. Set it above 0.5 and up to 1 (0.73 is what people reach)."
            )
        if not 0 <= self.carelessness <= 1:
            raise ConfigError(
                f"simulate.carelessness = {self.carelessness}, but it is a share of rankings. Set it in 0..1."
            )
        for name, value in (("tie_width", self.tie_width), ("seconds_per_item", self.seconds_per_item)):
            if not (value >= 0 and math.isfinite(value)):
                raise ConfigError(f"simulate.{name} = {value}, but it is a distance from 0. Set it to 0 or more.")
        if not math.isfinite(self.position_bias):
            raise ConfigError(
                f"simulate.position_bias = {self.position_bias}, but it is added to a score. Set it to a number."
            )


def tiers_of(seen: Array, tie_width: float) -> Tiers:
    """Tiers 1..m along the last axis, 1 for the best: neighbours in order that are nearer than `tie_width` are tied.

    Example: `[2.0, 0.1, 1.9]` with width 0.25 gives `[1, 2, 1]`.
    """
    order = np.argsort(-seen, axis=-1, kind="stable")
    falling = np.take_along_axis(seen, order, axis=-1)
    gaps = falling[..., :-1] - falling[..., 1:]
    # Equal scores are tied even where the width is 0.
    steps = (gaps >= tie_width) & (gaps > 0)
    rising = np.concatenate([np.ones_like(order[..., :1]), 1 + np.cumsum(steps, axis=-1)], axis=-1)
    tiers = np.empty_like(rising)
    np.put_along_axis(tiers, order, rising, axis=-1)
    return tiers


def pair_agreement(tiers: Tiers, others: Tiers) -> Array:
    """For each pair along the last axis: 1 for the same answer, 1/2 for a tie against a preference, 0 for opposites."""
    i, j = np.triu_indices(tiers.shape[-1], k=1)
    mine, theirs = np.sign(tiers[..., j] - tiers[..., i]), np.sign(others[..., j] - others[..., i])
    agreed: Array = 1 - np.abs(mine - theirs) / 2
    return agreed


def calibrate_noise(gold: Sequence[Sequence[float]], agreement: float, tie_width: float, seed: int) -> float:
    """The noise (standard deviation, units of gold) at which two careful labellers agree as often as `agreement`.

    gold  scores of the different texts of each prompt, 2 or more each

    Found by bisection with the same draws at each step, so that the agreement falls as the noise grows. Carelessness
    and position bias come on top and lower or raise what is then measured.
    """
    sizes = sorted({len(scores) for scores in gold})
    if not sizes or sizes[0] < 2:
        raise ConfigError(
            f"{len(gold)} prompts with {sizes} texts to compare, but agreement is measured on pairs of different "
            f"texts. Give each prompt two or more."
        )
    rng = np.random.default_rng(derive(seed, "calibrate_noise"))
    blocks = [np.array([scores for scores in gold if len(scores) == k], dtype=np.float64) for k in sizes]
    n_repeats = math.ceil(N_CALIBRATION_PAIRS / sum(b.size * (b.shape[1] - 1) // 2 for b in blocks))
    draws = [rng.standard_normal((2, n_repeats, *b.shape)) for b in blocks]

    def agreed(sigma: float) -> float:
        ranked = [tiers_of(b + sigma * d, tie_width) for b, d in zip(blocks, draws, strict=True)]
        return float(np.concatenate([pair_agreement(t[0], t[1]).ravel() for t in ranked]).mean())

    spread = max(float(np.concatenate([(b - b.mean(axis=1, keepdims=True)).ravel() for b in blocks]).std()), tie_width)
    low, high = (math.log(bound * (spread or 1.0)) for bound in SIGMA_BOUNDS)
    if agreement == 1:
        return 0.0
    for _ in range(N_BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if agreed(math.exp(middle)) > agreement else (low, middle)
    return math.exp((low + high) / 2)


@dataclass(frozen=True, slots=True)
class SimulatedLabeller:
    """One labeller. Example: `SimulatedLabeller("sim-01", LabellerConfig(), sigma=1.1, seed=0)`."""

    pseudonym: str
    config: LabellerConfig
    sigma: float  # standard deviation of the noise, units of gold
    seed: int

    def __post_init__(self) -> None:
        assert self.pseudonym.startswith("sim-"), (
            f"{self.pseudonym!r}: a simulated labeller's pseudonym begins with sim-"
        )

    def rank(self, key: str, gold: Sequence[float], shown: Sequence[int]) -> tuple[int, ...]:
        """The tier of each text, 1 best. A function of the seed, the pseudonym and `key` alone.

        key    names the task: the prompt's id, or an id of the prompt and its texts
        gold   of each text
        shown  indices of the texts in the order in which they stood on the screen
        """
        rng = np.random.default_rng(derive(self.seed, "rank", self.pseudonym, key))
        careless = rng.random() < self.config.carelessness
        noise = rng.standard_normal(len(gold))
        if careless:
            return tuple(int(t) for t in 1 + rng.permutation(len(gold)))  # any strict order, no ties
        seen = np.asarray(gold, dtype=np.float64) + self.sigma * noise
        seen[shown[0]] += self.config.position_bias
        return tuple(int(t) for t in tiers_of(seen, self.config.tie_width))

    def active_ms(self, key: str, n_items: int) -> int:
        """How long the ranking took, in milliseconds."""
        rng = np.random.default_rng(derive(self.seed, "active_ms", self.pseudonym, key))
        return round(1000 * self.config.seconds_per_item * n_items * math.exp(SPREAD_OF_TIME * rng.standard_normal()))


def labellers(config: LabellerConfig, sigma: float, seed: int) -> tuple[SimulatedLabeller, ...]:
    """sim-01, sim-02, … as many as the config says."""
    return tuple(SimulatedLabeller(f"sim-{i:02d}", config, sigma, seed) for i in range(1, config.n_labelers + 1))
