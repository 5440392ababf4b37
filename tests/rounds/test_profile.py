"""Where the time of an RL loop goes: the table adds up, names every phase, and changes no number of the run."""

import json
import mmap
import shutil
from pathlib import Path

import pytest
import torch

from tutelage import config
from tutelage.rounds.peak_memory import PeakMemory, resident
from tutelage.rounds.profile import Profile, lines, tabulate
from tutelage.rounds.recipe import Recipe
from tutelage.rounds.round import run_recipe
from tutelage.stopwatch import Spent

TINY = Path(__file__).parents[2] / "benchmarks" / "tiny.toml"
SPENT = {
    (): Spent(1.0, 1_000_000_000),
    ("sampling",): Spent(2.0, 3_000_000_000),
    ("sampling", "prefill"): Spent(3.0, 3_000_000_000),
    ("scoring",): Spent(4.0, 2_000_000_000),
}


def test_the_table_by_hand():
    facts = tabulate(SPENT, 2)
    assert (facts["updates"], facts["seconds"]) == (2, 5.0)
    assert [(r["phase"], r["part"], r["seconds"], r["share"], r["peak_gb"]) for r in facts["phases"]] == [
        ("sampling", "", 2.5, 0.5, 3.0),
        ("sampling", "prefill", 1.5, 0.3, 3.0),
        ("sampling", "other", 1.0, 0.2, 3.0),
        ("scoring", "", 2.0, 0.4, 2.0),
        ("rest", "", 0.5, 0.1, 1.0),
    ]
    said = list(lines(facts | {"memory": "resident set at most"}))
    assert said[0] == "  an update took 5 s (mean of 2); memory: resident set at most"
    assert said[3].split() == ["prefill", "1.500", "30.0%", "3.00"]


def test_peak_memory_is_of_the_time_since_it_was_last_asked():
    memory = PeakMemory(torch.device("cpu"))
    if memory.meaning != "resident set at most":
        pytest.skip("this system does not let a process set its peak back")
    memory()
    before = memory()
    held = mmap.mmap(-1, 64 << 20)  # not malloc's, which may keep what it was given back
    torch.frombuffer(held, dtype=torch.uint8).fill_(1)
    held.close()
    during, after = memory(), memory()
    assert during - before > 60 << 20 and after < during - (30 << 20)
    assert memory.most_resident >= during and abs(resident() - after) < 30 << 20


def test_a_loop_without_an_update_leaves_no_table(tmp_path):
    Profile(torch.device("cpu")).finish(tmp_path, 0)
    assert not list(tmp_path.iterdir())


PARTS = {
    "sampling": {"prefill", "decode", "other"},
    "scoring": set(),
    "reference": set(),
    "old log-probabilities": set(),
    "update": {"forward", "backward", "optimizer", "other"},
    "evaluation": {"sampling", "prefill", "decode", "reference", "scoring", "other"},
    "saving": set(),
    "rest": set(),
}


SHORT = ("updates=2", "prompts_per_update=4", "eval_every=2", "save_every=1")


@pytest.fixture(scope="module")
def recipe(tiny_base):
    """(algorithm, settings) -> a recipe of two updates."""

    def make(algorithm, *settings):
        short = [f"{name}.{s}" for name in ("ppo", "rloo") for s in SHORT]
        quick = [f"base={tiny_base}", "sft.epochs=1", "collect.prompts=40", f"run.algorithm={algorithm}"]
        return config.load(Recipe, TINY, [*quick, *short, *settings])

    return make


@pytest.fixture(scope="module")
def before_rl(recipe, tmp_path_factory):
    """A run as far as its reward models, which do not depend on the algorithm."""
    folder = tmp_path_factory.mktemp("runs") / "before"
    run_recipe(recipe("ppo"), folder, until="reward")
    return folder


@pytest.mark.parametrize("algorithm", ["ppo", "rloo"])
def test_a_run_with_a_profile_ends_with_the_same_bytes(recipe, before_rl, tmp_path, algorithm):
    plain, watched = tmp_path / "plain", tmp_path / "watched"
    for folder, settings in ((plain, ()), (watched, ("run.profile=true",))):
        shutil.copytree(before_rl, folder)
        file = folder / "config.toml"
        file.write_text(file.read_text().replace('algorithm = "ppo"', f'algorithm = "{algorithm}"'))
        # The directory was started without the switch, which makes no other recipe of it.
        run_recipe(recipe(algorithm, *settings), folder, until="rl")
    stage = f"round-1/{algorithm}"
    for file in (f"{stage}/model.safetensors", f"{stage}/metrics.jsonl", f"{stage}/lineage.json"):
        assert (plain / file).read_bytes() == (watched / file).read_bytes(), file
    assert not (plain / stage / "profile.json").exists()
    facts = json.loads((watched / stage / "profile.json").read_text())
    assert facts["updates"] == 2
    found = {r["phase"]: set() for r in facts["phases"]}
    for row in facts["phases"]:
        found[row["phase"]] |= {row["part"]} - {""}
    assert found == PARTS | ({"values": set()} if algorithm == "ppo" else {})
    assert sum(r["share"] for r in facts["phases"] if not r["part"]) == pytest.approx(1)
    assert all(r["seconds"] > 0 and r["peak_gb"] > 0 for r in facts["phases"])
