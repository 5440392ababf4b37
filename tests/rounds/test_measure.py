"""Measured against numbers that are known: scores of a model by hand, a planted judge, policies that are equal."""

import json

import pytest
import torch

from tutelage.engine.request import SamplingConfig
from tutelage.errors import DataError
from tutelage.reward.scorer import Scorer
from tutelage.rounds import measure

SHORT = SamplingConfig(max_new_tokens=6)
PAIRS = [
    {"prompt": "Is the pool open?", "chosen": "Yes, until eight.", "rejected": "No.", "source": "a"},
    {"prompt": "Where is the kettle?", "chosen": "On the shelf.", "rejected": "By the window, I think.", "source": "b"},
    {"prompt": "Hello", "chosen": "Hi.", "rejected": "What?", "margin": 0, "source": "c"},  # a tie
]


@pytest.fixture
def rows(tmp_path):
    def make(*found, name="rows.jsonl"):
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in found), encoding="utf-8")
        return path

    return make


@pytest.fixture
def taste(monkeypatch):
    """Every reward model likes long texts: one point a character."""
    monkeypatch.setattr(Scorer, "__call__", lambda self, prompts, texts: torch.tensor([float(len(t)) for t in texts]))


def test_scores_are_those_of_the_scorer_row_by_row(small_reward_folder, rows, ask):
    folder = small_reward_folder()
    found = measure.score(folder, rows(*PAIRS))
    expected = Scorer.load([folder])([ask("Is the pool open?")] * 2, ["Yes, until eight.", "No."]).tolist()
    got = found["rows"][0]
    assert [c["score"] for c in got["completions"]] == pytest.approx(expected, abs=1e-5)
    assert [c["tier"] for c in got["completions"]] == [1, 2] and got["source"] == "a" and "line 1" in got["where"]
    flat = [c["score"] for row in found["rows"] for c in row["completions"]]
    assert found["n"] == 6 and found["mean"] == pytest.approx(sum(flat) / 6)
    assert (found["lowest"], found["highest"]) == (min(flat), max(flat))


def test_what_exceeds_the_window_is_counted_and_left_out(small_reward_folder, rows):
    demo = {"prompt": "Hello", "completion": "Hi."}
    found = measure.score(
        small_reward_folder(), rows(demo, demo | {"completion": "kettle " * 200}, demo | {"prompt": ""})
    )
    assert (found["n"], found["too_long"], found["refused"]) == (1, 1, {"empty text": 1})
    assert found["rows"][0]["completion"] == "Hi."


def test_accuracy_by_hand_whole_and_by_source(small_reward_folder, rows, taste):
    # By length: right in a (17 > 3), wrong in b (13 < 23); c is a tie.
    found = measure.reward([small_reward_folder()], rows(*PAIRS), mode="mean")
    assert (found["n"], found["n_ties"], found["accuracy"], found["longer_wins_accuracy"]) == (2, 1, 0.5, 0.5)
    assert [found["by_source"][s]["accuracy"] for s in "ab"] == [1.0, 0.0]
    assert found["by_source"]["c"]["n"] == 0 and found["by_source"]["c"]["n_ties"] == 1
    assert (
        found["by_source"]["c"]["accuracy"] is None and found["by_source"]["a"].keys() == found["by_source"]["c"].keys()
    )
    assert json.loads(json.dumps(found)) is not None


def test_a_ranking_with_one_text_beyond_the_window_is_left_out_whole(small_reward_folder, rows, taste):
    long = PAIRS[0] | {"prompt": "Hi", "chosen": "kettle " * 200}
    found = measure.reward([small_reward_folder()], rows(*PAIRS, long), mode="mean")
    assert (found["rankings"], found["too_long"], found["n"]) == (3, 1, 2)


def test_an_ensemble_is_joined_as_it_is_told(small_reward_folder, rows):
    both = [small_reward_folder(0), small_reward_folder(1)]
    worst, mean = (measure.reward(both, rows(*PAIRS), mode=mode) for mode in ("worst", "mean"))
    assert worst["combine"] == "worst" and worst["models"] == [str(f) for f in both]
    assert worst["ece"] != mean["ece"]


def test_data_without_anything_to_judge_is_refused(small_reward_folder, rows):
    folder, demo = small_reward_folder(), {"prompt": "Hello", "completion": "Hi."}
    with pytest.raises(DataError, match="no comparison"):
        measure.reward([folder], rows(demo), mode="mean")
    with pytest.raises(DataError, match="all ties"):
        measure.reward([folder], rows(PAIRS[2]), mode="mean")
    with pytest.raises(DataError, match="longer than the reward model's window"):
        measure.score(folder, rows(demo | {"completion": "kettle " * 200}))


def test_a_policy_ties_with_itself_everywhere(small_run, small_reward_folder, rows):
    prompts = rows({"prompt": "Is the pool open?"}, {"prompt": "Hello"}, {"prompt": "Where is the kettle?"})
    sft = str(small_run / "sft")
    found = measure.policy(sft, sft, prompts, small_reward_folder(), sampling=SHORT, seed=3)
    assert (found["rate"], found["ties"], found["wins"], found["losses"]) == (0.5, 3, 0, 0)


def test_the_win_rate_is_that_of_the_judge_and_turns_round(small_run, small_reward_folder, rows, taste):
    prompts = rows({"prompt": "Is the pool open?"}, {"prompt": "Hello"}, {"prompt": "kettle " * 200})
    sft, base, judge = str(small_run / "sft"), str(small_run / "base"), small_reward_folder()
    found = measure.policy(sft, base, prompts, judge, sampling=SHORT, seed=3)
    turned = measure.policy(base, sft, prompts, judge, sampling=SHORT, seed=3)
    assert found["rate"] == pytest.approx(1 - turned["rate"]) and found["wins"] == turned["losses"]
    assert (found["n"], found["too_long"]) == (2, 1)
    assert found["model"]["version"].startswith("sft-") and found["against"]["version"].startswith("base-")
    assert found["model"]["length"] <= 6 and found["low"] <= found["rate"] <= found["high"]
