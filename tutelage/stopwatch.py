"""Where the time and the memory of a loop go: named phases, one inside another, each moment counted once.

Knows no tensor and no algorithm; how time and memory are read is handed in.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Protocol

# () is what lies in no phase, ("sampling",) a phase without its parts, ("sampling", "prefill") one of its parts.
Place = tuple[str, ...]


class Watch(Protocol):
    """What machines are handed: they name what they do, whether or not somebody looks."""

    def phase(self, name: str) -> AbstractContextManager[None]: ...


class Off:
    """Watches nothing and reads no clock."""

    def phase(self, name: str) -> AbstractContextManager[None]:
        return _NOTHING


_NOTHING = nullcontext()
OFF = Off()


@dataclass(slots=True)
class Spent:
    """What one place took."""

    seconds: float = 0.0
    peak: int = 0  # bytes: the most that was held while it ran


class Stopwatch:
    """Counts from its making, or from the last `restart`. Whatever lies inside a phase, however deep, is its part.

    clock  seconds, from any moment on
    peak   the most bytes that were held since it was last asked
    """

    def __init__(self, clock: Callable[[], float], peak: Callable[[], int]) -> None:
        self._clock, self._peak = clock, peak
        self._open: list[str] = []
        self.restart()

    def restart(self) -> None:
        """Forgets what was counted."""
        self._spent: dict[Place, Spent] = {(): Spent()}
        self._peak()
        self._last = self._clock()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """What runs inside is `name`; of a phase inside a phase, the inner one alone counts the time."""
        self._count()
        self._open.append(name)
        for place in self._places():  # now, so that places stand in the order in which they began
            self._spent.setdefault(place, Spent())
        try:
            yield
        finally:
            self._count()
            self._open.pop()

    def spent(self) -> dict[Place, Spent]:
        """Every place so far. The seconds add up to all that has passed; a phase's peak is also that of its parts."""
        self._count()
        return dict(self._spent)

    def _places(self) -> list[Place]:
        """The open phase, if any, and its part that is running."""
        places: list[Place] = [(self._open[0],)] if self._open else [()]
        return [*places, (self._open[0], self._open[-1])] if len(self._open) > 1 else places

    def _count(self) -> None:
        now, peak = self._clock(), self._peak()
        places = self._places()
        self._spent[places[-1]].seconds += now - self._last
        for place in places:
            self._spent[place].peak = max(self._spent[place].peak, peak)
        self._last = now
