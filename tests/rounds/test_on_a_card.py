"""A whole round on a device that is not the processor (`card.py`): every stage finds its tensors where they are."""

import json
from pathlib import Path

import pytest
import torch

from tutelage import config
from tutelage.errors import ConfigError
from tutelage.model.device import find_device
from tutelage.model.load import load_causal
from tutelage.rounds.recipe import Recipe, resolved
from tutelage.rounds.round import run_recipe

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


def test_a_device_that_is_not_here_is_refused_with_what_to_do():
    with pytest.raises(ConfigError, match="torch knows no such device"):
        find_device("gpu")
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="'cuda' is not here"):
            resolved(config.load(Recipe, TINY, ["run.device=cuda"]))
