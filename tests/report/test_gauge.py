"""The gauge: distances, the best policy, the alarms' places, and what is read out of the curves."""

import pytest

from tutelage.report.gauge import best_updates, evaluations, frontier, gauges
from tutelage.report.read import read_run


def test_an_evaluation_before_the_first_update_lies_at_nought():
    rows = [
        {"step": 0, "eval_kl": -0.01, "eval_held_out": 0.0},
        {"step": 0, "kl": 0.0},
        {"step": 9, "kl": 3.9, "eval_kl": 4.0, "eval_held_out": 0.7},
    ]
    assert [(s.updates, s.d) for s in evaluations(rows)] == [(0, 0.0), (10, 2.0)]


def test_best_and_alarm_are_marked(finished):
    run = read_run(finished)
    found = gauges(run)
    assert [g.i for g in found] == [1, 2] and found[0].best_updates == 12
    assert "best: 12 at 1.9" in found[0].rewards  # sqrt(0.3 * 12)
    assert "alarm: 12 at 1.87" in found[0].rewards  # sqrt(0.29 * 12), where the rollouts of update 12 stood
    assert "mark m-best" in found[0].gold and "mark m-alarm" in found[0].gold


def test_a_proxy_that_rises_while_the_others_turn_is_read_as_over_optimisation(finished):
    g = gauges(read_run(finished))[0]
    kinds = {f.kind: f for f in g.fits}
    assert (kinds["optimised"].last, kinds["held-out"].best_updates) == (pytest.approx(2.0), 12)
    assert kinds["gold"].best_updates == 12 and kinds["gold"].fit is not None
    assert "had their peak before (held-out after 12 updates and gold after 12 updates)" in g.reading


def test_without_simulated_labellers_there_is_no_gold(make):
    g = gauges(read_run(make(labels="imported").write()))[0]
    assert [f.kind for f in g.fits] == ["optimised", "held-out"] and g.gold == ""


def test_of_a_stage_under_way_the_best_so_far_is_by_the_same_rule(make):
    run = read_run(make().write("rl"))
    assert best_updates(run, run.rounds[0]) == 8
    g = gauges(run)[0]
    assert all(f.fit is None for f in g.fits)  # two points above nought are too few


def test_the_frontier_holds_rounds_and_best_of_n(finished):
    drawn = frontier(read_run(finished))
    assert "round 1: 71.0%" in drawn and "round 2: 82.0%" in drawn and "best of 16: 62.0% at 0.797" in drawn
