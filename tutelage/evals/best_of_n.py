"""Best of n: answer n times, keep the answer that the reward model likes best. The cheap baseline of every RL run."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tutelage.stats.overoptimisation import bon_kl
from tutelage.types import Completion


@dataclass(frozen=True, slots=True)
class BestOf:
    """Which answer of each prompt was kept, and how far that is from the policy (nats, an upper bound)."""

    n: int
    kl: float
    chosen: tuple[Completion, ...]


def best_of_n(completions: Sequence[Completion], scores: Sequence[float], n: int, *, group: int) -> BestOf:
    """Keeps the first best of the first `n` answers of each prompt.

    completions, scores  `group` answers of a prompt side by side, n <= group
    KL of best-of-n is ln n - (n - 1) / n for continuous rewards (Stiennon et al. 2020, appendix G.3).
    """
    assert len(completions) == len(scores) and len(scores) % group == 0 and n <= group, (
        f"{len(scores)} scores, group {group}, n {n}"
    )
    best = np.array(scores).reshape(-1, group)[:, :n].argmax(axis=1)
    return BestOf(n, bon_kl(n), tuple(completions[i * group + int(b)] for i, b in enumerate(best)))
