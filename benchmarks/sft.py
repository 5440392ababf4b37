"""Supervised fine-tuning on documents of 32 to 224 tokens: tokens a second of tutelage and of TRL's SFTTrainer.

    python benchmarks/sft.py --peer-python .venv-peers/bin/python

A turn is one update on `--batch` documents, every token learned. Peers: bf16 weights without a float32 copy, and the
trainer's bf16 switch; `--settings all` adds float32 and packing.
"""

from typing import Any

import loops
import pairs
from shapes import SHAPES
from world import open_world

FASTEST: tuple[dict[str, Any], ...] = ({"dtype": "bfloat16", "autocast": False, "packing": False},)
ALL: tuple[dict[str, Any], ...] = (
    *FASTEST,
    {"dtype": "float32", "autocast": True, "packing": False},
    {"dtype": "float32", "autocast": False, "packing": False},
    {"dtype": "bfloat16", "autocast": False, "packing": True},
)


def main() -> None:
    p = pairs.arguments(__doc__)
    p.add_argument("--batch", type=int, default=32, help="documents an update")
    p.add_argument("--settings", choices=["fastest", "all"], default="fastest", help="of the peer")
    options = pairs.settled(p.parse_args())
    if options.serve:
        return loops.serve(options.serve)
    shape, world = SHAPES[options.size], open_world(options.size)
    task = {"batch": options.batch}
    sides = [pairs.ours("sft.py", options, bench="sft", world=str(world.folder), size=options.size, **task)]
    for chosen in ALL if options.settings == "all" else FASTEST:
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
