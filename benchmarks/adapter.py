"""Low-rank adapters: what they learn, and how fast, on the kernels, through `transformers` and in float32.

    python benchmarks/adapter.py

The kernels add an adapter to the weights that it acts on before these are rounded to bf16. Is anything of a small step
lost by that? The base is the worst case, the bundled model with weights that are bf16 already; the text is made of
40 random phrases. Each way is a process of its own. One JSON line each: loss by step, the loss on unseen text in
float32, and tokens a second of training and of sampling.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import time

import torch

from tutelage.data.batch import TokenBatch, collate
from tutelage.engine.engine import Engine, EngineConfig, Precision
from tutelage.engine.request import Request, SamplingConfig
from tutelage.model.causal import CausalModel
from tutelage.model.load import load_causal
from tutelage.model.lora import Adapter, LoraSettings
from tutelage.train.learner import ComputeConfig, Learner, Term
from tutelage.train.optim import OptimConfig
from tutelage.train.pretrain import language_learner, mean_nll

WAYS: dict[str, tuple[Precision, str]] = {  # precision, TUTELAGE_NATIVE
    "kernels": ("bf16", "1"),
    "transformers": ("bf16", "0"),
    "float32": ("fp32", "0"),
}
N_ROWS, N_PHRASES, SHOWN = 16, 10, 5
NEW_TOKENS = 64


def learner_of(precision: Precision, lr: float) -> tuple[CausalModel, Learner]:
    """The bundled model, rounded, under an adapter of rank 16."""
    model, _ = load_causal("bundled", device="cpu")
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(p.bfloat16().float())
    Adapter(model, LoraSettings(rank=16), seed=0)
    optim = OptimConfig(lr=lr, schedule="constant", warmup_steps=0)
    return model, language_learner(model, optim=optim, compute=ComputeConfig(precision=precision), total_steps=1)


def text(seed: int) -> TokenBatch:
    """Rows of phrases, which are the same for all seeds."""
    made_up = random.Random(0)
    phrases = [[made_up.randrange(20, 2000) for _ in range(6)] for _ in range(40)]
    source = random.Random(seed)
    rows = [[t for _ in range(N_PHRASES) for t in source.choice(phrases)] for _ in range(N_ROWS)]
    return collate([(row, [False] + [True] * (len(row) - 1)) for row in rows])


def measure(way: str, lr: float, steps: int) -> None:
    precision, os.environ["TUTELAGE_NATIVE"] = WAYS[way]
    model, learner = learner_of(precision, lr)
    losses, seconds = [], []
    for step in range(steps):
        batch, start = text(step), time.perf_counter()
        losses.append(learner.step([Term(batch, torch.arange(N_ROWS), mean_nll(batch))])["loss"])
        seconds.append(time.perf_counter() - start)
    unseen = text(-1)
    with torch.no_grad():
        logp_BT, _ = model.logp(unseen.token_BT, unseen.length_B, unseen.mask_BT, temperature=1.0)
    n_tokens = int(unseen.length_B.sum())
    facts = {
        "way": way,
        "lr": lr,
        "losses": [round(x, 4) for x in losses[:: max(1, steps // SHOWN)]],
        "unseen": round(-float(logp_BT[unseen.mask_BT].mean()), 4),
        "trained_tokens_s": round(n_tokens / sorted(seconds)[steps // 2]),
        "sampled_tokens_s": round(sampling_rate(model, precision)),
    }
    print(json.dumps(facts), flush=True)


def sampling_rate(model: CausalModel, precision: Precision) -> float:
    """Of 64 samples at once; the better of two calls."""
    engine = Engine(
        model, end_id=model.vocabulary, window=256, config=EngineConfig(slots=64), precision=precision
    )  # no token is the end
    requests = [Request(tuple(random.Random(i).randrange(20, 2000) for _ in range(64)), (i,)) for i in range(64)]
    seconds = []
    for _ in range(2):
        start = time.perf_counter()
        engine.generate(requests, SamplingConfig(max_new_tokens=NEW_TOKENS))
        seconds.append(time.perf_counter() - start)
    return len(requests) * NEW_TOKENS / min(seconds)


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--way", choices=list(WAYS), help="measure one alone, in this process")
    p.add_argument("--lr", type=float, nargs="*", default=[1e-4, 2e-5])
    p.add_argument("--steps", type=int, default=80)
    options = p.parse_args()
    for lr in options.lr:
        if options.way:
            measure(options.way, lr, options.steps)
            continue
        for way in WAYS:
            command = [sys.executable, __file__, "--way", way, "--lr", str(lr), "--steps", str(options.steps)]
            subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
