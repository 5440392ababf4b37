"""What our own work costs as one size grows: model, batch, response length, answers of a prompt.

    python benchmarks/scaling.py --axis batch

One line for each axis: seconds and work of each point, and the exponent of each step, which is 1 where cost grows as
the work does. Work is counted in operations of weight products (shapes.py).
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import decode
import machine
import pairs
from shapes import SHAPES
from world import open_world

SUPERLINEAR = 1.1  # exponent of a step above which a cause must be stated
SIZES = ("1M", "10M", "60M", "135M")

Point = tuple[float, str, dict[str, Any], float]  # x, script, settings, operations of a turn


def decoding(x: float, size: str, batch: int, new: int) -> Point:
    """A generation of `batch` rows from a prompt of 64 tokens."""
    shape = SHAPES[size]
    prompts, lengths = decode.requests(batch, 64, new, shape.vocabulary, "equal")
    settings = {"model": str(open_world(size).policy), "prompts": prompts, "lengths": lengths, "batch": batch}
    return x, "decode.py", settings, shape.rollout(batch, 64, batch, new)


def fine_tuning(x: float, size: str, documents: int) -> Point:
    """One SFT update. The mean document has 127 tokens."""
    settings = {"bench": "sft", "world": str(open_world(size).folder), "size": size, "batch": documents}
    return x, "sft.py", settings, SHAPES[size].train(documents * 127, documents * 126)


def iteration(x: float, prompts: int, k: int) -> Point:
    """One PPO iteration of the 10M model."""
    world, shape = open_world("10M", judges=True), SHAPES["10M"]
    settings = {"bench": "ppo", "world": str(world.folder), "size": "10M", "prompts": prompts, "k": k, "new": 64}
    return x, "ppo.py", settings | {"algorithm": "ppo"}, shape.ppo(prompts * k, world.mean_prompt(), 64)


def ranking(x: float, k: int) -> Point:
    """One update of the reward model on 8 rankings."""
    world, shape = open_world("10M", judges=True), SHAPES["10M"]
    settings = {"bench": "reward", "world": str(world.folder), "size": "10M", "prompts": 8, "k": k}
    return x, "reward.py", settings, shape.train(8 * k * (world.mean_prompt() + 50))


AXES: dict[str, tuple[str, Callable[[], list[Point]]]] = {
    "decode-size": ("weights", lambda: [decoding(SHAPES[s].weights, s, 16, 64) for s in SIZES]),
    "sft-size": ("weights", lambda: [fine_tuning(SHAPES[s].weights, s, 8) for s in SIZES]),
    "batch": ("rows decoded together", lambda: [decoding(b, "10M", b, 64) for b in (1, 4, 16, 64, 256)]),
    "response": ("tokens of a response", lambda: [decoding(n, "10M", 16, n) for n in (16, 64, 256, 512)]),
    "samples": ("samples of a prompt", lambda: [iteration(k, 8, k) for k in (1, 2, 4, 9)]),
    "ranking": ("answers of a ranking", lambda: [ranking(k, k) for k in (2, 4, 9)]),
}


def measure(point: Point, options: Any) -> dict[str, float]:
    """Median seconds of a point, and the probes around it."""
    x, script, settings, operations = point
    side = pairs.ours(script, options, **settings)
    try:
        before = machine.probe()
        side.start()
        seconds = [side.turn()["seconds"] for _ in range(options.pairs)]
        after = machine.probe()
        peak = side.close()["peak_gb"]
    finally:
        side.kill()
    spread = pairs.Spread.of(seconds).to_json()
    return {
        "x": x, "seconds": spread["median"], "low": spread["low"], "high": spread["high"], "operations": operations,
        "peak_gb": peak, "probe_bf16": min(before["bf16"], after["bf16"]),
    }  # fmt: skip


def exponents(points: Sequence[dict[str, float]]) -> list[float]:
    """Of each step from one point to the next: log of the seconds' ratio over log of the work's."""
    return [
        round(math.log(b["seconds"] / a["seconds"]) / math.log(b["operations"] / a["operations"]), 2)
        for a, b in pairwise(points)
    ]


def main() -> None:
    pairs.hide_gpu()
    p = pairs.arguments(__doc__, pairs=3)
    p.add_argument("--axis", choices=[*AXES, "all"], default="all")
    options = pairs.settled(p.parse_args())
    for axis in AXES if options.axis == "all" else [options.axis]:
        pairs.prepare(options)
        what, make = AXES[axis]
        points = [measure(point, options) for point in make()]
        steps = exponents(points)
        line = pairs.head("scaling", axis, options) | {
            "x": what,
            "unit": "s",
            "points": points,
            "exponents": steps,
            "superlinear": [i for i, e in enumerate(steps) if e > SUPERLINEAR],
        }
        pairs.write(line, options)


if __name__ == "__main__":
    main()
