"""The monitor: what it averages, what it remembers, and what an ignored alarm may still do."""

import math

import pytest

from tutelage.errors import TrainingError
from tutelage.train.monitor import Monitor, MonitorConfig


def monitor(**config):
    told = []
    return Monitor(MonitorConfig(**config), report=told.append), told


def calm(**more):
    zero = ("kl", "kl_se", "zero_std_groups", "length_corr", "unfinished", "empty", "mismatch_mean", "first_token_kl")
    return (
        dict.fromkeys(zero, 0.0)
        | {"length": 5.0, "repetition": 1.0, "entropy": 1.0, "unique": 1.0, "kl_coef": 0.1}
        | more
    )


def test_figures_of_an_update_are_means_over_its_minibatches():
    watch, _ = monitor()
    watch.before_update(0, calm(), None)
    assert watch.after_minibatch(0, 0, 0, {"loss": 1.0, "clip_frac": 0.0}) == {"loss": 1.0, "clip_frac": 0.0}
    assert watch.after_minibatch(0, 0, 1, {"loss": 4.0, "clip_frac": 0.5}) == {"loss": 2.5, "clip_frac": 0.25}
    watch.before_update(1, calm(), None)
    assert watch.after_minibatch(1, 0, 0, {"loss": 7.0}) == {"loss": 7.0}


def test_a_skipped_minibatch_is_counted_and_hides_no_other_figure():
    watch, _ = monitor()
    watch.before_update(0, calm(), None)
    broken = {"loss": math.nan, "grad_norm": math.inf, "max_ratio_error": math.nan, "skipped": 1.0}
    assert watch.after_minibatch(0, 0, 0, broken) == {"skipped": 1.0}
    found = watch.after_minibatch(0, 0, 1, {"loss": 2.0, "grad_norm": 0.5, "skipped": 0.0})
    assert found == {"skipped": 0.5, "loss": 2.0, "grad_norm": 0.5}
    assert watch.after_update(0, [calm(**found)]) == ""
    assert [a.name for a in watch.alarms] == ["not finite"]


def test_alarms_are_told_once_kept_and_dated():
    watch, told = monitor()
    watch.before_update(4, calm(unfinished=0.5), None)
    assert told == watch.alarms and len(told) == 1
    assert (told[0].step, told[0].name, told[0].action) == (4, "no end", "warn")
    assert "50%" in told[0].saw and told[0].cause and told[0].advice


def test_an_abort_says_what_was_seen_why_and_what_to_do():
    watch, told = monitor()
    with pytest.raises(
        TrainingError, match=r"update 2, degenerate groups: .* Likely cause: a constant reward"
    ) as caught:
        watch.before_update(2, calm(zero_std_groups=1.0), None)
    assert told[0].advice in str(caught.value) and [a.action for a in told] == ["abort"]


@pytest.mark.parametrize(("name", "figures"), [("KL blow-up", {"kl": 50.0}), ("optimiser off", {"grad_norm": 0.0})])
def test_an_ignored_alarm_only_warns(name, figures):
    watch, told = monitor(ignore=(name,))
    watch.before_update(3, calm(), None)
    assert watch.after_update(3, [calm(), calm(**figures)]) == ""
    assert [(a.name, a.action) for a in told] == [(name, "warn")]


def test_tolerances_come_from_the_settings():
    for tolerance, alarms in ((0.02, []), (1e-4, ["ratio"])):
        watch, _ = monitor(ratio_tolerance=tolerance, ignore=("ratio",))
        watch.before_update(0, calm(), None)
        watch.after_minibatch(0, 0, 0, {"max_ratio_error": 0.01})
        assert [a.name for a in watch.alarms] == alarms
    for tolerance, alarms in ((0.05, []), (0.01, ["sampler mismatch"])):
        watch, _ = monitor(mismatch_tolerance=tolerance)
        watch.before_update(0, calm(mismatch_mean=0.02), None)
        assert [a.name for a in watch.alarms] == alarms


def test_what_says_something_of_the_sampled_policy_counts_before_the_first_step_alone():
    watch, told = monitor(mismatch_tolerance=0.01)
    metrics = calm()
    del metrics["entropy"], metrics["mismatch_mean"]
    watch.before_update(0, metrics, None)
    watch.after_minibatch(0, 0, 0, {"loss": 1.0, "entropy": 2.0, "mismatch_mean": 0.02})
    found = watch.after_minibatch(0, 0, 1, {"loss": 3.0, "entropy": 0.1, "mismatch_mean": 0.9})
    assert found == {"loss": 2.0, "entropy": 2.0, "mismatch_mean": 0.02}
    assert [a.name for a in told] == ["sampler mismatch"]


def test_at_first_means_the_first_update_of_the_run_even_after_a_kill():
    whole, _ = monitor()
    resumed, _ = monitor()
    history = [calm(entropy=2.0), calm(entropy=0.7)]
    whole.before_update(0, history[0], None)
    resumed.resume(history)
    for watch in (whole, resumed):
        watch.before_update(2, calm(entropy=0.5), None)
        stopped = watch.after_update(2, [*history, calm(entropy=0.5)])
        assert stopped.startswith("entropy collapse: entropy 0.500, at first 2.000")
    unaware, _ = monitor()
    unaware.resume([])
    unaware.before_update(0, calm(entropy=0.5), None)
    assert unaware.first["entropy"] == 0.5
