"""Decoding speed: useful tokens a second of the rollout engine, of `transformers` generate and of vLLM.

    python benchmarks/decode.py --batch 64                      # equal lengths
    python benchmarks/decode.py --batch 64 --lengths uniform    # stop lengths uniform in 10..new, slots refilled
    python benchmarks/decode.py --size 135M --batch 1 --threads 1

A turn is a whole `generate`, prompts included. Prompts are random ids, no end token occurs, and sampling is at
temperature 1 over the whole vocabulary. Our own line also tells the rate of the decoding steps alone.
"""

import json
import random
import statistics
import time
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import machine
import pairs
import torch
from peers.turns import take_turns
from shapes import SHAPES
from world import WINDOW, open_world, random_ids

from tutelage.engine.engine import Engine, EngineConfig
from tutelage.engine.request import Request, SamplingConfig
from tutelage.model.device import has_fast_bf16
from tutelage.model.load import load_causal

SHORTEST = 10  # tokens, where stop lengths are drawn


def serve(asked: dict[str, Any]) -> None:
    """Our side: the engine as a recipe builds it."""
    torch.set_num_threads(asked["threads"])
    model, _ = load_causal(asked["model"], device=machine.device())
    precision = "bf16" if has_fast_bf16(model.device) else "fp32"
    engine = Engine(
        model,
        end_id=model.vocabulary,  # none that could be drawn
        window=WINDOW,
        config=EngineConfig(slots=asked["batch"]),
        precision=precision,
    )
    lengths, longest = asked["lengths"], max(asked["lengths"])

    def turn(i: int) -> dict[str, float]:
        requests = [
            Request(tuple(ids), (1000 * (i + 1) + n,), max_new_tokens=length)
            for n, (ids, length) in enumerate(zip(asked["prompts"], lengths, strict=True))
        ]
        clock = StepClock(lengths)
        engine.generate(requests, SamplingConfig(max_new_tokens=longest), progress=clock)
        machine.synchronise()
        return {"tokens": sum(lengths), **clock.steps_alone()}

    take_turns(turn, {"what": "tutelage engine", "passes": precision, **machine.versions()})


class StepClock:
    """Times the decoding steps, of which several come at a time, where all samples have them in common."""

    def __init__(self, lengths: Sequence[int]) -> None:
        self._are_equal = len(set(lengths)) == 1
        self._told: list[tuple[float, int]] = []  # when, and how many tokens since the last time

    def __call__(self, drawn: int) -> None:
        if self._are_equal:
            self._told.append((time.perf_counter(), drawn))

    def steps_alone(self) -> dict[str, float]:
        """Tokens a second in the median of what was told behind the first time, in which prompts were computed, too.

        The rate of reading beside it is a median, too. Answers of a few tokens come at once: nothing then.
        """
        rates = [drawn / (now - before) for (before, _), (now, drawn) in pairwise(self._told)]
        return {"step_tokens_s": statistics.median(rates)} if rates else {}


def requests(n: int, prompt: int, new: int, vocabulary: int, lengths: str) -> tuple[list[list[int]], list[int]]:
    """Prompts of random ids, and how many tokens each is to be given: all `new`, or uniform from SHORTEST on."""
    source = random.Random(0)
    stops = [source.randint(min(SHORTEST, new), new) if lengths == "uniform" else new for _ in range(n)]
    return random_ids(n, prompt, vocabulary, seed=0), stops


def main() -> None:
    p = pairs.arguments(__doc__)
    p.add_argument("--batch", type=int, default=64)
    p.add_argument("--prompt", type=int, default=64)
    p.add_argument("--new", type=int, default=0, help="64, or 128 where stop lengths are drawn")
    p.add_argument("--lengths", choices=["equal", "uniform"], default="equal")
    p.add_argument("--dtypes", nargs="*", default=["bfloat16"], help="of the weights of transformers")
    p.add_argument("--cache", default="dynamic", help="of transformers: dynamic or static")
    options = pairs.settled(p.parse_args())
    if options.serve:
        return serve(json.loads(options.serve))
    shape, batch, uniform = SHAPES[options.size], options.batch, options.lengths == "uniform"
    new = options.new or (128 if uniform else 64)
    n = 2 * batch if uniform else batch
    prompts, lengths = requests(n, options.prompt, new, shape.vocabulary, options.lengths)
    task = {"model": str(open_world(options.size).policy), "prompts": prompts, "lengths": lengths, "batch": batch}
    sides = [pairs.ours("decode.py", options, **task)]
    for dtype in options.dtypes:
        sides += pairs.peer(
            f"transformers {dtype}",
            options.peer_python,
            "hf_generate.py",
            options,
            dtype=dtype,
            cache=options.cache,
            **task,
        )
    step_bytes = shape.step_bytes(batch, options.threads, options.prompt + sum(lengths) / n / 2)
    sides += pairs.peer("vllm", options.vllm_python, "vllm_generate.py", options, **task)
    pairs.compare(
        "decode",
        f"{options.size}, batch {batch}, {options.lengths} lengths",
        sides,
        options=options,
        work="tokens",
        size=options.size,
        batch=batch,
        prompt=options.prompt,
        new=new,
        lengths=options.lengths,
        operations=shape.rollout(n, options.prompt, n, sum(lengths) / n),
        step_operations_per_token=2 * shape.weights,
        weight_bytes=shape.decode_bytes(),
        step_bytes=step_bytes,
        # One sequence, or a card with room for all of them in flight: the weights are what counts.
        read_bytes=shape.decode_bytes() if batch == 1 or machine.device() == "cuda" else step_bytes,
    )


if __name__ == "__main__":
    main()
