"""A whole PPO iteration, one epoch: tokens a second and peak memory of tutelage and of TRL 1.12, the last with PPO.

    python benchmarks/ppo.py --ppo-python .venv-ppo/bin/python

Policy, reference, reward and value model are of one shape. A turn is one iteration over `--prompts` prompts, one answer
each: rollout, scores, reference, values, one update of policy and critic.
"""

import argparse

import loops
import pairs
from shapes import SHAPES
from world import World, open_world


def sides(options: argparse.Namespace, world: World) -> list[pairs.Side]:
    """tutelage, and the peer in the settings that were asked for."""
    task = {"prompts": options.prompts, "new": options.new, "k": 1, "algorithm": "ppo"}
    found = [pairs.ours("ppo.py", options, bench="ppo", world=str(world.folder), size=options.size, **task)]
    for chosen in pairs.TRL_SETTINGS[options.settings]:
        found += pairs.trl(
            "PPOTrainer", options.ppo_python, "trl_ppo.py", options, world, batch=options.prompts, new=options.new,
            **chosen,
        )  # fmt: skip
    return found


def main() -> None:
    pairs.hide_gpu()
    p = pairs.arguments(__doc__)
    p.add_argument("--prompts", type=int, default=64)
    p.add_argument("--new", type=int, default=64, help="tokens of an answer")
    p.add_argument("--settings", choices=list(pairs.TRL_SETTINGS), default="fastest", help="of the peer")
    options = pairs.settled(p.parse_args())
    if options.serve:
        return loops.serve(options.serve)
    shape, world = SHAPES[options.size], open_world(options.size, judges=True)
    pairs.compare(
        "ppo",
        f"{options.size}, batch {options.prompts}",
        sides(options, world),
        options=options,
        work="tokens",
        size=options.size,
        prompt=world.mean_prompt(),
        operations=shape.ppo(options.prompts, world.mean_prompt(), options.new),
        prompts=options.prompts,
        new=options.new,
    )


if __name__ == "__main__":
    main()
