"""Demonstrations as training rows: the prompt is read, the answer and its end token are learned."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from tutelage.data.batch import TokenBatch, collate
from tutelage.errors import DataError
from tutelage.model.chat import Chat
from tutelage.seed import derive
from tutelage.types import Demonstration


@dataclass(frozen=True, slots=True)
class SFTRows:
    """Rows (ids, mask) that fit the window, and how many did not."""

    rows: tuple[tuple[list[int], list[bool]], ...]
    n_too_long: int

    @property
    def supervised_share(self) -> float:
        """Share of all tokens that are learned."""
        return sum(sum(m) for _, m in self.rows) / max(1, sum(len(i) for i, _ in self.rows))


def sft_rows(demonstrations: Sequence[Demonstration], chat: Chat) -> SFTRows:
    """Raises DataError when no row is left. A row longer than the window is dropped and counted, never cut."""
    rows = []
    for d in demonstrations:
        prompt, answer = chat.prompt_ids(d.prompt), chat.completion_ids(d.text)
        if len(prompt) + len(answer) <= chat.window:
            rows.append((prompt + answer, [False] * len(prompt) + [True] * len(answer)))
    if not rows:
        raise DataError(
            f"none of the {len(demonstrations)} demonstrations fits the model's window of {chat.window} tokens (or "
            f"there is none). Add shorter demonstrations, or use a model with a longer window."
        )
    return SFTRows(tuple(rows), len(demonstrations) - len(rows))


def epoch_batches(n: int, batch_size: int, *, epochs: int, seed: int) -> list[list[int]]:
    """Row indices of every batch of every epoch; each epoch is its own shuffle, and its last batch may be short."""
    batches = []
    for epoch in range(epochs):
        order = list(range(n))
        random.Random(derive(seed, "epoch", epoch)).shuffle(order)
        batches += [order[start : start + batch_size] for start in range(0, n, batch_size)]
    return batches


def take(rows: SFTRows, index: Sequence[int]) -> TokenBatch:
    """The chosen rows as one batch."""
    return collate([rows.rows[i] for i in index])
