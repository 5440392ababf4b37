"""Which prompts each RL update uses: a function of (seed, update), so that nothing needs to be saved."""

import random
from collections.abc import Sequence

from tutelage.seed import derive
from tutelage.types import Prompt


def prompts_of_update(prompts: Sequence[Prompt], n: int, update: int, *, seed: int) -> list[Prompt]:
    """`n` prompts for this update: every prompt comes once before any comes again, each time in another order."""
    chosen: list[Prompt] = []
    position = update * n
    while len(chosen) < n:
        epoch, offset = divmod(position + len(chosen), len(prompts))
        order = list(range(len(prompts)))
        random.Random(derive(seed, "prompts", epoch)).shuffle(order)
        chosen += [prompts[i] for i in order[offset : offset + n - len(chosen)]]
    return chosen
