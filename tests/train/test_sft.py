"""Demonstrations are learned on the answer alone, and the epoch that is kept is the best one."""

import pytest
import torch

from tutelage.data.sft import sft_rows, take
from tutelage.errors import ConfigError
from tutelage.model.load import new_llama
from tutelage.train import sft
from tutelage.train.learner import ComputeConfig, Term
from tutelage.train.optim import OptimConfig
from tutelage.train.pretrain import language_learner, mean_nll
from tutelage.types import Demonstration, Message, Prompt


def demo(question, answer):
    return Demonstration(prompt=Prompt(messages=(Message(role="user", content=question),)), text=answer)


EIGHT = [
    demo("ant", "bee"),
    demo("bee", "cat cat"),
    demo("cat", "dog elk fox"),
    demo("dog", "ant ant ant ant"),
    demo("elk", "hen gnu"),
    demo("fox", "gnu hen gnu"),
    demo("gnu", "fox"),
    demo("hen", "bee ant bee ant bee"),
]


def model(seed=0):
    return new_llama(vocabulary=13, width=32, layers=2, heads=2, window=32, eos_id=1, seed=seed)


def learner(*, lr=5e-3, steps=60, compute=None, of=None):
    optim = OptimConfig(lr=lr, warmup_steps=0)
    return language_learner(of or model(), optim=optim, compute=compute or ComputeConfig(), total_steps=steps)


def course(cfg, machine, rows, held_out, **more):
    """Runs SFT and returns the progress and the log."""
    log = []
    hooks = {"keep_best": lambda: None, "save": lambda step, progress: None} | more
    progress = sft.run(
        cfg,
        rows=rows,
        held_out=held_out,
        learner=machine,
        seed=0,
        progress=hooks.pop("progress", sft.SFTProgress()),
        log=lambda step, metrics: log.append((step, metrics)),
        **hooks,
    )
    return progress, log


def test_eight_demonstrations_are_learned_by_heart(chat):
    rows = sft_rows(EIGHT, chat)
    machine = learner(lr=1e-2, steps=120)
    course(sft.SFTConfig(epochs=120, batch_size=8, patience=120), machine, rows, rows)
    assert sft.held_out_loss(machine, rows) < 0.02
    batch = take(rows, range(8))
    assert machine.infer(batch)[..., 0][batch.mask_BT].exp().min() > 0.9


def test_the_loss_is_over_the_answer_and_its_end_alone(chat):
    rows = sft_rows(EIGHT[:2], chat)
    batch = take(rows, [0, 1])
    assert batch.mask_BT.sum(dim=1).tolist() == [2, 3]  # bee END; cat cat END
    machine = learner()
    logp = machine.infer(batch)[..., 0]
    by_hand = -(logp[0, batch.mask_BT[0]].sum() + logp[1, batch.mask_BT[1]].sum()) / 5
    metrics = machine.step([Term(batch, torch.arange(2), mean_nll(batch))])
    assert metrics["loss"] == pytest.approx(by_hand.item(), abs=1e-6)
    assert metrics["loss"] == pytest.approx(sft.held_out_loss(learner(), rows), abs=1e-6)


def test_packed_is_the_same_as_one_by_one(chat):
    rows = sft_rows(EIGHT, chat)
    packed, alone = (learner(compute=ComputeConfig(microbatch_tokens=n)) for n in (10**6, 1))
    assert sft.held_out_loss(packed, rows) == pytest.approx(sft.held_out_loss(alone, rows), abs=1e-6)
    batch = take(rows, range(8))
    losses = [m.step([Term(batch, torch.arange(8), mean_nll(batch))])["loss"] for m in (packed, alone)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)


def test_it_stops_at_the_first_epoch_that_is_no_better_and_keeps_the_best(chat):
    # Held out are other answers to the same questions: learning the eight by heart must at some point hurt.
    rows, held_out = sft_rows(EIGHT, chat), sft_rows([demo(d.prompt.messages[0].content, "cat") for d in EIGHT], chat)
    machine, kept = learner(steps=40), []
    progress, log = course(
        sft.SFTConfig(epochs=40, batch_size=4, patience=2), machine, rows, held_out, keep_best=lambda: kept.append(1)
    )
    losses = [m["held_out_loss"] for _, m in log if "held_out_loss" in m]
    assert progress.stopped and len(losses) < 40
    best = min(range(len(losses)), key=losses.__getitem__)
    assert progress.best_epoch == best == len(losses) - 1 - 2
    assert progress.best_loss == losses[best]
    falls = sum(x < min(losses[:i], default=float("inf")) for i, x in enumerate(losses))
    assert len(kept) == falls


def test_a_resumed_run_is_the_unbroken_one(chat):
    rows = sft_rows(EIGHT, chat)
    cfg = sft.SFTConfig(epochs=3, batch_size=3, patience=3, save_every=4)
    kept = {}
    whole = learner(steps=9)

    def save(step, progress):
        kept[step] = (whole.state(), sft.SFTProgress(progress.best_loss, progress.best_epoch, progress.stopped))

    expected, log = course(cfg, whole, rows, rows, save=save)
    assert sorted(kept) == [4, 8] and whole.n_steps == 9
    resumed = learner(steps=9, of=model(seed=5))
    resumed.load_state(kept[4][0])
    progress, rest = course(cfg, resumed, rows, rows, progress=kept[4][1])
    assert progress == expected
    assert rest == [row for row in log if row[0] >= 4]
    assert all(torch.equal(resumed.state()[k], v) for k, v in whole.state().items())


@pytest.mark.parametrize("wrong", [{"epochs": 0}, {"batch_size": 0}])
def test_settings_that_cannot_be(wrong):
    with pytest.raises(ConfigError, match="must be 1 or more"):
        sft.SFTConfig(**wrong)
