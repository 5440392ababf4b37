"""Prompts that were computed before there was a slot for their samples.

A few slots that fall free would each time have a few prompts computed, which takes far longer than the same prompts
among many. So more are computed with them, and wait in slots of their own. A prompt with samples that wait stays there,
too.
V vocabulary.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from torch import Tensor

from tutelage.engine.cache import SlotCache

PART = 4  # of the slots that run: as many prompts can wait


def n_parking(n_slots: int, n_samples: int) -> int:
    """Slots to wait in, for so many slots to run in."""
    return min(max(1, n_slots // PART), max(0, n_samples - n_slots))


@dataclass(frozen=True, slots=True)
class Parked:
    """A prompt whose samples wait."""

    slot: int
    length: int
    logits_V: Tensor  # that follow it


class Parking:
    """The slots of a cache from `first` on, and what waits there, by its request."""

    def __init__(self, cache: SlotCache, first: int, n: int) -> None:
        self._cache = cache
        self._free = list(range(first, first + n))
        self._parked: dict[int, Parked] = {}
        self.n = n

    def __contains__(self, i_request: int) -> bool:
        return i_request in self._parked

    def reserve(self) -> int:
        """A free slot, for a prompt that is about to be computed."""
        return self._free.pop()

    def park(self, i_request: int, slot: int, length: int, logits_V: Tensor) -> None:
        self._parked[i_request] = Parked(slot, length, logits_V)

    def copy_to(self, slots: Sequence[int], i_request: int) -> Tensor:
        """Gives a prompt to its samples in these slots; returns the logits that follow it."""
        parked = self._parked[i_request]
        for slot in slots:
            self._cache.move(parked.slot, slot, parked.length)
        return parked.logits_V

    def keep(self, waiting: Collection[int]) -> None:
        """Frees the slots of prompts without waiting samples."""
        for i in [i for i in self._parked if i not in waiting]:
            self._free.append(self._parked.pop(i).slot)
