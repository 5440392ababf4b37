"""Reward model on rankings of K answers to a prompt: comparisons a second of tutelage and of TRL's RewardTrainer.

    python benchmarks/reward.py --k 9 --prompts 4 --peer-python .venv-peers/bin/python

A ranking of K answers holds K (K - 1) / 2 comparisons. tutelage reads each answer once for all of them; the peer learns
from pairs. A turn is one update on `--prompts` rankings.
"""

import loops
import pairs
from shapes import SHAPES
from world import open_world


def main() -> None:
    pairs.hide_gpu()
    p = pairs.arguments(__doc__)
    p.add_argument("--k", type=int, default=4, help="answers of a ranking")
    p.add_argument("--prompts", type=int, default=8, help="rankings an update")
    p.add_argument("--settings", choices=list(pairs.TRL_SETTINGS), default="fastest", help="of the peer")
    options = pairs.settled(p.parse_args())
    if options.serve:
        return loops.serve(options.serve)
    shape, world = SHAPES[options.size], open_world(options.size, judges=True)
    task = {"k": options.k, "prompts": options.prompts}
    sides = [pairs.ours("reward.py", options, bench="reward", world=str(world.folder), size=options.size, **task)]
    for chosen in pairs.TRL_SETTINGS[options.settings]:
        sides += pairs.trl("RewardTrainer", options.peer_python, "trl_reward.py", options, world, **task, **chosen)
    pairs.compare(
        "reward",
        f"{options.size}, {options.prompts} rankings of {options.k}",
        sides,
        options=options,
        work="comparisons",
        size=options.size,
        operations_per_token=shape.train(1),
        **task,
    )


if __name__ == "__main__":
    main()
