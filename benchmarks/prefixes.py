"""What the prefix cache saves: a conversation turn by turn, and rollouts behind one instruction, with and without it.

    python benchmarks/prefixes.py --size 60M --pairs 5

Both ways are the engine in one process, by turns, and draw the same tokens, which is checked. Of a conversation, each
turn 128 tokens longer than the last, the time until its answers begin is taken; rollouts are 64 prompts of 64 tokens
behind an instruction of 256, 64 new tokens each. Without the cache every prompt is computed as a whole.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable

import machine
import torch
from world import open_world, random_ids

from tutelage.engine.engine import Engine
from tutelage.engine.prefix_cache import PrefixCache
from tutelage.engine.request import Request, SamplingConfig
from tutelage.model.causal import CausalModel
from tutelage.model.load import load_causal

TURN, TURNS = 128, 7
INSTRUCTION, PROMPT, NEW, BATCH = 256, 64, 64, 64

Drawn = list[tuple[int, ...]]
Work = Callable[[Engine], Drawn]


def conversation(model: CausalModel) -> Work:
    history = random_ids(1, TURN * TURNS, model.vocabulary, seed=0)[0]

    def work(engine: Engine) -> Drawn:
        turns = [Request(tuple(history[: TURN * (i + 1)]), (i,)) for i in range(TURNS)]
        return [s.token_ids for r in turns for s in engine.generate([r], SamplingConfig(max_new_tokens=1))]

    return work


def rollouts(model: CausalModel) -> Work:
    [instruction] = random_ids(1, INSTRUCTION, model.vocabulary, seed=1)
    asked = random_ids(BATCH, PROMPT, model.vocabulary, seed=2)
    requests = [Request((*instruction, *ids), (i,)) for i, ids in enumerate(asked)]
    return lambda engine: [s.token_ids for s in engine.generate(requests, SamplingConfig(max_new_tokens=NEW))]


def timed(model: CausalModel, work: Work, *, with_cache: bool) -> tuple[float, Drawn]:
    """Seconds from an empty cache on."""
    prefixes = PrefixCache() if with_cache else PrefixCache(0)
    engine = Engine(model, end_id=-1, window=1024, precision="bf16", prefixes=prefixes)
    start = time.perf_counter()
    drawn = work(engine)
    return time.perf_counter() - start, drawn


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--size", default="60M")
    p.add_argument("--pairs", type=int, default=5)
    p.add_argument("--threads", type=int, default=2)
    options = p.parse_args()
    torch.set_num_threads(options.threads)
    model, _ = load_causal(str(open_world(options.size).policy), device="cpu")
    if not model.is_fusable:
        raise SystemExit("the native kernels do not run here (no compiler?), and without them nothing is kept")
    for name, make in (("conversation", conversation), ("rollouts", rollouts)):
        work, seconds, probes = make(model), {True: list[float](), False: list[float]()}, [machine.probe()]
        timed(model, work, with_cache=True)  # the weights are paired, and the memory is there
        for i in range(options.pairs):
            drawn = []
            for with_cache in (i % 2 == 0, i % 2 == 1):
                taken, tokens = timed(model, work, with_cache=with_cache)
                seconds[with_cache].append(taken)
                drawn.append(tokens)
            assert drawn[0] == drawn[1], "the two ways drew different tokens"
            probes.append(machine.probe())
        ratios = [without / with_ for without, with_ in zip(seconds[False], seconds[True], strict=True)]
        print(
            json.dumps({
                "bench": "prefixes", "case": name, "size": options.size, "threads": options.threads,
                "pairs": options.pairs, "seconds": statistics.median(seconds[True]),
                "seconds_without": statistics.median(seconds[False]), "ratio": statistics.median(ratios),
                "ratios": [round(r, 2) for r in ratios], "probes_bf16": [x["bf16"] for x in probes], **machine.facts(),
            })
        )  # fmt: skip


if __name__ == "__main__":
    main()
