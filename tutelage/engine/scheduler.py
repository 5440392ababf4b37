"""Which sample runs in which slot. Knows no tensor.

Waiting samples are admitted in order as slots fall free; running ones fill the first slots without a hole.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from tutelage.engine.request import Request


@dataclass(slots=True)
class Running:
    """A sample while it is being written."""

    i_request: int
    i_sample: int
    seed: int
    prompt_length: int
    token_ids: list[int] = field(default_factory=list)
    logp: list[float] = field(default_factory=list)

    @property
    def length(self) -> int:
        """Tokens whose keys and values are, or are about to be, in the slot."""
        return self.prompt_length + len(self.token_ids)


class Scheduler:
    """The queue of samples and the slots."""

    def __init__(self, requests: Sequence[Request], n_slots: int) -> None:
        self.n_slots = n_slots
        self.running: list[Running] = []  # index = slot
        self.waiting = deque(
            Running(i, j, seed, len(r.prompt_ids)) for i, r in enumerate(requests) for j, seed in enumerate(r.seeds)
        )

    def admit(self) -> list[Running]:
        """Takes as many waiting samples as there are free slots. They stand at the end of `running`."""
        taken = [self.waiting.popleft() for _ in range(min(len(self.waiting), self.n_slots - len(self.running)))]
        self.running += taken
        return taken

    def release(self, slot: int) -> int | None:
        """Frees a slot; returns the slot whose sequence must move into it, or None when it was the last."""
        last = self.running.pop()
        if slot == len(self.running):
            return None
        self.running[slot] = last
        return len(self.running)
