"""A round's reinforcement learning: builds the machines, runs the recipe's algorithm, publishes the best policy.

B rollouts, T tokens.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tutelage.algo.kl import k1
from tutelage.data.batch import Rollouts
from tutelage.data.prompt_stream import prompts_of_update
from tutelage.data.sft import SFTRows, sft_rows, take
from tutelage.evals.policy import refuses
from tutelage.log import say
from tutelage.model.checkpoint import weights_sha
from tutelage.rounds.machines import fitting
from tutelage.rounds.memory_notice import announce
from tutelage.rounds.prepare import Prompts, demonstrations, publish_model, register, version_id
from tutelage.rounds.reward import RewardModels
from tutelage.rounds.rl_machines import Machines, build, need_of_rl
from tutelage.rounds.run import Run, Stage, give_back_memory
from tutelage.seed import derive
from tutelage.simulate.gold import BrandVoice
from tutelage.store.snapshot import load_card
from tutelage.train import ppo, rloo
from tutelage.train.detectors import Alarm
from tutelage.train.learner import Term
from tutelage.train.machines import LearnerPolicy
from tutelage.train.monitor import Monitor
from tutelage.train.ppo import RLState
from tutelage.train.pretrain import mean_nll
from tutelage.types import Prompt

N_SHOWN = 4  # prompts whose answers are kept along the way


def train(run: Run, i_round: int, prompts: Prompts, start: Path, rewards: RewardModels, snapshot: Path) -> Path:
    """Reinforcement learning from `start`; publishes the best policy by held-out reward within the KL budget."""
    algorithm = run.recipe.run.algorithm
    folder = run.folder / f"round-{i_round}" / algorithm
    if not run.is_done(folder):
        with run.stage(folder, f"{algorithm.upper()} from {version_id(start)}") as stage:
            _train(run, stage, i_round, prompts, start, rewards)
    register(
        run, folder, parent=version_id(start), snapshot=load_card(snapshot).hash, reward=version_id(rewards.members[0])
    )
    return folder


def _train(run: Run, stage: Stage, i_round: int, prompts: Prompts, start: Path, rewards: RewardModels) -> None:
    recipe, seed = run.recipe, derive(run.recipe.run.seed, "rl", i_round)
    cfg = recipe.ppo if recipe.run.algorithm == "ppo" else recipe.rloo
    machines = build(run, start, rewards, seed)
    usable = fitting(
        prompts.train, machines.chat, recipe.sampling.max_new_tokens, longest=recipe.data.max_prompt_tokens
    )[0]
    course = Course(
        run,
        stage,
        machines,
        fitting(prompts.valid, machines.chat, recipe.sampling.max_new_tokens, longest=recipe.data.max_prompt_tokens)[0],
        seed,
    )
    announce(need_of_rl(recipe, machines, usable), machines.model.device)
    state = course.resume()
    log = stage.metrics(cfg.updates, at=state.step, shown=("reward", "kl", "eval_held_out"))
    if state.step == 0:
        course.begin(state, log)
    if machines.profile:
        machines.profile.watch.restart()
    first = state.step
    common: dict[str, Any] = {
        "kl": recipe.kl,
        "unfinished": recipe.unfinished,
        "sampler": machines.sampler,
        "reference": machines.reference,
        "prompts": lambda i: prompts_of_update(usable, cfg.prompts_per_update, i, seed=seed),
        "score": machines.score,
        "evaluate": course.evaluate,
        "monitor": course.monitor,
        "log": log,
        "save": course.save,
        "keep_best": course.keep_best,
        "state": state,
        "seed": seed,
    }
    if recipe.run.algorithm == "rloo":
        state = rloo.run(recipe.rloo, policy=LearnerPolicy(machines.policy), **common)
    else:
        actor_critic = machines.actor_critic()
        state = ppo.run(recipe.ppo, actor_critic=actor_critic, language=_language(run, machines, seed), **common)
    if machines.profile:
        machines.profile.finish(stage.work, state.step - first)
    course.publish(state)


def _language(run: Run, machines: Machines, seed: int) -> Any:
    """Terms of the language loss (PPO-ptx): demonstrations, as many rows as a minibatch has."""
    recipe = run.recipe
    rows = sft_rows(demonstrations(run)[0], machines.chat)
    n = max(1, recipe.ppo.prompts_per_update * recipe.ppo.samples_per_prompt // recipe.ppo.minibatches)

    def terms(update: int, minibatch: int) -> list[Term]:
        g = torch.Generator().manual_seed(derive(seed, "ptx", update, minibatch))
        batch = take(rows, torch.randint(len(rows.rows), (n,), generator=g).tolist())
        nll = mean_nll(batch)

        def loss(out_BTC: Tensor, r: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            value = nll(out_BTC, r)[0]
            return recipe.ppo.ptx_coef * value, {"ptx_loss": value.detach()}

        return [Term(batch, torch.arange(n), loss)]

    return terms


class Course:
    """One RL run from outside the loop: its figures along the way, its best policy, its states and its end."""

    def __init__(self, run: Run, stage: Stage, machines: Machines, valid: Sequence[Prompt], seed: int) -> None:
        self._run, self._stage, self._machines, self._seed = run, stage, machines, seed
        self._prompts = list(valid)[: run.recipe.evaluation.during_rl]
        self._held_out: SFTRows = sft_rows(demonstrations(run)[1][:64], machines.chat)
        self._gold = BrandVoice.load() if run.recipe.collect.labels == "simulated" else None
        self._best: dict[str, Tensor] = {}
        self._at_first: dict[str, float] = {}
        self.monitor = Monitor(run.recipe.monitor, self._tell)

    def _tell(self, alarm: Alarm) -> None:
        """The first alarm of its name, at once; how often it rang stands in the report."""
        if sum(a.name == alarm.name for a in self.monitor.alarms) == 1:
            say(f"  ! update {alarm.step}, {alarm.name}: {alarm.saw}. {alarm.advice} [{alarm.action}]")

    def begin(self, state: RLState, log: Any) -> None:
        """Measures the policy before the first update; it is the first best."""
        figures, state.best_value = self.evaluate(0)
        state.best_step = 0
        self.keep_best(0)
        log(0, figures)

    def resume(self) -> RLState:
        """The state to go on from: a new one, or the last that was saved."""
        found = self._stage.resume()
        if found is None:
            return RLState()
        tensors, facts = found
        self._machines.load_state(tensors)
        self._best = {k.removeprefix("best/"): v for k, v in tensors.items() if k.startswith("best/")}
        self._at_first = facts["at_first"]
        self.monitor.first = facts["first"]
        self.monitor.alarms = [Alarm(**a) for a in facts["alarms"]]
        self._machines.sampler.load(version=facts["state"]["step"])
        self._trim_samples(facts["state"]["step"])
        return RLState(**facts["state"])

    def save(self, state: RLState) -> None:
        with self._machines.watch.phase("saving"):
            self._save(state)

    def _save(self, state: RLState) -> None:
        tensors = self._machines.state() | {f"best/{k}": v for k, v in self._best.items()}
        alarms = [asdict(a) for a in self.monitor.alarms]
        facts = {"state": asdict(state), "at_first": self._at_first, "first": self.monitor.first, "alarms": alarms}
        self._stage.save(state.step, tensors, facts)

    def keep_best(self, step: int) -> None:
        self._best = self._machines.weights()

    def evaluate(self, step: int) -> tuple[dict[str, float], float]:
        """Figures of the present policy on held-out prompts, and the held-out reward by which the best is chosen."""
        with self._machines.watch.phase("evaluation"):
            return self._evaluate(step)

    @torch.no_grad()
    def _evaluate(self, step: int) -> tuple[dict[str, float], float]:
        with self._machines.policy.averaged():
            written = self._machines.sampler.sample(self._prompts, n=1, step=-1)
            logp_BT = self._machines.policy.infer(written.batch)[..., 0]
            ref_BT = self._machines.reference.logp(written.batch)
            answers = take(self._held_out, range(len(self._held_out.rows)))
            lm_loss = -float(self._machines.policy.infer(answers)[..., 0].sum() / answers.mask_BT.sum())
        held_out_B = self._machines.watcher(written.prompts, written.texts)
        figures = {
            "eval_proxy": float(self._machines.score(written.prompts, written.texts).mean()),
            "eval_held_out": float(held_out_B.mean()),
            "eval_held_out_se": float(held_out_B.std() / len(held_out_B) ** 0.5),
            "eval_kl": float(torch.where(written.batch.mask_BT, k1(logp_BT, ref_BT), 0.0).sum(dim=1).mean()),
            "eval_length": float(written.batch.mask_BT.sum(dim=1).float().mean()),
            "eval_refusals": sum(refuses(t) for t in written.texts) / len(written.texts),
            "eval_lm_loss": lm_loss,
        }
        if self._gold:
            finished = written.finished_B.tolist()
            gold = self._gold.score_many(zip(written.prompts, written.texts, finished, strict=True))
            figures["eval_gold"] = sum(gold) / len(gold)
        if step == 0:
            self._at_first = {f"{k}_at_first": figures[k] for k in ("eval_refusals", "eval_lm_loss")}
        self._keep_samples(step, written)
        give_back_memory()
        return figures | self._at_first, figures["eval_held_out"]

    def _trim_samples(self, step: int) -> None:
        """Drops samples of updates that are about to come again."""
        path = self._stage.work / "samples.jsonl"
        kept = [
            line
            for line in path.read_text(encoding="utf-8").splitlines(keepends=True)
            if line.endswith("\n") and json.loads(line)["step"] <= step
        ]
        path.write_text("".join(kept), encoding="utf-8")

    def _keep_samples(self, step: int, written: Rollouts) -> None:
        with (self._stage.work / "samples.jsonl").open("a", encoding="utf-8") as f:
            for prompt, text in list(zip(written.prompts, written.texts, strict=True))[:N_SHOWN]:
                f.write(json.dumps({"step": step, "prompt": prompt.text, "text": text}, ensure_ascii=False) + "\n")

    def publish(self, state: RLState) -> None:
        """The best policy's weights as a plain model, with every alarm and why the run ended."""
        with torch.no_grad():
            for name, p in self._machines.policy.named.items():
                p.copy_(self._best[name])
        model = self._machines.adapter.merge() if self._machines.adapter else self._machines.model
        alarms = [asdict(a) for a in self.monitor.alarms]
        say(
            f"  best policy: update {state.best_step}, held-out reward {state.best_value:.2f}"
            + (f"; stopped: {state.stopped}" if state.stopped else "")
        )
        facts = {
            "stage": self._run.recipe.run.algorithm,
            "weights": weights_sha(model.hf.state_dict()),
            "best_step": state.best_step,
            "best_held_out": state.best_value,
            "stopped": state.stopped,
            "updates": state.step,
            "kl_coef": state.kl_coef,
            "alarms": alarms,
        }
        publish_model(self._stage, model, self._machines.chat, facts)
