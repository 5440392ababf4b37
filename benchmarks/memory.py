"""Peak memory of a PPO iteration: tutelage, and TRL with bf16 weights, each alone on the machine.

    python benchmarks/memory.py --ppo-python .venv-ppo/bin/python

The figure is the most that the process ever had in memory, Python and libraries included, after `--pairs` iterations.
"""

import pairs
from ppo import sides
from world import open_world


def main() -> None:
    pairs.hide_gpu()
    p = pairs.arguments(__doc__, pairs=3)
    p.add_argument("--prompts", type=int, default=64)
    p.add_argument("--new", type=int, default=64, help="tokens of an answer")
    p.add_argument("--settings", choices=list(pairs.TRL_SETTINGS), default="all", help="of the peer")
    options = pairs.settled(p.parse_args())
    found = {}
    for side in sides(options, open_world(options.size, judges=True)):
        pairs.prepare(options)
        try:
            side.start()
            for _ in range(options.pairs):
                side.turn()
            found[side.name] = {**side.close(), "settings": side.facts}
        finally:
            side.kill()
    mine = found["tutelage"]["peak_gb"]
    line = pairs.head("memory", f"PPO, {options.size}, batch {options.prompts}", options) | {
        "unit": "GiB",
        "iterations": options.pairs,
        "sides": found,
        "ratios": {name: round(mine / side["peak_gb"], 3) for name, side in found.items() if name != "tutelage"},
        "size": options.size,
        "prompts": options.prompts,
        "new": options.new,
    }
    pairs.write(line, options)


if __name__ == "__main__":
    main()
