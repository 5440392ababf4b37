"""Supervised fine-tuning on documents of 32 to 224 tokens: tokens a second of tutelage and of TRL's SFTTrainer.

    python benchmarks/sft.py --peer-python .venv-peers/bin/python

A turn is one update on `--batch` documents, every token learned. TRL's packing is left out: without flash attention it
attends over the whole row, and one step of 32 rows of 512 went at a third of the rate of unpacked documents.
"""

import loops
import pairs
from shapes import SHAPES
from world import open_world


def main() -> None:
    p = pairs.arguments(__doc__)
    p.add_argument("--batch", type=int, default=32, help="documents an update")
    p.add_argument("--settings", choices=list(pairs.TRL_SETTINGS), default="fastest", help="of the peer")
    options = pairs.settled(p.parse_args())
    if options.serve:
        return loops.serve(options.serve)
    shape, world = SHAPES[options.size], open_world(options.size)
    task = {"batch": options.batch}
    sides = [pairs.ours("sft.py", options, bench="sft", world=str(world.folder), size=options.size, **task)]
    for chosen in pairs.TRL_SETTINGS[options.settings]:
        sides += pairs.trl("SFTTrainer", options.peer_python, "trl_sft.py", options, world, **task, **chosen)
    pairs.compare(
        "sft",
        f"{options.size}, {options.batch} documents of 32 to 224 tokens",
        sides,
        options=options,
        work="tokens",
        size=options.size,
        operations_per_token=shape.train(1, 1),
        **task,
    )


if __name__ == "__main__":
    main()
