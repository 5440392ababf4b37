"""The story: what it says follows from the figures, above all when the run failed."""

import pytest

from tutelage.report.read import read_run
from tutelage.report.story import outcome, tell, verdict_of
from tutelage.report.tables import alarms


def told(made, upto="end"):
    story = tell(read_run(made.write(upto)))
    return story, " ".join(text for chapter in story.chapters for _, text in chapter.parts)


def test_a_win_is_told_with_interval_and_n(make):
    story, text = told(make())
    assert story.verdict == "won"
    assert story.headline == (
        "The final policy (round 2) beats the supervised model: it wins 82.0% of 400 unseen prompts "
        "(95% interval 78.2% to 85.8%)."
    )
    assert "2 SIMULATED labellers gave 500 rankings; 15.0% of the pairs were ties." in text
    assert "orders 71.2% of 812 unseen pairs (67.1% to 75.3%)" in text
    assert "the best policy by held-out reward is the one after 12 updates. 1 alarm rang: length hacking." in text
    assert "That cost 5.61 ± 0.22 nats of KL a sequence. The gate promoted it." in text
    assert "SIMULATED" in story.warning


def test_a_loss_is_called_a_loss(make):
    story, text = told(make(rates=(0.41, 0.38), promoted=(False, False)))
    assert story.verdict == "lost"
    assert story.headline.startswith(
        "No policy was promoted: the supervised model stays. Round 2 loses to it: it wins 38.0%"
    )
    assert "The gate did not promote it: its win rate against the best policy so far may be as low as 33.2%" in text


def test_a_policy_that_loses_though_it_was_promoted_is_not_called_a_win(make):
    story, _ = told(make(rates=(0.30,), promoted=(True,), rounds=1))
    assert story.verdict == "lost" and "loses to the supervised model: it wins 30.0%" in story.headline


def test_an_interval_over_one_half_is_neither_won_nor_lost(make):
    story, _ = told(make(rates=(0.52,), promoted=(False,), rounds=1))
    assert story.verdict == "open" and "Round 1 cannot be told apart from it" in story.headline


def test_a_later_round_that_was_not_promoted_leaves_the_earlier_one(make):
    made = make(rates=(0.71, 0.55), promoted=(True, False))
    story, _ = told(made)
    assert story.headline.startswith("The final policy (round 1) beats the supervised model: it wins 71.0%")
    assert story.headline.endswith("Round 2 was not promoted.")
    assert {t.title: t.value for t in story.tiles}["Gate"] == "1 of 2"


def test_a_stopped_run_says_why(make):
    stopped = "entropy collapse: entropy 0.210, at first 1.400"
    story, text = told(make(stopped=stopped))
    assert f"and was stopped ({stopped})" in text
    assert next(t for t in story.tiles if t.title == "Alarms").more == "one stopped RL"


def test_no_alarm_is_said_too(make):
    _, text = told(make(alarms=()))
    assert "No alarm rang." in text


def test_a_win_that_is_all_length_is_told(make):
    _, text = told(make(rates=(0.52, 0.52), promoted=(True, True)))
    assert "At equal lengths the win is gone" in text  # 49 % at equal lengths


def test_before_the_first_evaluation_there_is_no_outcome(make):
    folder = make().write("rl")
    run = read_run(folder)
    assert outcome(run) is None and tell(run).verdict == "unfinished"
    assert tell(run).headline == "Not finished: PPO from sft-1."


@pytest.mark.parametrize(
    ("low", "high", "verdict"), [(0.51, 0.6, "won"), (0.4, 0.49, "lost"), (0.5, 0.6, "open"), (0.45, 0.5, "open")]
)
def test_a_verdict_needs_the_whole_interval(low, high, verdict):
    assert verdict_of({"low": low, "high": high}) == verdict


def test_an_alarm_that_rings_again_stands_once(make):
    one = {"step": 4, "name": "no end", "saw": "12%", "cause": "c", "advice": "a", "action": "warn"}
    run = read_run(make(rounds=1, alarms=(one, {**one, "step": 9, "saw": "20%"}, {**one, "name": "other"})).write())
    rows = alarms(run)
    assert [(r.where, r.facts["saw"], r.first) for r in rows] == [
        ("round 1, updates 4, 9", "20%", "12%"),
        ("round 1, update 4", "12%", ""),
    ]
