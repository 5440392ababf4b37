"""Which sample runs in which slot, and where each of them stands. Knows no tensor.

Waiting samples are admitted in order as slots fall free; running ones fill the first slots without a hole. What they
are drawn from and what they have drawn stands in arrays over all samples, so that steps go through them without Python.
S slots, R samples.
"""

from collections.abc import Sequence

import numpy as np

from tutelage.engine.request import Request
from tutelage.native.decode import Array, Draws

GATHERED = 16  # the part of all slots that is filled together


class Running:
    """A sample while it is being written."""

    def __init__(self, i_request: int, i_sample: int, draws: Draws, row: int) -> None:
        self.i_request, self.i_sample, self.row = i_request, i_sample, row
        self._draws = draws

    @property
    def token_ids(self) -> list[int]:
        ids: list[int] = self._draws.token_RL[self.row, : self._draws.drawn_R[self.row]].tolist()
        return ids

    @property
    def logp(self) -> list[float]:
        logp: list[float] = self._draws.logp_RL[self.row, : self._draws.drawn_R[self.row]].tolist()
        return logp


class Scheduler:
    """The queue of samples and the slots.

    limit  tokens after which a sample ends; a request may set a lower one
    """

    def __init__(self, requests: Sequence[Request], n_slots: int, *, limit: int) -> None:
        asked = [(i, j, seed, r) for i, r in enumerate(requests) for j, seed in enumerate(r.seeds)]
        self.draws = Draws.of(
            [seed for *_, seed, _ in asked], [len(r.prompt_ids) for *_, r in asked], [r.limit(limit) for *_, r in asked]
        )
        self.samples = [Running(i, j, self.draws, row) for row, (i, j, *_) in enumerate(asked)]
        self.row_S = np.zeros(n_slots, dtype=np.int64)  # the sample of each slot
        self.n_running = self._n_admitted = 0

    @property
    def n_waiting(self) -> int:
        return len(self.samples) - self._n_admitted

    @property
    def running(self) -> list[Running]:
        """By their slots."""
        return [self.samples[row] for row in self.row_S[: self.n_running]]

    def next_requests(self, most: int) -> list[int]:
        """Whose samples are admitted next, in order, at most so many requests."""
        found: dict[int, None] = {}
        for sample in self.samples[self._n_admitted :]:
            if sample.i_request not in found and len(found) == most:
                break
            found[sample.i_request] = None
        return list(found)

    @property
    def few(self) -> int:
        """So few running samples leave room for waiting ones.

        Of many slots a few first fall free, since one prompt takes the time of several that are computed together.
        """
        n_slots = len(self.row_S)
        return n_slots - min(self.n_waiting, max(1, n_slots // GATHERED)) if self.n_waiting else 0

    def admit(self) -> list[Running]:
        """Takes as many waiting samples as there are free slots, if these are enough; they follow the running ones."""
        if self.n_running > self.few:
            return []
        taken = self.samples[self._n_admitted : self._n_admitted + len(self.row_S) - self.n_running]
        self.row_S[self.n_running :][: len(taken)] = [s.row for s in taken]
        self.n_running += len(taken)
        self._n_admitted += len(taken)
        return taken

    def rows(self, first: int = 0) -> Array:
        """The samples of the running slots from `first` on."""
        return self.row_S[first : self.n_running]

    def last(self) -> tuple[Array, Array]:
        """Of each running sample the last token, and where it stands."""
        d, row_S = self.draws, self.rows()
        return d.token_RL[row_S, d.drawn_R[row_S] - 1], d.prompt_R[row_S] + d.drawn_R[row_S] - 1

    def append(self, first: int, token_S: Array, logp_S: Array) -> None:
        """One token more for each of the running samples from slot `first` on."""
        d, row_S = self.draws, self.rows(first)
        d.token_RL[row_S, d.drawn_R[row_S]], d.logp_RL[row_S, d.drawn_R[row_S]] = token_S, logp_S
        d.drawn_R[row_S] += 1

    def extend(self, token_KS: Array, logp_KS: Array, end_id: int) -> int:
        """Several tokens more for each running sample, up to its end. Returns how many were taken in all."""
        d, on_S, n = self.draws, np.arange(self.n_running), 0
        for token_S, logp_S in zip(token_KS, logp_KS, strict=True):
            row_s, token_s = self.row_S[on_S], token_S[on_S]
            d.token_RL[row_s, d.drawn_R[row_s]], d.logp_RL[row_s, d.drawn_R[row_s]] = token_s, logp_S[on_S]
            d.drawn_R[row_s] += 1
            n += len(on_S)
            on_S = on_S[(token_s != end_id) & (d.drawn_R[row_s] < d.limit_R[row_s])]
        return n

    def over(self, end_id: int) -> list[int]:
        """Slots of samples that have drawn the end token or reached their limit, the last slot first."""
        d, row_S = self.draws, self.rows()
        drawn_S = d.drawn_R[row_S]
        is_over_S = (d.token_RL[row_S, drawn_S - 1] == end_id) | (drawn_S >= d.limit_R[row_S])
        slots: list[int] = np.flatnonzero(is_over_S).tolist()
        return slots[::-1]

    def release(self, slot: int) -> tuple[int, int] | None:
        """Frees a slot. Returns which one's sequence must move into it and its length; None when it was the last."""
        self.n_running -= 1
        if slot == self.n_running:
            return None
        row = self.row_S[slot] = self.row_S[self.n_running]
        return self.n_running, int(self.draws.prompt_R[row] + self.draws.drawn_R[row])
