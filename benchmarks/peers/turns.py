"""How a worker process takes turns: it works when it is told to, and answers with one line of JSON.

Project and peer both speak this, so that they alternate within one run and neither pays for the other's start.
It knows no library but the standard one, since it runs in the peers' Python too. A worker's last line carries its peak
memory; whatever libraries print stands on lines of their own and is skipped by the reader.
"""

import json
import os
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

MARK = "@turn "  # opens every line that is meant for the conductor
GO, END = "go", "end"


def say(facts: dict[str, Any]) -> None:
    print(MARK + json.dumps(facts), flush=True)


def wait() -> bool:
    """True when the next turn is asked for, False at the end."""
    return sys.stdin.readline().strip() == GO


def finish() -> None:
    """The last line, and the end of the process: a trainer that is paused within a step cannot simply return."""
    say({"peak_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 3), **_gpu_peak()})
    sys.stdout.flush()
    os._exit(0)


def take_turns(turn: Callable[[int], dict[str, Any]], facts: dict[str, Any], *, warm_up: int = 1) -> None:
    """For work that is a function: `turn(i)` does it and returns what it did, `facts` say what was set.

    A turn's own `seconds` stand when it gives them; otherwise the whole call is timed.
    """
    for _ in range(warm_up):
        turn(-1)
    say(facts)
    i = 0
    while wait():
        start = time.perf_counter()
        done = turn(i)
        say({"seconds": time.perf_counter() - start, **done})
        i += 1
    finish()


class Steps:
    """For work that is a loop of somebody else's: it calls `done` after each step, and is held there until its turn.

    warm_up  first steps that are not reported
    """

    def __init__(self, facts: Callable[[], dict[str, Any]], *, warm_up: int = 1) -> None:
        self._facts, self._left = facts, warm_up
        self._start = 0.0

    def done(self, **what: Any) -> None:
        """A step has ended; the next begins when this returns."""
        seconds = time.perf_counter() - self._start
        if self._left > 1:
            self._left -= 1
            return
        if self._left == 1:
            self._left = 0
            say(self._facts())
        else:
            say({"seconds": seconds, **what})
        if not wait():
            finish()
        self._start = time.perf_counter()


def _gpu_peak() -> dict[str, float]:
    torch = sys.modules["torch"] if "torch" in sys.modules else None
    if torch is None or not torch.cuda.is_available():
        return {}
    return {"gpu_peak_gb": round(torch.cuda.max_memory_allocated() / 2**30, 3)}
