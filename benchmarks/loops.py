"""Our side of the training benchmarks: tutelage's loops and machines as a recipe builds them, one update a turn.

A loop tells its `log` of every update; there it is held until the next turn.
"""

import json
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import machine
import torch
from peers.turns import Steps
from world import World, prompts_of

from tutelage.data.comparisons import ranked_rows
from tutelage.data.prompt_stream import prompts_of_update
from tutelage.data.sft import SFTRows
from tutelage.engine.engine import EngineConfig
from tutelage.engine.request import SamplingConfig
from tutelage.model.load import load_causal
from tutelage.model.reward_model import load_reward
from tutelage.rounds.recipe import Recipe, RunConfig, resolved
from tutelage.rounds.reward import RewardModels
from tutelage.rounds.rl_machines import build
from tutelage.rounds.run import Run
from tutelage.store.db import open_store
from tutelage.train import ppo, reward_model, rloo, sft
from tutelage.train.detectors import AFTER_UPDATE, BEFORE_UPDATE, FIRST_MINIBATCH
from tutelage.train.machines import LearnerPolicy
from tutelage.train.monitor import Monitor, MonitorConfig
from tutelage.train.optim import OptimConfig
from tutelage.train.pretrain import language_learner
from tutelage.types import RankedGroup

MANY = 10_000  # updates: more than any run takes
OPTIM = OptimConfig(lr=1e-5, schedule="constant", warmup_steps=0)


def recipe_of(asked: Mapping[str, Any]) -> Recipe:
    """A recipe with everything as it comes, but for the task's own sizes."""
    changes: dict[str, Any] = {"run": RunConfig(threads=asked["threads"]), "policy_optim": OPTIM, "critic_optim": OPTIM}
    if "microbatch_tokens" in asked:
        changes["microbatch_tokens"] = asked["microbatch_tokens"]
    return resolved(replace(Recipe(), **changes))


def turns(recipe: Recipe) -> Steps:
    """Takes turns, and says what the recipe settled."""
    facts = {
        "what": "tutelage", "passes": recipe.run.precision, "weights": "float32 masters",
        "microbatch_tokens": recipe.microbatch_tokens, **machine.versions(),
    }  # fmt: skip
    return Steps(lambda: facts)


def serve_sft(asked: dict[str, Any]) -> None:
    """`sft.run` over documents, every token learned."""
    torch.set_num_threads(asked["threads"])
    world, recipe = World(Path(asked["world"]), asked["size"]), recipe_of(asked)
    documents = world.read_tasks()["documents"]
    rows = SFTRows(tuple((ids, [False] + [True] * (len(ids) - 1)) for ids in documents), 0)
    model, _ = load_causal(str(world.policy), device=machine.device())
    learner = language_learner(model, optim=OPTIM, compute=recipe.compute, total_steps=MANY)
    steps = turns(recipe)

    def log(step: int, row: dict[str, float]) -> None:
        machine.synchronise()
        steps.done(tokens=row["tokens"])

    sft.run(
        sft.SFTConfig(epochs=MANY, batch_size=asked["batch"], save_every=MANY, patience=MANY),
        rows=rows, held_out=rows, learner=learner, seed=1, progress=sft.SFTProgress(), log=log,
        save=lambda step, progress: None, keep_best=lambda: None,
    )  # fmt: skip


def serve_reward(asked: dict[str, Any]) -> None:
    """`reward_model.run` over rankings of K answers, all pairs of each."""
    torch.set_num_threads(asked["threads"])
    world, recipe = World(Path(asked["world"]), asked["size"]), recipe_of(asked)
    tasks, k = world.read_tasks(), asked["k"]
    answers = cycle(tasks["answers"])
    groups = [
        RankedGroup(
            prompt=p, texts=tuple(islice(answers, k)), tiers=tuple(range(1, k + 1)), labeler="made up", source="made up"
        )
        for p in prompts_of(tasks)
    ]
    model, _ = load_reward(world.own_reward)
    rows, _ = ranked_rows(groups, model.row)
    cfg = reward_model.RewardConfig(epochs=MANY, prompts_per_step=asked["prompts"], save_every=MANY)
    learner = reward_model.reward_learner(model, optim=OPTIM, compute=recipe.compute, total_steps=MANY)
    steps, pairs = turns(recipe), asked["prompts"] * k * (k - 1) // 2
    reward_model.run(
        cfg, rows=rows, model=model, learner=learner, seed=1, save=lambda step: None,
        log=lambda step, row: steps.done(comparisons=pairs, tokens=row["tokens"]),
    )  # fmt: skip


def serve_rl(asked: dict[str, Any]) -> None:
    """`ppo.run` or `rloo.run` on what `rounds.rl_machines.build` makes of a recipe."""
    torch.set_num_threads(asked["threads"])
    world, algorithm = World(Path(asked["world"]), asked["size"]), asked["algorithm"]
    batch = {"prompts_per_update": asked["prompts"], "samples_per_prompt": asked["k"], "minibatches": 1, "epochs": 1}
    never = {"updates": MANY, "eval_every": MANY, "save_every": MANY}
    recipe = recipe_of(asked)
    recipe = replace(
        recipe,
        run=replace(recipe.run, algorithm=algorithm),
        sampling=SamplingConfig(max_new_tokens=asked["new"]),
        engine=EngineConfig(slots=asked["prompts"] * asked["k"]),
        ppo=ppo.PPOConfig(**batch, **never, critic_warmup=0) if algorithm == "ppo" else recipe.ppo,
        rloo=rloo.RLOOConfig(**batch, **never) if algorithm == "rloo" else recipe.rloo,
    )
    with tempfile.TemporaryDirectory() as folder:
        run = Run(Path(folder), recipe, open_store(Path(folder) / "store.db"))
        machines = build(run, world.policy, RewardModels((world.own_reward,), world.own_reward), seed=1)
        steps, prompts = turns(recipe), prompts_of(world.read_tasks())
        common: dict[str, Any] = {
            "kl": recipe.kl, "unfinished": recipe.unfinished, "sampler": machines.sampler,
            "reference": machines.reference, "score": machines.score, "seed": 1, "state": ppo.RLState(),
            "prompts": lambda step: prompts_of_update(prompts, asked["prompts"], step, seed=1),
            "evaluate": lambda step: ({"eval_kl": 0.0}, 0.0), "monitor": Monitor(_only_warn(), lambda alarm: None),
            "log": lambda step, row: steps.done(
                tokens=row["tokens"], **{n: row[n] for n in ("mismatch_mean", "max_mismatch", "length")}
            ),
            "save": lambda state: None, "keep_best": lambda step: None,
        }  # fmt: skip
        if algorithm == "rloo":
            rloo.run(recipe.rloo, policy=LearnerPolicy(machines.policy), **common)
        else:
            ppo.run(recipe.ppo, actor_critic=machines.actor_critic(), language=lambda update, part: (), **common)


def _only_warn() -> MonitorConfig:
    """The made-up models stay what they are, so no alarm of the course of a run may end it."""
    names = tuple(d.name for d in (*BEFORE_UPDATE, *FIRST_MINIBATCH, *AFTER_UPDATE))
    return MonitorConfig(ratio_tolerance=0.02, mismatch_tolerance=0.05, ignore=names)


SERVES = {"sft": serve_sft, "reward": serve_reward, "ppo": serve_rl, "rloo": serve_rl}


def serve(asked: str) -> None:
    """Our side of the benchmark that the settings name."""
    settings = json.loads(asked)
    SERVES[settings["bench"]](settings)
