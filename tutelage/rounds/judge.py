"""A round's evaluation on unseen prompts: every policy so far side by side, win rates with intervals, and the gate."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from tutelage.algo.kl import k1, k3
from tutelage.data.batch import collate
from tutelage.evals.best_of_n import best_of_n
from tutelage.evals.gate import Verdict, decide
from tutelage.evals.policy import describe
from tutelage.evals.winrate import Judge, win_rate
from tutelage.log import say
from tutelage.publish import published, write_json
from tutelage.reward.scorer import Scorer
from tutelage.rounds.machines import complete, fitting, infer_logp
from tutelage.rounds.prepare import Prompts, version_id
from tutelage.rounds.reward import RewardModels
from tutelage.rounds.run import Run
from tutelage.seed import derive
from tutelage.simulate.gold import BrandVoice
from tutelage.stats.intervals import cluster_bootstrap
from tutelage.types import Completion, Prompt

N_BEST_OF = 128  # prompts of the best-of-n baseline


@dataclass(frozen=True, slots=True)
class Contender:
    """A policy under its name in the report. Example: `Contender("round 1", …/round-1/ppo)`."""

    name: str
    folder: Path


def test_prompts(run: Run, prompts: Prompts, folder: Path) -> list[Prompt]:
    """The unseen prompts that every figure of the report is measured on."""
    chat = run.open_causal(folder)[1]
    return fitting(prompts.test, chat, run.recipe.sampling.max_new_tokens, longest=run.recipe.data.max_prompt_tokens)[
        0
    ][: run.recipe.evaluation.prompts]


def answers(run: Run, contender: Contender, unseen: Sequence[Prompt]) -> list[Completion]:
    """One sampled answer of a policy to each unseen prompt, kept on disk: each policy answers once in a run."""
    version = version_id(contender.folder)
    folder = run.folder / "answers" / version
    if not run.is_done(folder):
        with run.stage(folder, f"{contender.name} answers {len(unseen)} unseen prompts"):
            model, chat = run.open_causal(contender.folder)
            written = complete(
                model,
                chat,
                unseen,
                n=1,
                sampling=run.recipe.sampling,
                engine=run.recipe.engine,
                model_version=version,
                seed=derive(run.recipe.run.seed, "test"),
                precision=run.recipe.compute.precision,
            )
            with published(folder) as aside:
                rows = [c.model_dump_json() + "\n" for c in written]
                (aside / "answers.jsonl").write_text("".join(rows), encoding="utf-8")
    lines = (folder / "answers.jsonl").read_text(encoding="utf-8").splitlines()
    return [Completion.model_validate_json(line) for line in lines]


def gold_judge() -> Judge:
    """The simulated taste itself: what the simulated labellers see through their noise."""
    gold = BrandVoice.load()

    def judge(prompts: Sequence[Prompt], completions: Sequence[Completion]) -> list[float]:
        return gold.score_many(
            (p, c.text, c.finish_reason != "length") for p, c in zip(prompts, completions, strict=True)
        )

    return judge


def reward_judge(scorer: Scorer) -> Judge:
    """A reward model as judge; it must be one that was never optimised against."""

    def judge(prompts: Sequence[Prompt], completions: Sequence[Completion]) -> list[float]:
        return [float(s) for s in scorer(prompts, [c.text for c in completions])]

    return judge


def evaluate(
    run: Run, i_round: int, prompts: Prompts, contenders: Sequence[Contender], best: Contender, rewards: RewardModels
) -> Verdict:
    """Measures the newest contender (the last) against the SFT model and the best so far: is it promoted?"""
    folder = run.folder / f"round-{i_round}" / "evaluation"
    if not run.is_done(folder):
        unseen = test_prompts(run, prompts, contenders[0].folder)
        written = {c.name: answers(run, c, unseen) for c in contenders}
        with run.stage(folder, f"comparing {', '.join(c.name for c in contenders)} on {len(unseen)} unseen prompts"):
            figures = _measure(run, unseen, written, contenders, best, rewards)
            _tell(figures)
            with published(folder) as aside:
                write_json(aside / "figures.json", figures)
                _write_samples(aside, run, unseen, written)
    facts = json.loads((folder / "figures.json").read_text(encoding="utf-8"))
    return Verdict(facts["promoted"], tuple(facts["reasons"]))


def _measure(
    run: Run,
    unseen: Sequence[Prompt],
    written: dict[str, list[Completion]],
    contenders: Sequence[Contender],
    best: Contender,
    rewards: RewardModels,
) -> dict[str, Any]:
    newest = contenders[-1]
    simulated = run.recipe.collect.labels == "simulated"
    proxy, watcher = reward_judge(rewards.scorer(run)), reward_judge(rewards.watcher(run))
    judge = gold_judge() if simulated else watcher
    seed = derive(run.recipe.run.seed, "bootstrap")
    vocabulary = run.open_causal(newest.folder)[0].vocabulary
    policies: dict[str, Any] = {}
    for name, completions in written.items():
        judged, held_out, optimised = (
            judge(unseen, completions),
            watcher(unseen, completions),
            proxy(unseen, completions),
        )
        low, high = cluster_bootstrap(judged, [p.id for p in unseen], seed=seed)
        policies[name] = describe(completions, vocabulary=vocabulary) | {
            "judge": sum(judged) / len(judged),
            "judge_low": low,
            "judge_high": high,
            "held_out": sum(held_out) / len(held_out),
            "proxy": sum(optimised) / len(optimised),
        }
    wins = {
        f"{a} against {b}": asdict(win_rate(unseen, written[a], written[b], judge, seed=seed))
        for a, b in [(newest.name, "SFT"), ("SFT", "base"), (newest.name, best.name), *_against_rounds(newest, written)]
        if a != b
    }
    against_best = wins[f"{newest.name} against {best.name}"]
    divergence = kl_to(run, unseen, written[newest.name], newest, contenders[1])
    pairs = list(zip(written[newest.name], written[best.name], strict=True))
    changed = sum(a.text != b.text for a, b in pairs) / len(pairs)
    beside_best = {"win_low": against_best["low"], "changed": changed}
    verdict = decide(run.recipe.gate, policies[newest.name] | divergence | beside_best)
    return {
        "newest": newest.name,
        "judge": "gold reward of the SIMULATED labellers" if simulated else "held-out reward model",
        "prompts": len(unseen),
        "policies": policies,
        "win_rates": wins,
        "kl": divergence,
        "best_before": best.name,
        "best_of_n": _best_of_n(run, unseen, written["SFT"], contenders[1], proxy, judge, seed),
        "promoted": verdict.promoted,
        "reasons": verdict.reasons,
    }


def _against_rounds(newest: Contender, written: dict[str, list[Completion]]) -> list[tuple[str, str]]:
    return [(newest.name, name) for name in written if name.startswith("round") and name != newest.name]


def kl_to(
    run: Run, unseen: Sequence[Prompt], completions: Sequence[Completion], policy: Contender, reference: Contender
) -> dict[str, float]:
    """KL (nats a sequence) of a policy to its reference on the policy's own answers.

    The means of k1 and k3, with the standard error of k1.
    """
    model, chat = run.open_causal(policy.folder)
    rows = []
    for prompt, c in zip(unseen, completions, strict=True):
        ids = chat.prompt_ids(prompt)
        rows.append(([*ids, *(c.token_ids or ())], [False] * len(ids) + [True] * len(c.token_ids or ())))
    batch, temperature = collate(rows), run.recipe.sampling.temperature
    logp_BT = infer_logp(model, batch, temperature=temperature, compute=run.recipe.compute)
    ref_BT = infer_logp(
        run.open_causal(reference.folder)[0], batch, temperature=temperature, compute=run.recipe.compute
    )
    k1_B, k3_B = (torch.where(batch.mask_BT, f(logp_BT, ref_BT), 0.0).sum(dim=1) for f in (k1, k3))
    return {"kl": float(k1_B.mean()), "kl_se": float(k1_B.std() / len(k1_B) ** 0.5), "kl_k3": float(k3_B.mean())}


def _best_of_n(
    run: Run,
    unseen: Sequence[Prompt],
    single: Sequence[Completion],
    sft: Contender,
    proxy: Judge,
    judge: Judge,
    seed: int,
) -> list[dict[str, Any]]:
    """The cheap baseline: the SFT model answers n times and the optimised reward chooses."""
    ns = run.recipe.evaluation.best_of
    if not ns:
        return []
    part, group = list(unseen[:N_BEST_OF]), max(ns)
    model, chat = run.open_causal(sft.folder)
    many = complete(
        model,
        chat,
        part,
        n=group,
        sampling=run.recipe.sampling,
        engine=run.recipe.engine,
        model_version=version_id(sft.folder),
        seed=derive(run.recipe.run.seed, "best of n"),
        precision=run.recipe.compute.precision,
    )
    repeated = [p for p in part for _ in range(group)]
    scores = proxy(repeated, many)
    found = []
    for n in ns:
        chosen = best_of_n(many, scores, n, group=group)
        rate = win_rate(part, chosen.chosen, single[: len(part)], judge, seed=seed)
        found.append({"best_of": n, "kl": chosen.kl, **asdict(rate)})
    return found


def _write_samples(aside: Path, run: Run, unseen: Sequence[Prompt], written: dict[str, list[Completion]]) -> None:
    shown = [
        {"prompt": [m.model_dump() for m in p.messages], "answers": {name: c[i].text for name, c in written.items()}}
        for i, p in enumerate(unseen[: run.recipe.evaluation.shown])
    ]
    write_json(aside / "samples.json", shown)


def _tell(figures: dict[str, Any]) -> None:
    for name, w in figures["win_rates"].items():
        say(
            f"  {name}: wins {w['rate']:.1%} (95 %: {w['low']:.1%} to {w['high']:.1%}, n {w['n']}; "
            f"judge: {figures['judge']})"
        )
    say(f"  KL to the SFT model {figures['kl']['kl']:.2f} +- {figures['kl']['kl_se']:.2f} nats a sequence")
    say("  promoted" if figures["promoted"] else "  not promoted: " + "; ".join(figures["reasons"]))
