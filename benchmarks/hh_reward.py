"""Reward models on Anthropic's HH pairs, held out by the first user turn: helpful, harmless, and trained on both.

    python benchmarks/hh_reward.py --helpful FILE --harmless FILE [--pretrain FILE ...] [--folds 5] [--run 5]

Folds are by SHA-256 of the first user turn, as for the bag-of-words floors that stand beside the results. With
`--adapt 2` the backbone first reads the conversations of the training part as a language model, whoever won. With
`--pretrain`, the model learns these comparisons first (preference-model pre-training, Bai et al. 2022); pairs whose
first turn is in HH are left out of them. Trained on both, the model has a head for each set and a gate that reads from
the prompt which one counts; it is never told the set of a pair it is measured on. Prints one JSON line.
"""

import argparse
import hashlib
import json
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from tutelage.data.comparisons import comparison_batch, ranked_rows, without_oldest_turns
from tutelage.evals.reward_model import evaluate
from tutelage.formats.detect import read_feedback
from tutelage.model.device import AUTO, find_device, has_fast_bf16
from tutelage.model.reward_model import RewardModel, Weighing, new_reward_model
from tutelage.reward.scorer import Scorer
from tutelage.stats.dedupe import normalise
from tutelage.stats.intervals import wilson
from tutelage.train import reward_model as loop
from tutelage.train.learner import ComputeConfig
from tutelage.train.optim import OptimConfig
from tutelage.train.reward_heads import fit_heads
from tutelage.train.transcripts import read_transcripts
from tutelage.types import RankedGroup

# Words and bigrams hashed into 65,536 cells, pairwise logistic regression, on the same folds.
BAG_FLOORS = {"helpful": 0.628, "harmless": 0.620, "both: helpful": 0.547, "both: harmless": 0.540}


def first_turn(group: RankedGroup) -> str:
    return next(m.content for m in group.prompt.messages if m.role == "user")


def fold_of(group: RankedGroup, folds: int) -> int:
    return int(hashlib.sha256(first_turn(group).encode()).hexdigest(), 16) % folds


def read(path: Path, aspect: str = "overall") -> list[RankedGroup]:
    found = [g for g in read_feedback(path, refused=[]) if isinstance(g, RankedGroup)]
    return [g.model_copy(update={"aspect": aspect}) for g in found]


def fit(
    model: RewardModel,
    groups: Sequence[RankedGroup],
    args: argparse.Namespace,
    *,
    epochs: int,
    head_prior: float,
    adapt: int = 0,
) -> None:
    cfg = loop.RewardConfig(
        prompts_per_step=32, epochs=epochs, ties="half", head_prior=head_prior, ngram_prior=args.ngram_prior
    )
    groups, n_shortened = without_oldest_turns(groups, model.row)
    rows, n_long = ranked_rows(groups, model.row)
    compute = ComputeConfig(precision="bf16" if has_fast_bf16(find_device(AUTO)) else "fp32", microbatch_tokens=4096)
    total = loop.n_steps(cfg, len(rows))
    learner = loop.reward_learner(
        model, optim=OptimConfig(lr=args.lr, weight_decay=0.01), compute=compute, total_steps=total
    )
    started = time.monotonic()
    if adapt:
        optim = OptimConfig(lr=args.adapt_lr)
        read_transcripts(model, rows, epochs=adapt, optim=optim, compute=compute, seed=args.seed, log=lambda *_: None)
    if cfg.head_prior:
        fit_heads(cfg, comparison_batch(rows), model, compute)

    def log(step: int, row: dict[str, float]) -> None:
        if step % 20 == 0:
            print(f"  {step}/{total} {row['loss']:.3f} {time.monotonic() - started:.0f} s", file=sys.stderr)

    loop.run(cfg, rows=rows, model=model, learner=learner, seed=args.seed, log=log, save=lambda step: None)
    print(
        f"  {len(rows)} pairs, {n_shortened} shortened, {n_long} too long, {time.monotonic() - started:.0f} s",
        file=sys.stderr,
    )


def fresh(start: RewardModel, args: argparse.Namespace, aspects: Sequence[str]) -> RewardModel:
    """Fresh heads on a copy of the backbone; of one aspect, the heads that `start` has."""
    weigh: Weighing = "prompt" if len(aspects) > 1 else "fixed"
    equal = {name: 1 / len(aspects) for name in aspects}
    model = new_reward_model(
        args.base, args.kind, aspects=equal, read=args.read, weigh=weigh, n_cells=args.ngram_cells, seed=args.seed
    )
    if len(aspects) > 1:
        model.backbone.load_state_dict(start.backbone.state_dict())
    else:
        model.load_state_dict(start.state_dict())
    return model


def right(model: RewardModel, groups: Sequence[RankedGroup]) -> tuple[int, int]:
    """Pairs ordered as the people did, of those that fit the window without their oldest turns."""
    usable = [r.group for r in ranked_rows(without_oldest_turns(groups, model.row)[0], model.row)[0]]
    found = evaluate(Scorer([model], precision="bf16" if has_fast_bf16(find_device(AUTO)) else "fp32"), usable)
    return round(found.accuracy * found.n), found.n


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--helpful", type=Path, required=True)
    parser.add_argument("--harmless", type=Path, required=True)
    parser.add_argument("--pretrain", type=Path, nargs="*", default=[])
    parser.add_argument("--pretrain-limit", type=int, default=6000)
    parser.add_argument("--base", default="bundled")
    parser.add_argument("--kind", choices=("causal", "encoder"), default="causal")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--run", type=int, default=5, help="how many of the folds to run")
    parser.add_argument("--read", choices=("token", "answer"), default="answer")
    parser.add_argument("--head-prior", type=float, default=0.5)
    parser.add_argument("--ngram-cells", type=int, default=65536)
    parser.add_argument("--ngram-prior", type=float, default=0.7)
    parser.add_argument("--adapt", type=int, default=0, help="how often the backbone reads the training part first")
    parser.add_argument("--adapt-lr", type=float, default=6e-4)
    parser.add_argument("--sets", nargs="*", default=["own", "both"], help="what to train on: own, both")
    parser.add_argument("--epochs", type=int, default=0)
    parser.add_argument("--lr", type=float, default=2e-4)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


def main() -> None:
    args = arguments()
    torch.set_num_threads(args.threads)
    sets = {"helpful": read(args.helpful, "helpful"), "harmless": read(args.harmless, "harmless")}
    start = new_reward_model(
        args.base, args.kind, aspects=None, read=args.read, n_cells=args.ngram_cells, seed=args.seed
    )
    if args.pretrain:
        ours = {normalise(first_turn(g)) for groups in sets.values() for g in groups}
        other = [g for path in args.pretrain for g in read(path) if normalise(first_turn(g)) not in ours]
        random.Random(args.seed).shuffle(other)
        fit(start, other[: args.pretrain_limit], args, epochs=1, head_prior=0.0)
    counts = {name: np.zeros(2, dtype=int) for name in BAG_FLOORS}
    for fold in range(args.run):
        train = {k: [g for g in v if fold_of(g, args.folds) != fold] for k, v in sets.items()}
        test = {k: [g for g in v if fold_of(g, args.folds) == fold] for k, v in sets.items()}
        settings = {"epochs": args.epochs, "head_prior": args.head_prior, "adapt": args.adapt}
        for name in sets if "own" in args.sets else ():
            model = fresh(start, args, [name])
            fit(model, train[name], args, **settings)
            counts[name] += right(model, test[name])
        if "both" in args.sets:
            model = fresh(start, args, list(sets))
            fit(model, train["helpful"] + train["harmless"], args, **settings)
            for name in sets:
                counts[f"both: {name}"] += right(model, test[name])
        print({k: (v[0] / v[1]).round(3) for k, v in counts.items() if v[1]}, file=sys.stderr)
    results = {
        name: {"accuracy": k / n, "interval": wilson(int(k), int(n)), "n": int(n), "bag_floor": BAG_FLOORS[name]}
        for name, (k, n) in counts.items()
        if n
    }
    print(
        json.dumps(
            {
                "benchmark": "hh_reward",
                "folds": f"{args.run} of {args.folds}",
                "pretrained": bool(args.pretrain),
                "adapted": args.adapt,
                **results,
            }
        )
    )


if __name__ == "__main__":
    main()
