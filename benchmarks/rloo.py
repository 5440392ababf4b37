"""A whole RLOO iteration, 8 prompts of 8 samples: tokens a second of tutelage and of TRL's RLOO and GRPO trainers.

    python benchmarks/rloo.py --peer-python .venv-peers/bin/python

A neural reward model of the policy's shape and a KL price, which needs a reference; one update on all samples.
"""

import loops
import pairs
from shapes import SHAPES
from world import open_world


def main() -> None:
    pairs.hide_gpu()
    p = pairs.arguments(__doc__)
    p.add_argument("--prompts", type=int, default=8)
    p.add_argument("--k", type=int, default=8, help="samples of a prompt")
    p.add_argument("--new", type=int, default=64, help="tokens of an answer")
    p.add_argument("--algorithms", nargs="*", default=["rloo", "grpo"], help="of the peer")
    p.add_argument("--settings", choices=list(pairs.TRL_SETTINGS), default="fastest", help="of the peer")
    options = pairs.settled(p.parse_args())
    if options.serve:
        return loops.serve(options.serve)
    shape, world = SHAPES[options.size], open_world(options.size, judges=True)
    task = {"prompts": options.prompts, "k": options.k, "new": options.new}
    sides = [
        pairs.ours(
            "rloo.py", options, bench="rloo", algorithm="rloo", world=str(world.folder), size=options.size, **task
        )
    ]
    for algorithm in options.algorithms:
        for chosen in pairs.TRL_SETTINGS[options.settings]:
            sides += pairs.trl(
                f"{algorithm.upper()}Trainer", options.peer_python, "trl_rloo.py", options, world,
                algorithm=algorithm, **task, **chosen,
            )  # fmt: skip
    pairs.compare(
        "rloo",
        f"{options.size}, {options.prompts} prompts of {options.k} samples",
        sides,
        options=options,
        work="tokens",
        size=options.size,
        prompt=world.mean_prompt(),
        operations=shape.rloo(options.prompts, options.k, world.mean_prompt(), options.new),
        **task,
    )


if __name__ == "__main__":
    main()
