"""A busy neighbour on one of two cores: our two-thread speed beside it, against our own on one quiet thread.

    python benchmarks/neighbour.py --work decode

The neighbour spins on the first core. Turns alternate: one thread on the other core without the neighbour, two threads
on both cores beside it. Two threads that wait for each other at every step would fall far below one.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import decode
import machine
import pairs
from shapes import SHAPES
from world import open_world

ALONE, BESIDE = "one thread, quiet", "two threads, neighbour"


class Neighbour:
    """A process that spins on one core while it is wanted."""

    def __init__(self, cpu: int) -> None:
        self._process = subprocess.Popen(["taskset", "-c", str(cpu), sys.executable, "-c", "while True: pass"])
        self._process.send_signal(signal.SIGSTOP)

    @contextmanager
    def busy(self) -> Iterator[None]:
        self._process.send_signal(signal.SIGCONT)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGSTOP)

    def end(self) -> None:
        self._process.kill()
        self._process.wait()


def task(options: Any) -> tuple[str, str, dict[str, Any]]:
    """Script, unit of work and settings of our side."""
    world = open_world(options.size, judges=options.work == "ppo")
    if options.work == "decode":
        prompts, lengths = decode.requests(64, 64, 64, SHAPES[options.size].vocabulary, "equal")
        return "decode.py", "tokens", {"model": str(world.policy), "prompts": prompts, "lengths": lengths, "batch": 64}
    common = {"bench": options.work, "world": str(world.folder), "size": options.size}
    if options.work == "sft":
        return "sft.py", "tokens", {**common, "batch": 32}
    return "ppo.py", "tokens", {**common, "prompts": 64, "k": 1, "new": 64, "algorithm": "ppo"}


def main() -> None:
    pairs.hide_gpu()
    p = pairs.arguments(__doc__)
    p.add_argument("--work", choices=["decode", "sft", "ppo"], default="decode")
    options = pairs.settled(p.parse_args())
    mine = sorted(os.sched_getaffinity(0))
    if len(mine) < 2:
        sys.exit("neighbour.py needs two cores: the neighbour takes one of them.")
    script, work, settings = task(options)
    sides = []
    for name, threads, cpus in ((BESIDE, 2, mine[:2]), (ALONE, 1, mine[1:2])):
        options.threads = threads
        side = pairs.ours(script, options, **settings)
        side.name, side.cpus = name, cpus
        sides.append(side)
    options.threads = 2
    neighbour = Neighbour(mine[0])
    pairs.prepare(options)
    try:
        for side in sides:
            side.start()
        probes, rounds = [machine.probe()], []
        for _ in range(options.pairs):
            with neighbour.busy():
                beside = sides[0].turn()
            rounds.append({BESIDE: beside, ALONE: sides[1].turn()})
            probes.append(machine.probe())
        ends = {side.name: side.close() for side in sides}
    finally:
        neighbour.end()
        for side in sides:
            side.kill()
    pairs.conclude(
        "neighbour",
        f"{options.work}, {options.size}",
        sides,
        rounds,
        probes,
        ends,
        options=options,
        work=work,
        task=options.work,
    )


if __name__ == "__main__":
    main()
