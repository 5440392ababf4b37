"""One policy against another on the same prompts, judged answer by answer, with an interval over prompts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from tutelage.stats.intervals import cluster_bootstrap
from tutelage.stats.winrate import length_controlled_minimal
from tutelage.types import Completion, Prompt

# (prompts, completions) -> one number each; higher is better.
Judge = Callable[[Sequence[Prompt], Sequence[Completion]], list[float]]


@dataclass(frozen=True, slots=True)
class WinRate:
    """Share of comparisons won, ties as half. Example: rate .81, low .77, high .85, n 512."""

    rate: float
    low: float  # 95 % interval, bootstrap over prompts
    high: float
    wins: int
    ties: int
    n: int
    length_controlled: float  # what the rate would be at equal lengths in characters

    @property
    def losses(self) -> int:
        return self.n - self.wins - self.ties


def win_rate(
    prompts: Sequence[Prompt],
    ours: Sequence[Completion],
    theirs: Sequence[Completion],
    judge: Judge,
    *,
    tie_width: float = 0.0,
    seed: int = 0,
) -> WinRate:
    """Compares answer i of one policy with answer i of the other, both to prompt i.

    tie_width  judged scores nearer than this are a tie

    A judge of single answers has no order in which to show them, so one order is both orders.
    """
    gap = np.array(judge(prompts, ours)) - np.array(judge(prompts, theirs))
    # The same words are a tie by definition; a judge that rounds by company could tell them apart.
    same = np.array([a.text == b.text for a, b in zip(ours, theirs, strict=True)])
    won = np.where(same | (np.abs(gap) <= tie_width), 0.5, (gap > 0).astype(float))
    low, high = cluster_bootstrap(won, [p.id for p in prompts], seed=seed)
    controlled = length_controlled_minimal(won, [len(c.text) for c in ours], [len(c.text) for c in theirs])
    return WinRate(
        float(won.mean()), low, high, int((won == 1).sum()), int((won == 0.5).sum()), len(won), controlled.rate
    )
