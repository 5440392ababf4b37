"""Gradient checkpointing: memory and time of an update with and without it, on random documents of 256 tokens.

    python benchmarks/checkpointing.py --size 60M --tokens 4096 --threads 1

Each way runs in a process of its own. Memory: what the kernels' passes asked of the system (`native.memory`), and the
most that the process ever held.
"""

import argparse
import json
import resource
import subprocess
import sys
import time

import machine
import torch
from world import open_world, random_ids

from tutelage.data.batch import collate
from tutelage.model.load import load_causal
from tutelage.native.memory import arena
from tutelage.train.learner import ComputeConfig, Term
from tutelage.train.optim import OptimConfig
from tutelage.train.pretrain import language_learner, mean_nll

LENGTH, UPDATES = 256, 5


def measure(size: str, tokens: int, threads: int, wanted: bool) -> dict[str, float]:
    torch.set_num_threads(threads)
    model, _ = load_causal(str(open_world(size).policy), device="cpu")
    compute = ComputeConfig(precision="bf16", microbatch_tokens=tokens, gradient_checkpointing=wanted)
    learner = language_learner(model, optim=OptimConfig(lr=1e-5), compute=compute, total_steps=1000)
    rows = random_ids(tokens // LENGTH, LENGTH, model.vocabulary, seed=0)
    batch = collate([(ids, [False] + [True] * (LENGTH - 1)) for ids in rows])
    taken = []
    for _ in range(UPDATES):
        start = time.perf_counter()
        learner.step([Term(batch, torch.arange(len(batch)), mean_nll(batch))])
        taken.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"seconds": min(taken), "passes_gb": arena.held / 1e9, "peak_gb": peak / 1e9}


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--size", default="60M")
    p.add_argument("--tokens", type=int, default=4096, help="of an update")
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--way", choices=["kept", "recomputed"], help="of this process alone")
    options = p.parse_args()
    if options.way:
        found = measure(options.size, options.tokens, options.threads, options.way == "recomputed")
        print(json.dumps({"way": options.way, **found, **machine.facts()}))
        return
    for way in ("kept", "recomputed"):
        subprocess.run([sys.executable, *sys.argv, "--way", way], check=True)


if __name__ == "__main__":
    main()
