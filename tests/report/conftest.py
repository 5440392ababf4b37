"""Run directories as the writers in `tutelage/rounds` leave them, made of invented figures."""

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tutelage.publish import published, write_json
from tutelage.store.completions import add_completions
from tutelage.store.db import Store, open_store
from tutelage.store.feedback import record_many
from tutelage.store.lineage import add_model_version
from tutelage.store.people import add_labeler
from tutelage.store.prompts import add_prompts
from tutelage.store.snapshot import freeze
from tutelage.types import (
    Completion,
    DemonstrationGiven,
    Feedback,
    Labeler,
    Message,
    ModelVersion,
    Prompt,
    RankedItem,
    Ranking,
)

CONFIG = """base = "bundled"
[run]
rounds = {rounds}
algorithm = "{algorithm}"
[data]
demonstrations = ["demo"]
prompts = ["demo", "hh-harmless.jsonl"]
comparisons = []
[collect]
labels = "{labels}"
[simulate]
n_labelers = 2
[kl]
target = 6.0
budget = 12.0
[ppo]
updates = 20
[rloo]
updates = 20
[evaluation]
best_of = [4, 16]
"""
QUESTIONS = ["Can I move my booking?", "Where is the kettle?", "Is the pool open today?"]
ALARM = {
    "step": 12, "name": "length hacking", "saw": "answers are 1.7 times as long as at first",
    "cause": "a reward model that likes length",
    "advice": "Balance lengths in the comparisons.", "action": "warn",
}  # fmt: skip


def win(rate: float, n: int = 400) -> dict[str, Any]:
    half = 1.96 * math.sqrt(rate * (1 - rate) / n)
    wins = round(rate * n) - 10
    return {
        "rate": rate, "low": rate - half, "high": rate + half, "wins": wins, "ties": 20, "n": n,
        "length_controlled": rate - 0.03,
    }  # fmt: skip


@dataclass
class Made:
    """What a test may turn before the directory is written."""

    folder: Path
    labels: str = "simulated"
    algorithm: str = "ppo"
    rounds: int = 2
    rates: tuple[float, ...] = (0.71, 0.82)  # of each round against SFT
    promoted: tuple[bool, ...] = (True, True)
    alarms: tuple[dict[str, Any], ...] = (ALARM,)
    stopped: str = ""
    questions: tuple[str, ...] = tuple(QUESTIONS)
    said: str = "Of course. Which day suits you?"
    labeler: str = "sim-1"
    source: str = "demo"
    profile: dict[str, Any] | None = None

    def write(self, upto: str = "end") -> Path:
        """upto  `sft` (under way), `rl` (round 1 under way) or `end`"""
        self.folder.mkdir(parents=True)
        config = CONFIG.format(rounds=self.rounds, algorithm=self.algorithm, labels=self.labels)
        (self.folder / "config.toml").write_text(config)
        self.stages: dict[str, Any] = {}
        with open_store(self.folder / "store.db") as store:
            self._store(store)
            self._sft(store, is_done=upto != "sft")
            for i in range(1, self.rounds + 1) if upto != "sft" else ():
                self._round(store, i, is_done=upto == "end")
                if upto == "rl":
                    break
        if upto == "end":
            self._finish()
        write_json(self.folder / "state.json", {"stages": self.stages})
        return self.folder

    def _prompts(self) -> list[Prompt]:
        return [Prompt(messages=(Message(role="user", content=q),), source=self.source) for q in self.questions]

    def _store(self, store: Store) -> None:
        prompts = self._prompts()
        add_prompts(store, prompts)
        groups = [[Completion(prompt_id=p.id, text=f"{self.said} {k}", sample=k) for k in range(3)] for p in prompts]
        add_completions(store, [c for g in groups for c in g])
        kind = {"simulated": "simulated", "people": "human", "imported": "import"}[self.labels]
        add_labeler(store, Labeler(pseudonym=self.labeler, kind=kind))  # type: ignore[arg-type]
        add_labeler(store, Labeler(pseudonym="import-demo", kind="import"))
        events = []
        for i, g in enumerate(groups):
            items = tuple(RankedItem(completion_id=c.id, tier=k + 1) for k, c in enumerate(g))
            events.append(
                Feedback(
                    labeler=self.labeler,
                    prompt_id=g[0].prompt_id,
                    judgement=Ranking(items=items),
                    idempotency_key=f"r{i}",
                )
            )
            given = DemonstrationGiven(completion_id=g[0].id)
            events.append(
                Feedback(labeler="import-demo", prompt_id=g[0].prompt_id, judgement=given, idempotency_key=f"d{i}")
            )
        record_many(store, events)

    def _done(self, name: str, seconds: float) -> None:
        self.stages[name] = {"state": "done", "what": f"stage {name}", "seconds": seconds}

    def _sft(self, store: Store, *, is_done: bool) -> None:
        self.demonstrations = freeze(store, self.folder / "snapshots" / "demonstrations")
        self._done("material", 3.5)
        rows: list[dict[str, Any]] = [{"step": i, "loss": 3.0 - 0.05 * i, "tokens": 100.0} for i in range(20)]
        rows.append({"step": 19, "held_out_loss": 2.05, "epoch": 1.0})
        add_model_version(store, ModelVersion(id="base-0", stage="base", weights_sha="base", path="base"))
        if not is_done:
            self.stages["sft"] = {"state": "running", "what": "learning from 611 demonstrations"}
            work = self.folder / "work" / "sft"
            work.mkdir(parents=True)
            (work / "metrics.jsonl").write_text(lines(rows) + '{"step": 20, "lo')  # a kill cut the last row short
            return
        with published(self.folder / "sft") as aside:
            (aside / "metrics.jsonl").write_text(lines(rows))
            write_json(
                aside / "lineage.json",
                {
                    "stage": "sft",
                    "weights": "sft",
                    "held_out_loss": 2.05,
                    "epoch": 1,
                    "demonstrations": 611,
                    "too_long": 0,
                },
            )
        self._done("sft", 184.0)
        add_model_version(
            store,
            ModelVersion(
                id="sft-1",
                stage="sft",
                weights_sha="sft",
                parent="base-0",
                snapshot=self.demonstrations.hash,
                path="sft",
            ),
        )

    def _round(self, store: Store, i: int, *, is_done: bool) -> None:
        top = self.folder / f"round-{i}"
        if self.labels != "imported":
            with published(top / "labels") as aside:
                simulated = {
                    "simulated": True,
                    "rankings": 500,
                    "pairs": 3000,
                    "ties": 450,
                    "agreement": 0.731,
                    "accuracy": 0.812,
                    "noise": 0.9,
                }
                people = {"simulated": False, "rankings": 480}
                write_json(aside / "labels.json", simulated if self.labels == "simulated" else people)
        card = freeze(store, self.folder / "snapshots" / f"{i:04d}")
        for name in ("reward-0", "reward-held-out"):
            self._reward(store, top / name, card.hash)
        with published(top / "learning-curve") as aside:
            write_json(aside / "curve.json", [
                {"rankings": n, "accuracy": a, "accuracy_low": a - 0.05, "accuracy_high": a + 0.05, "n": 300,
                "by_source": {}}
                for n, a in ((100, 0.61), (200, 0.66), (400, 0.71))
            ])  # fmt: skip
        self._rl(store, i, is_done=is_done)
        if is_done:
            self._evaluation(top, i)

    def _reward(self, store: Store, folder: Path, snapshot: str) -> None:
        def part(n: int, accuracy: float) -> dict[str, Any]:
            return {"n": n, "accuracy": accuracy, "low": accuracy - 0.06, "high": accuracy + 0.06}

        card = {
            "n": 812, "n_ties": 90, "accuracy": 0.712, "accuracy_low": 0.671, "accuracy_high": 0.753,
            "accuracy_better_second": 0.712,
            "ece": 0.041, "temperature": 1.21, "longer_wins_accuracy": 0.554, "when_longer_wins": part(450, 0.78),
            "when_shorter_wins": part(362, 0.63),
            "length_corr": 0.21, "agreement": 0.731, "by_source": {"round-1": part(812, 0.712)},
            "by_labeler": {self.labeler: part(812, 0.712)},
            "reliability": [[0.53, 0.55, 200], [0.63, 0.61, 180], [0.73, 0.75, 150], [0.83, 0.79, 160], [0.93, 0.9,
            122]],
            "rankings": 350, "too_long": 0, "log_tie": -0.7, "train_score_p999": 2.4,
        }  # fmt: skip
        with published(folder) as aside:
            rows = [{"step": k, "loss": 0.9 - 0.01 * k, "accuracy": 0.5 + 0.01 * k} for k in range(20)]
            (aside / "metrics.jsonl").write_text(lines(rows))
            write_json(
                aside / "reward.json", {"kind": "causal", "aspects": {"overall": 1.0}, "probes": [], "card": card}
            )
            write_json(aside / "lineage.json", {"stage": "reward", "snapshot": snapshot, "weights": str(folder)})
        self._done(str(folder.relative_to(self.folder)), 95.0)
        version = f"reward-{folder.parent.name}-{folder.name}"
        add_model_version(
            store,
            ModelVersion(
                id=version, stage="reward", weights_sha=version, parent="sft-1", snapshot=snapshot, path=str(folder)
            ),
        )

    def rl_rows(self) -> list[dict[str, Any]]:
        """20 updates with an evaluation after every 4,
        and one before the first. Held-out reward is highest after 12."""

        def evaluation(done: int) -> dict[str, float]:
            gold = {"eval_gold": 0.4 + 0.1 * done - 0.004 * done**2} if self.labels == "simulated" else {}
            return {
                "eval_proxy": 0.1 * done, "eval_held_out": 0.12 * done - 0.005 * done**2, "eval_held_out_se": 0.08,
                "eval_kl": 0.3 * done,
                "eval_length": 14.0 + done, "eval_refusals": 0.0, "eval_lm_loss": 2.0, **gold,
            }  # fmt: skip

        rows: list[dict[str, Any]] = [{"step": 0, **evaluation(0)}]
        for k in range(20):
            row = {
                "step": k, "score": 0.1 * k, "reward": 0.1 * k - 0.05, "kl": 0.29 * k, "kl_se": 0.05,
                "entropy": 2.3 - 0.04 * k,
                "length": 14.0 + k, "unfinished": 0.02, "unique": 0.98, "kl_coef": 0.11, "repetition": 1.2,
                "length_corr": 0.2,
                "mismatch_mean": 1e-5, "clip_frac": 0.08, "grad_norm": 1.0, "loss": -0.02, "tokens": 4000.0,
            }  # fmt: skip
            if self.algorithm == "ppo":
                row |= {"explained_variance": 0.02 * k, "value_loss": 0.5 - 0.02 * k}
            rows.append(row | (evaluation(k + 1) if (k + 1) % 4 == 0 else {}))
        return rows

    def _rl(self, store: Store, i: int, *, is_done: bool) -> None:
        name = f"round-{i}/{self.algorithm}"
        rows = self.rl_rows()
        along = [
            {"step": k, "prompt": p.text, "text": f"{self.said} ({k})"} for k in (0, 4, 8) for p in self._prompts()
        ]
        if not is_done:
            work = self.folder / "work" / name
            with published(work / "state" / "step-0000008") as aside:
                write_json(aside / "facts.json", {"step": 8, "alarms": list(self.alarms)})
            (work / "metrics.jsonl").write_text(lines(rows[:10]))
            (work / "samples.jsonl").write_text(lines(along[:4]))
            self.stages[name] = {"state": "running", "what": f"{self.algorithm.upper()} from sft-1"}
            return
        facts = {
            "stage": self.algorithm, "weights": name, "best_step": 12, "best_held_out": 0.72,
            "stopped": self.stopped, "updates": 20,
            "kl_coef": 0.11, "alarms": list(self.alarms),
        }  # fmt: skip
        with published(self.folder / name) as aside:
            (aside / "metrics.jsonl").write_text(lines(rows))
            (aside / "samples.jsonl").write_text(lines(along))
            write_json(aside / "lineage.json", facts)
            if self.profile:
                write_json(aside / "profile.json", self.profile)
        self._done(name, 610.0)
        add_model_version(
            store,
            ModelVersion(
                id=f"{self.algorithm}-{i}", stage=self.algorithm, weights_sha=name, parent="sft-1",
                 # type: ignore[arg-type]
                reward_model=f"reward-round-{i}-reward-0", path=name,
            ),
        )  # fmt: skip

    def _evaluation(self, top: Path, i: int) -> None:
        names = ["base", "SFT", *(f"round {k}" for k in range(1, i + 1))]
        best = next((f"round {k}" for k in range(i - 1, 0, -1) if self.promoted[k - 1]), "SFT")
        policies = {
            n: {
                "length": 15.0, "words": 11.0, "unfinished": 0.02, "empty": 0.0, "unique": 0.97, "refusals": 0.0,
                "distinct_1": 0.2,
                "distinct_2": 0.5, "ead": 0.3, "self_bleu": 0.4, "repetition": 1.3, "judge": 0.3 * k,
                "judge_low": 0.3 * k - 0.1,
                "judge_high": 0.3 * k + 0.1, "held_out": 0.2 * k, "proxy": 0.25 * k,
            } for k, n in enumerate(names)
        }  # fmt: skip
        wins = {"SFT against base": win(0.93), f"round {i} against SFT": win(self.rates[i - 1])}
        wins |= {f"round {i} against round {k}": win(0.61) for k in range(1, i)}
        judge = "gold reward of the SIMULATED labellers" if self.labels == "simulated" else "held-out reward model"
        low = wins[f"round {i} against {best}"]["low"]
        reasons = (
            []
            if self.promoted[i - 1]
            else [f"its win rate against the best policy so far may be as low as {low:.1%} (asked: 50%)"]
        )
        figures = {
            "newest": f"round {i}", "judge": judge, "prompts": 400, "policies": policies, "win_rates": wins,
            "kl": {"kl": 5.61, "kl_se": 0.11, "kl_k3": 5.7}, "best_before": best, "promoted": self.promoted[i - 1],
            "reasons": reasons,
            "best_of_n": [{"kl": 0.636, **win(0.62, 128)}, {"kl": 1.835, **win(0.7, 128)}],
        }  # fmt: skip
        samples = [
            {"prompt": [m.model_dump() for m in p.messages], "answers": {n: f"{self.said} {n}" for n in names}}
            for p in self._prompts()
        ]
        with published(top / "evaluation") as aside:
            write_json(aside / "figures.json", figures)
            write_json(aside / "samples.json", samples)
        self._done(f"{top.name}/evaluation", 41.0)

    def _finish(self) -> None:
        best = next((k for k in range(self.rounds, 0, -1) if self.promoted[k - 1]), 0)
        write_json(self.folder / "summary.json", {
            "best": f"round {best}" if best else "SFT", "best_version": f"{self.algorithm}-{best}",
            "best_folder": f"round-{best}/{self.algorithm}",
            "seconds": 1500.0, "peak_memory_gb": 1.91,
        })  # fmt: skip


def lines(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.fixture(scope="session", autouse=True)
def quick_disk() -> Iterator[None]:
    """These directories need not outlive a power cut."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda fd: None)
        yield


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Made]:
    """(settings) -> a run directory that `write` puts on the disk."""
    return lambda **settings: Made(tmp_path / "a-run", **settings)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run that no test changes, but for its report.html."""
    return Made(tmp_path_factory.mktemp("finished") / "a-run").write()
