"""Faults planted in real runs: the alarm of each fires, no other does, and a clean run is silent."""

import copy

import pytest
import torch
from torch import nn

from tutelage.errors import TrainingError
from tutelage.model.lora import Adapter, LoraSettings
from tutelage.rounds.machines import FrozenReference, infer_logp
from tutelage.train.detectors import split_alarm
from tutelage.train.kl_control import KLConfig
from tutelage.train.learner import ComputeConfig, Learner, Term
from tutelage.train.machines import SeparateActorCritic, policy_learner
from tutelage.train.monitor import MonitorConfig
from tutelage.train.optim import OptimConfig

ALGORITHMS = pytest.mark.parametrize("algorithm", ["ppo", "rloo"])
COMPUTE = ComputeConfig()
OPTIM = OptimConfig(lr=1e-3, warmup_steps=2)


def go(run, algorithm="ppo", updates=3, **settings):
    """The names of the alarms, and why the run was aborted."""
    try:
        getattr(run, f"run_{algorithm}")(updates, **settings)
    except TrainingError as e:
        return run.alarms, str(e)
    return run.alarms, ""


@ALGORITHMS
def test_a_clean_run_is_silent(course, algorithm):
    run = course()
    assert go(run, algorithm, updates=4) == ([], "")
    assert len(run.rows) == 4


@ALGORITHMS
def test_a_policy_that_measures_at_another_temperature_than_it_trains(course, algorithm):
    # Old log-probabilities at 0.7, the update's own pass at 1.
    run = course()
    trained, measured = (
        run.policy,
        policy_learner(run.model, temperature=0.7, optim=OPTIM, compute=COMPUTE, total_steps=9),
    )
    trained.infer = measured.infer
    run.parts |= {
        "reference": FrozenReference(copy.deepcopy(run.model), temperature=0.7, compute=COMPUTE),
        "sampler": run.world.sampler(run.model, temperature=0.7),
    }
    alarms, why = go(run, algorithm)
    assert alarms == ["ratio"] and "update 0, ratio" in why and "another temperature" in why


@ALGORITHMS
def test_a_sampler_at_another_temperature_than_the_learner(course, algorithm):
    run = course()
    run.parts["sampler"] = run.world.sampler(run.model, temperature=0.7)
    assert go(run, algorithm, updates=1) == (["sampler mismatch"], "")


class Leaky(nn.Module):
    """The policy with dropout on its log-probabilities, as a model left in training mode has somewhere inside."""

    def __init__(self, model):
        super().__init__()
        self.model = model
        self.dropout = nn.Dropout(0.05)

    def channels(self, batch):
        logp, entropy = self.model.logp(batch.token_BT, batch.length_B, batch.mask_BT)
        return torch.stack([self.dropout(logp), entropy], dim=-1)


@ALGORITHMS
def test_dropout(course, algorithm):
    run = course(watch=MonitorConfig(ignore=("KL at the start",)))
    leaky = Leaky(run.model)
    leaky.dropout.train()
    run.policy = Learner(leaky, leaky.channels, optim=OPTIM, compute=COMPUTE, total_steps=9)
    torch.manual_seed(0)
    alarms, why = go(run, algorithm, updates=1)
    assert "ratio" in alarms and "update 0, ratio" in why
    # Dropout also shows in the pass that measures the divergence and the sampler; the cause is the same.
    assert set(alarms) <= {"ratio", "KL at the start", "negative KL", "sampler mismatch"}


@ALGORITHMS
def test_a_reference_that_is_another_model(course, speaker_copy, algorithm):
    run = course()
    other = speaker_copy()
    with torch.no_grad():
        other.hf.model.norm.weight.mul_(1.1)
    run.parts["reference"] = FrozenReference(other, temperature=1.0, compute=COMPUTE)
    alarms, why = go(run, algorithm)
    assert alarms == ["KL at the start"] and "update 0, KL at the start" in why


class AdapterLeftOn:
    """A reference that forgets to switch the adapter off."""

    def __init__(self, model):
        self.model = model

    def logp(self, batch, parts=None):
        return infer_logp(self.model, batch, temperature=1.0, compute=COMPUTE)


def test_an_adapter_that_is_on_in_the_reference(course):
    # A fresh adapter changes nothing, so KL is 0 at the first update, and then stays 0 however far the policy goes.
    # Resuming from a trained adapter is where it shows: the frozen reference of the run before says how far.
    run = course()
    start = copy.deepcopy(run.model)
    adapter = Adapter(run.model, LoraSettings(rank=4), seed=0)
    optim = OptimConfig(lr=1e-2, warmup_steps=0)
    run.policy = policy_learner(run.model, temperature=1.0, optim=optim, compute=COMPUTE, total_steps=9)
    run.parts["reference"] = AdapterLeftOn(run.model)
    assert go(run, updates=3) == ([], "")
    assert [r["kl"] for r in run.rows] == pytest.approx(
        [0.0] * 3, abs=1e-5
    )  # what the fault does: a divergence that is never seen
    run.parts["reference"] = FrozenReference(start, temperature=1.0, compute=COMPUTE)
    run.watch.first = {}
    alarms, why = go(run, updates=1)
    assert alarms == ["KL at the start"] and "its adapter is on" in why
    with adapter.off():
        rollouts = run.parts["sampler"].sample(run.world.prompts, n=1, step=0)
        off = AdapterLeftOn(run.model).logp(rollouts.batch)
    torch.testing.assert_close(off, run.parts["reference"].logp(rollouts.batch))


@ALGORITHMS
def test_a_constant_reward(course, algorithm):
    run = course()
    run.parts["score"] = lambda prompts, texts: torch.full((len(texts),), 0.7)
    alarms, why = go(run, algorithm)
    assert alarms == ["degenerate groups"] and "a constant reward" in why


@ALGORITHMS
def test_a_reward_that_is_the_same_for_most_groups(course, algorithm):
    run = course()
    liking = run.world.liking
    names = ("hen", "fox", "gnu")
    run.parts["score"] = lambda prompts, texts: torch.tensor(
        [float(s) if p.text.endswith(names) else 0.3 for p, s in zip(prompts, liking(prompts, texts), strict=True)]
    )
    assert go(run, algorithm, updates=1) == (["tied groups"], "")


@ALGORITHMS
def test_answers_without_an_end(course, algorithm):
    run = course()
    end = run.world.chat.end_id
    for model in (run.model, run.parts["reference"]._model):
        _forbid(model, end, 3.0)  # the end token is unlikely, as after an SFT that never trained it
    assert go(run, algorithm, updates=1) == (["no end"], "")
    assert run.rows[0]["unfinished"] > 0.1


@ALGORITHMS
def test_answers_that_are_empty(course, algorithm):
    run = course()
    end = run.world.chat.end_id
    for model in (run.model, run.parts["reference"]._model):
        _forbid(model, end, -3.0)  # the end token comes first, now and then
    assert go(run, algorithm, updates=1) == (["empty answers"], "")
    assert 0 < run.rows[0]["empty"] < 40


def _forbid(model, token, by):
    """Takes `by` from the token's logit, wherever it is predicted."""

    def lower(module, inputs, logits):
        shift = torch.zeros(logits.shape[-1])
        shift[token] = by
        return logits - shift

    model.hf.get_output_embeddings().register_forward_hook(lower)


@ALGORITHMS
def test_an_optimiser_that_is_off(course, algorithm):
    # The loss is cut off from the weights that the optimiser holds: only an unused one is trained.
    run = course()
    spare = nn.Module()
    spare.weight = nn.Parameter(torch.zeros(3))

    def forward(batch):
        logp, entropy = run.model.logp(batch.token_BT, batch.length_B, batch.mask_BT)
        return torch.stack([logp, entropy], dim=-1)

    run.policy = Learner(spare, forward, optim=OPTIM, compute=COMPUTE, total_steps=9)
    alarms, why = go(run, algorithm)
    assert alarms == ["optimiser off"] and "no weight moves" in why


def test_a_row_that_is_not_a_number(course):
    run = course()
    text = run.parts["sampler"].sample(run.world.prompts, n=1, step=99).batch

    def language(step, i):
        bad = float("nan") if (step, i) == (1, 0) else 1.0
        return [Term(text, torch.arange(len(text)), lambda out, rows: (-bad * out[..., 0].sum() / 100, {}))]

    run.parts["language"] = language
    assert go(run, updates=3, ptx_coef=1.0) == (["not finite"], "")
    assert run.rows[1]["skipped"] == 0.5 and run.rows[1]["loss"] == run.rows[1]["loss"]
    assert all(torch.isfinite(p).all() for p in run.model.parameters())


@ALGORITHMS
def test_a_policy_whose_own_row_is_not_a_number_is_skipped_and_then_ends_the_run(course, algorithm):
    run = course(watch=MonitorConfig())
    inner = run.policy._forward

    def forward(batch):
        out = inner(batch)
        if not torch.is_grad_enabled():
            return out  # rollouts are scored as they should be
        return torch.where(torch.arange(len(batch))[:, None, None] == 1, out * float("nan"), out)

    run.policy._forward = forward
    alarms, why = go(run, algorithm, updates=4)
    assert alarms == ["not finite"] and "3 times in a row" in why


@pytest.mark.parametrize(("value_clip", "alarms"), [(0.01, ["useless critic"]), (0.2, [])])
def test_a_value_clip_that_is_too_small_for_the_rewards(course, value_clip, alarms):
    run = course()
    # The speaker ends at once in about one answer of five hundred, so a long run finds an empty one, rightly.
    run.parts |= {
        "score": lambda prompts, texts: 10 * run.world.liking(prompts, texts),
        "kl": KLConfig(mode="fixed", coef=1.0),
    }
    found, why = go(run, updates=6, value_clip=value_clip, epochs=2)
    assert not why and [a for a in found if a != "empty answers"] == alarms


def test_a_reward_model_trained_on_swapped_labels_unlearns(course):
    # What an inverted reward model does to a run; its own alarm is raised before RL (test_reward_model).
    run = course(lr=3e-3)
    run.parts["score"] = lambda prompts, texts: 1 - run.world.cats(prompts, texts)
    go(run, updates=15)
    cats = [1 - r["score"] for r in run.rows]
    assert cats[-1] < 0.5 * cats[0]


def test_a_run_that_leaves_its_reference_too_fast_is_stopped_and_says_why(course):
    run = course(lr=0.02, watch=MonitorConfig(kl_target=1.0))
    run.parts |= {"score": run.world.cats, "kl": KLConfig(mode="fixed", coef=0.0)}
    state = run.run_ppo(30)
    assert state.stopped.startswith("KL blow-up") and state.step < 30 and state.step == len(run.rows)
    assert run.rows[-1]["kl"] > 2.0
    again = run.run_ppo(30, state=state)
    assert again.step == state.step  # it stays stopped


def test_the_same_prompt_in_training_and_in_evaluation(world):
    shared = {p.id for p in world.prompts} & {p.id for p in world.prompts[:2]}
    alarm = split_alarm(len(shared))
    assert alarm is not None and alarm.action == "abort" and "2 prompts" in alarm.saw


def test_the_loops_hand_the_critics_failure_to_the_monitor(course):
    run = course()

    class Broken(SeparateActorCritic):
        def step(self, *args, **more):
            found = super().step(*args, **more)
            return found | {"value_skipped": 1.0, "value_loss": float("nan")}

    run.parts["actor_critic"] = Broken(run.policy, run.critic)
    assert go(run, updates=1) == (["not finite"], "")
