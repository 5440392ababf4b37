"""Which sample runs in which slot, and where each of them stands. Knows no tensor.

Waiting samples are admitted in order as slots fall free; running ones fill the first slots without a hole. What a step
asks of every slot stands in arrays [S] beside the samples, so that no step goes through them one by one.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from tutelage.engine.request import Request
from tutelage.native.decode import Array

GATHERED = 16  # the part of all slots that is filled together


@dataclass(slots=True)
class Running:
    """A sample while it is being written."""

    i_request: int
    i_sample: int
    seed: int
    prompt_length: int
    limit: int  # tokens after which it ends
    token_ids: list[int] = field(default_factory=list)
    logp: list[float] = field(default_factory=list)

    @property
    def length(self) -> int:
        """Tokens whose keys and values are, or are about to be, in the slot."""
        return self.prompt_length + len(self.token_ids)


class Scheduler:
    """The queue of samples and the slots.

    limit  tokens after which a sample ends; a request may set a lower one
    """

    def __init__(self, requests: Sequence[Request], n_slots: int, *, limit: int) -> None:
        self.n_slots = n_slots
        self.running: list[Running] = []  # index = slot
        self.waiting = deque(
            Running(i, j, seed, len(r.prompt_ids), r.limit(limit))
            for i, r in enumerate(requests)
            for j, seed in enumerate(r.seeds)
        )
        self._token_S, self._drawn_S, self._prompt_S, self._limit_S = np.zeros((4, n_slots), dtype=np.int64)
        self._seed_S = np.zeros(n_slots, dtype=np.uint64)

    @property
    def token_S(self) -> Array:
        """The last token of each running sample."""
        return self._token_S[: len(self.running)]

    @property
    def position_S(self) -> Array:
        """Where that token stands."""
        n = len(self.running)
        return self._prompt_S[:n] + self._drawn_S[:n] - 1

    def seeds_and_drawn(self, first: int = 0) -> tuple[Array, Array]:
        """Of the running samples from slot `first` on: seeds, and how many tokens each has; both uint64."""
        span = slice(first, len(self.running))
        return self._seed_S[span], self._drawn_S[span].astype(np.uint64)

    def admit(self) -> list[Running]:
        """Takes as many waiting samples as there are free slots. They stand at the end of `running`.

        Of many slots a few first fall free, since one prompt takes the time of several that are computed together.
        """
        n = min(len(self.waiting), self.n_slots - len(self.running))
        if self.running and n < min(len(self.waiting), self.n_slots // GATHERED):
            return []
        taken = [self.waiting.popleft() for _ in range(n)]
        for slot, sample in enumerate(taken, start=len(self.running)):
            self._seed_S[slot], self._drawn_S[slot] = sample.seed, 0
            self._prompt_S[slot], self._limit_S[slot] = sample.prompt_length, sample.limit
        self.running += taken
        return taken

    def append(self, first: int, token_S: Array, logp_S: Array) -> None:
        """One token more for each of the running samples from slot `first` on."""
        span = slice(first, len(self.running))
        self._token_S[span] = token_S
        self._drawn_S[span] += 1
        for sample, token, logp in zip(self.running[span], token_S.tolist(), logp_S.tolist(), strict=True):
            sample.token_ids.append(token)
            sample.logp.append(logp)

    def over(self, end_id: int) -> list[int]:
        """Slots of samples that have drawn the end token or reached their limit, the last slot first."""
        n = len(self.running)
        slots: list[int] = np.flatnonzero(
            (self._token_S[:n] == end_id) | (self._drawn_S[:n] >= self._limit_S[:n])
        ).tolist()
        return slots[::-1]

    def release(self, slot: int) -> int | None:
        """Frees a slot; returns the slot whose sequence must move into it, or None when it was the last."""
        last = self.running.pop()
        source = len(self.running)
        if slot == source:
            return None
        self.running[slot] = last
        for x_S in (self._token_S, self._drawn_S, self._prompt_S, self._limit_S, self._seed_S):
            x_S[slot] = x_S[source]
        return source
