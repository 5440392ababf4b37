"""A whole round on a device that is not the processor (`card.py`): every stage finds its tensors where they are."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tutelage import config
from tutelage.data.corpus import CorpusSource
from tutelage.errors import ConfigError
from tutelage.model.causal import CausalModel
from tutelage.model.device import find_device
from tutelage.model.load import load_causal
from tutelage.rounds.model_checks import model_checks
from tutelage.rounds.prepare import base
from tutelage.rounds.pretraining import PretrainRecipe
from tutelage.rounds.recipe import Recipe, resolved
from tutelage.rounds.round import run_recipe
from tutelage.rounds.run import open_run
from tutelage.train.pretrain import PretrainConfig

TINY = Path(__file__).parents[2] / "benchmarks" / "tiny.toml"
SHORT = (
    "run.precision=fp32", "sft.epochs=1", "sft.batch_size=64", "collect.prompts=30", "collect.completions=2",
    "sampling.max_new_tokens=8", "ppo.updates=3", "rloo.updates=3", "ppo.prompts_per_update=4",
    "rloo.prompts_per_update=4", "evaluation.prompts=8", "evaluation.during_rl=4", "evaluation.best_of=[]",
)  # fmt: skip
WAYS = {
    "ppo": (
        "gradient_checkpointing=true", "reward_stage.heads=sources", "reward.head_prior=0.7", "reward_stage.members=2",
        "reward_stage.combine=worst",
    ),
    "rloo on an adapter": (
        "run.algorithm=rloo", "lora.rank=2", "reward_stage.ngram_cells=64", "reward.head_prior=0.7", "ema_decay=0.9",
    ),
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_a_round_runs_to_its_end(way, tiny_base, tmp_path, card):
    folder = tmp_path / "run"
    settings = [f"base={tiny_base}", f"run.device={card.NAME}", *SHORT, *WAYS[way]]
    run_recipe(config.load(Recipe, TINY, settings), folder)
    [metrics] = (folder / "round-1").glob("*o/metrics.jsonl")
    updates = [row for row in map(json.loads, metrics.read_text().splitlines()) if "kl" in row]
    assert len(updates) == 3
    # The first update's policy is the reference, and the sampler's log-probabilities are the learner's.
    assert abs(updates[0]["kl"]) < 1e-4 and updates[0]["mismatch_mean"] < 1e-4
    assert 'device = "card' in (folder / "config.toml").read_text()
    assert (folder / "round-1" / "evaluation" / "figures.json").is_file()
    assert load_causal(str(metrics.parent), device="cpu")[0].device.type == "cpu"


def test_the_doctor_looks_at_a_model_where_it_would_run(tiny_base, card, monkeypatch):
    monkeypatch.setenv("TUTELAGE_DEVICE", card.NAME)
    assert load_causal(str(tiny_base))[0].device.type == card.NAME
    checks, _ = model_checks(str(tiny_base))
    assert checks and all(c.state == "ok" for c in checks), checks


def test_a_base_model_is_trained_on_the_device_of_its_run(tmp_path, card, monkeypatch):
    text = tmp_path / "text.jsonl"
    rows = [{"text": f"The pool is open until {i}. The kettle is on the shelf of room {i % 7}."} for i in range(200)]
    text.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    own = PretrainRecipe(
        sources=(CorpusSource(path=str(text)),),
        pretrain=PretrainConfig(vocabulary=320, width=16, layers=1, heads=2, window=64, batch_tokens=256, updates=2),
        precision="fp32",
    )
    run_recipe_base = replace(config.load(Recipe, TINY, [f"run.device={card.NAME}"]), pretraining=own)
    moved, to = [], CausalModel.to
    monkeypatch.setattr(CausalModel, "to", lambda self, device: (moved.append(str(device)), to(self, device))[1])
    with open_run(run_recipe_base, tmp_path / "run") as run:
        base(run)
    assert moved and set(moved) == {card.NAME}


def test_a_directory_of_an_older_version_stays_on_the_processor(tmp_path, card, monkeypatch):
    monkeypatch.setenv("TUTELAGE_DEVICE", card.NAME)
    (tmp_path / "config.toml").write_text('[run]\nthreads = 1\nprecision = "fp32"\n', encoding="utf-8")
    with open_run(None, tmp_path) as run:
        assert run.recipe.run.device == "cpu"
    with open_run(config.load(Recipe, TINY, []), tmp_path / "new") as run:
        assert run.recipe.run.device == card.NAME


def test_a_device_that_is_not_here_is_refused_with_what_to_do():
    with pytest.raises(ConfigError, match="torch knows no such device"):
        find_device("gpu")
    with pytest.raises(ConfigError, match="float64"):
        find_device("mps")
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="'cuda' is not here"):
            resolved(config.load(Recipe, TINY, ["run.device=cuda"]))
