"""Where the time and the memory of an RL loop went: measured when `run.profile` says so, kept beside the metrics.

Knows no algorithm: rows are whatever phases the machines named.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from tutelage.log import say
from tutelage.publish import write_json
from tutelage.rounds.peak_memory import PeakMemory
from tutelage.stopwatch import Place, Spent, Stopwatch

PROFILE = "profile.json"
REST = "rest"  # of the whole: what no phase names
OTHER = "other"  # of a phase: what none of its parts names


class Profile:
    """A stopwatch over one loop, and what it says in the end."""

    def __init__(self, device: torch.device) -> None:
        self.memory = PeakMemory(device)
        self.watch = Stopwatch(_clock(device), self.memory)

    def finish(self, folder: Path, n_updates: int) -> None:
        """Prints the table of the last `n_updates` updates and keeps it in the folder."""
        if not n_updates:  # all of them were done before a kill
            return
        facts = tabulate(self.watch.spent(), n_updates) | {
            "memory": self.memory.meaning,
            "process_bytes": self.memory.most_resident,
        }
        write_json(folder / PROFILE, facts)
        say("\n".join(lines(facts)))


def _clock(device: torch.device) -> Callable[[], float]:
    """A GPU works behind the program's back, so its clock first waits for it."""

    def after_gpu() -> float:
        torch.cuda.synchronize(device)
        return time.perf_counter()

    return after_gpu if device.type == "cuda" else time.perf_counter


def tabulate(spent: Mapping[Place, Spent], n_updates: int) -> dict[str, Any]:
    """Seconds of an update and shares of the whole, phase by phase; the phases' shares add up to 1, so do the parts'.

    A row: {"phase": "sampling", "part": "prefill", "seconds": 0.2, "share": 0.1, "peak_gb": 0.8}; the part is "" in
    the row of the whole phase, which stands above its parts.
    """
    whole = sum(s.seconds for s in spent.values())
    rows = [
        {"phase": phase, "part": part, "seconds": s.seconds / n_updates, "share": s.seconds / whole if whole else 0.0,
         "peak_gb": s.peak / 1e9}
        for phase, part, s in _rows(spent)
    ]  # fmt: skip
    return {"updates": n_updates, "seconds": whole / n_updates, "phases": rows}


def _rows(spent: Mapping[Place, Spent]) -> Iterator[tuple[str, str, Spent]]:
    for (phase,) in (place for place in spent if len(place) == 1):
        own = spent[(phase,)]
        parts = {place[1]: s for place, s in spent.items() if len(place) == 2 and place[0] == phase}
        yield phase, "", Spent(own.seconds + sum(s.seconds for s in parts.values()), own.peak)
        yield from ((phase, name, s) for name, s in parts.items())
        if parts:
            yield phase, OTHER, own
    yield REST, "", spent[()]


def lines(facts: Mapping[str, Any]) -> Iterator[str]:
    """The table as text."""
    yield f"  an update took {facts['seconds']:.3g} s (mean of {facts['updates']}); memory: {facts['memory']}"
    yield f"  {'':<24}{'seconds':>9}{'share':>8}{'GB':>7}"
    for row in facts["phases"]:
        name = f"  {row['part']}" if row["part"] else row["phase"]
        yield f"  {name:<24}{row['seconds']:>9.3f}{row['share']:>8.1%}{row['peak_gb']:>7.2f}"
