"""Each detector speaks on its own fault and on nothing else; none speaks on a healthy run."""

import pytest

from tutelage.errors import TrainingError
from tutelage.stats.dedupe import normalise
from tutelage.train.detectors import (
    AFTER_UPDATE,
    BEFORE_UPDATE,
    FIRST_MINIBATCH,
    reward_model_alarms,
    split_alarm,
)
from tutelage.train.monitor import Monitor, MonitorConfig

HEALTHY = {
    "score": 0.3, "score_std": 1.0, "reward": 0.25, "kl": 2.0, "kl_se": 0.3, "kl_k3": 2.1, "entropy": 1.4,
    "length": 30.0, "unfinished": 0.03, "empty": 0.0, "unique": 0.98, "repetition": 1.1, "first_token_kl": 0.4,
    "zero_std_groups": 0.02, "length_corr": 0.2, "mismatch_mean": 1e-6, "mismatch_max": 1e-5, "ess": 0.99,
    "kl_coef": 0.1, "explained_variance": 0.4, "vf_clip_frac": 0.05, "clip_frac": 0.04, "grad_norm": 0.8, "loss": 0.1,
    "skipped": 0.0, "value_skipped": 0.0, "score_out_of_range": 0.01, "eval_refusals": 0.04,
    "eval_refusals_at_first": 0.03, "eval_lm_loss": 2.02, "eval_lm_loss_at_first": 2.0, "eval_held_out": 0.5,
    "eval_held_out_se": 0.05, "eval_proxy": 0.6,
}  # fmt: skip
START = HEALTHY | {"kl": 0.0, "kl_se": 0.0, "first_token_kl": 0.0}
RATIO = {"max_ratio_error": 3e-7}


def course(changes=None, *, n=25, ratio=RATIO, ignore=()):
    """The names of all alarms of a run of `n` updates; `changes` of an update gives the metrics that differ there."""
    watch = Monitor(MonitorConfig(kl_target=6.0, ignore=ignore), report=lambda alarm: None)
    history, stopped = [], ""
    for step in range(n):
        now = (START if step == 0 else HEALTHY) | (changes(step) if changes else {})
        watch.before_update(step, now, None)
        watch.after_minibatch(step, 0, 0, ratio)
        watch.after_minibatch(step, 0, 1, {"max_ratio_error": 0.2})  # after a step it is no longer 1
        history.append(now)
        stopped = watch.after_update(step, history)
        if stopped:
            break
    return list(dict.fromkeys(a.name for a in watch.alarms)), stopped


def late(**changes):
    """From update 5 on."""
    return lambda step: changes if step >= 5 else {}


def once(at=15, **changes):
    return lambda step: changes if step == at else {}


def test_a_healthy_run_raises_nothing():
    assert course() == ([], "")


WARNINGS = {
    "negative KL": late(kl=-1.0, kl_se=0.3),
    "tied groups": late(zero_std_groups=0.6),
    "length hacking": late(length=46.0, length_corr=0.6),
    "no end": late(unfinished=0.11),
    "empty answers": once(empty=1.0),
    "sampler mismatch": late(mismatch_mean=0.011),
    "reward out of range": late(score_out_of_range=0.3),
    "repetition": late(repetition=4.5),
    "mode switch": late(first_token_kl=1.7),
    "KL coefficient run-away": late(kl_coef=1.1),
    "useless critic": late(explained_variance=-0.2),
    "clipping": late(clip_frac=0.35),
    "alignment tax": late(eval_lm_loss=2.11),
    "not finite": once(skipped=0.5),
    "gradient jump": once(grad_norm=8.1),
}
STOPS = {
    "KL blow-up": late(kl=12.1),
    "entropy collapse": late(entropy=0.41),
    "over-optimisation": lambda step: {"eval_proxy": 0.6 + step / 10, "eval_held_out": 0.5 - max(0, step - 4) / 10},
}
ABORTS = {
    "KL at the start": lambda step: {"kl": 0.002} if step == 0 else {},
    "degenerate groups": once(zero_std_groups=1.0),
    "optimiser off": once(grad_norm=0.0),
}


@pytest.mark.parametrize("name", WARNINGS)
def test_a_fault_that_is_warned_of(name):
    assert course(WARNINGS[name]) == ([name], "")


@pytest.mark.parametrize("name", STOPS)
def test_a_fault_that_ends_the_run_in_order(name):
    alarms, stopped = course(STOPS[name])
    assert alarms == [name] and stopped.startswith(f"{name}: ")


@pytest.mark.parametrize("name", ABORTS)
def test_a_fault_that_aborts(name):
    with pytest.raises(TrainingError, match=rf"{name}: .*Likely cause"):
        course(ABORTS[name])
    assert course(ABORTS[name], ignore=(name,)) == ([name], "")  # the owner insists


def test_the_ratio_aborts_at_the_first_minibatch_alone():
    with pytest.raises(TrainingError, match="update 0, ratio"):
        course(ratio={"max_ratio_error": 2e-4})
    assert course(ratio={"max_ratio_error": 2e-4}, ignore=("ratio",)) == (["ratio"], "")


def test_every_detector_has_its_planted_fault():
    names = {d.name for d in (*FIRST_MINIBATCH, *BEFORE_UPDATE, *AFTER_UPDATE)}
    assert names == {*WARNINGS, *STOPS, *ABORTS, "ratio"}
    for table, action in ((WARNINGS, "warn"), (STOPS, "stop"), (ABORTS, "abort")):
        assert {d.action for d in (*BEFORE_UPDATE, *AFTER_UPDATE) if d.name in table} == {action}


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("negative KL", late(kl=-0.8, kl_se=0.3)),
        ("KL blow-up", late(kl=6.9)),  # a rise of 4.9 in one update
        ("length hacking", late(length=60.0, length_corr=0.5)),
        ("length hacking", late(length=44.0, length_corr=0.9)),
        ("no end", late(unfinished=0.10)),
        ("clipping", lambda step: {"clip_frac": 0.9 if step % 5 else 0.2}),
        ("useless critic", lambda step: {"explained_variance": -0.2 if step % 5 else 0.1}),
        ("useless critic", lambda step: {"explained_variance": -0.2 if step < 15 else 0.3}),
        ("tied groups", late(zero_std_groups=0.5)),
        ("mode switch", late(kl=0.9, first_token_kl=0.9)),
        ("gradient jump", once(at=8, grad_norm=50.0)),  # too early to know what is usual
        ("entropy collapse", late(entropy=0.43, unique=0.5)),
        ("KL coefficient run-away", late(kl_coef=0.99)),
        ("over-optimisation", lambda step: {"eval_held_out": 0.5 - step / 1000}),  # within its noise
        ("over-optimisation", lambda step: {"eval_held_out": 0.5 - step / 10}),  # the proxy does not rise
    ],
)
def test_just_short_of_the_threshold_nothing_speaks(name, changes):
    assert course(changes) == ([], ""), name


def test_other_ways_into_the_same_alarm():
    assert course(once(kl=7.5))[0] == ["KL blow-up"]  # more than 5 nats in one update
    assert course(late(unique=0.48))[0] == ["entropy collapse"]
    assert course(late(vf_clip_frac=0.6))[0] == ["useless critic"]
    assert course(late(eval_refusals=0.07))[0] == ["mode switch"]
    assert course(once(value_skipped=1.0))[0] == ["not finite"]
    assert course(late(kl_coef=0.009))[0] == ["KL coefficient run-away"]


def test_a_run_without_a_critic_or_evaluation_is_watched_all_the_same():
    absent = {n for n in HEALTHY if n.startswith("eval_")} | {
        "explained_variance", "vf_clip_frac", "value_skipped", "score_out_of_range",
    }  # fmt: skip
    watch = Monitor(MonitorConfig(), report=lambda alarm: None)
    history = []
    for step in range(25):
        now = {k: v for k, v in (HEALTHY if step else START).items() if k not in absent}
        watch.before_update(step, now, None)
        watch.after_minibatch(step, 0, 0, {})  # a warm-up has no ratio
        history.append(now)
        assert watch.after_update(step, history) == ""
    assert watch.alarms == []


@pytest.mark.parametrize(
    ("measured", "names"),
    [
        ({"correct": 700, "n": 1000, "length_only": 0.55, "agreement": 0.72}, []),
        ({"correct": 440, "n": 1000, "length_only": 0.55, "agreement": 0.72}, ["inverted reward model"]),
        ({"correct": 52, "n": 100, "length_only": 0.4, "agreement": None}, ["weak reward model"]),
        ({"correct": 565, "n": 1000, "length_only": 0.55, "agreement": None}, ["reward model no better than length"]),
        ({"correct": 830, "n": 1000, "length_only": 0.55, "agreement": 0.72}, ["reward model too good"]),
        ({"correct": 955, "n": 1000, "length_only": 0.55, "agreement": 0.9}, ["reward model too good"]),
        ({"correct": 940, "n": 1000, "length_only": 0.55, "agreement": None}, []),
        (
            {"correct": 960, "n": 1000, "length_only": 0.95, "agreement": None},
            ["reward model no better than length", "reward model too good"],
        ),
    ],
)
def test_a_reward_model_is_judged_before_it_may_teach(measured, names):
    found = reward_model_alarms(**measured)
    assert [a.name for a in found] == names
    refused = {"inverted reward model", "weak reward model"}
    assert all((a.action == "abort") is (a.name in refused) for a in found)


def test_a_prompt_in_training_and_in_evaluation_aborts():
    training, evaluation = ["What is a tide?", "Name a river."], ["  what is a TIDE", "Name a lake."]
    shared = {normalise(t) for t in training} & {normalise(t) for t in evaluation}
    alarm = split_alarm(len(shared))
    assert alarm is not None and (alarm.name, alarm.action) == ("split leak", "abort") and "1 prompts" in alarm.saw
    assert split_alarm(0) is None
