"""Without a KL price the proxy rises and the gold reward falls, and an alarm rings before half of the gain is lost."""

import importlib.util
from pathlib import Path

import pytest

from tutelage import config
from tutelage.rounds.recipe import Recipe
from tutelage.rounds.round import run_recipe

ROOT = Path(__file__).parents[2]


def _gauge():
    spec = importlib.util.spec_from_file_location("gauge", ROOT / "benchmarks" / "gauge.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _rows(gold):
    return [
        {"step": 4 * i, "eval_gold": g, "eval_proxy": float(i), "eval_held_out": 0.0, "eval_kl": float(i)}
        for i, g in enumerate(gold)
    ]


def _alarm(step, name="KL blow-up"):
    return {"step": step, "name": name}


def test_the_gauge_is_in_time_when_it_rings_before_half_of_the_gain_is_lost():
    # Gold goes 0, 1, 2, 0.9: the gain is 2, half of it is lost at update 12.
    rows = _rows([0.0, 1.0, 2.0, 0.9])
    found = _gauge().judge(rows, [_alarm(9), _alarm(3, "alignment tax")])
    assert found["half_of_the_gain_lost_at"] == 12
    assert found["in_time"] and found["alarms"]["KL blow-up"] == 9
    assert found["gold"] == {"start": 0.0, "peak": 2.0, "peak_at": 8, "end": 0.9}


def test_the_gauge_is_late_after_that_and_other_alarms_do_not_count():
    rows = _rows([0.0, 1.0, 2.0, 0.9, 0.5])
    assert not _gauge().judge(rows, [_alarm(13)])["in_time"]
    assert not _gauge().judge(rows, [_alarm(3, "alignment tax")])["in_time"]


@pytest.mark.slow
@pytest.mark.timeout(1800)  # four minutes on a quiet core
def test_without_a_kl_price_the_proxy_rises_and_the_gold_reward_falls(tmp_path):
    recipe = config.load(Recipe, ROOT / "recipes" / "overoptimise.toml", ["run.threads=1"])
    run_recipe(recipe, tmp_path / "run", until="rl")
    found = _gauge().read(tmp_path / "run")
    assert found["proxy"]["end"] > found["proxy"]["start"] + 1
    assert found["gold"]["end"] < found["gold"]["peak"] - 1
    assert found["in_time"]
