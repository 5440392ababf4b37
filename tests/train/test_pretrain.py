"""Pre-training reads its plan once, resumes where it was, and reports what it read."""

import math

import pytest
import torch

from tutelage.data.corpus import Corpus
from tutelage.errors import ConfigError
from tutelage.model.load import new_llama
from tutelage.train import pretrain
from tutelage.train.learner import ComputeConfig
from tutelage.train.optim import OptimConfig

CFG = pretrain.PretrainConfig(
    vocabulary=13, width=32, layers=2, heads=2, window=8, batch_tokens=24, eval_every=3, save_every=4
)
SONG = [3, 4, 5, 6, 7, 8, 9, 1]


def corpus(n=20):
    """One song, over and over, and pieces of it."""
    return Corpus("song", [SONG[: 3 + i % 6] for i in range(n)], [SONG, SONG[:5]])


def learner(steps, seed=0):
    model = new_llama(vocabulary=13, width=32, layers=2, heads=2, window=8, eos_id=1, seed=seed)
    optim = OptimConfig(lr=1e-2, warmup_steps=0)
    return pretrain.language_learner(model, optim=optim, compute=ComputeConfig(), total_steps=steps)


def course(machine, batches, **more):
    log = []
    final = pretrain.run(
        CFG,
        corpora=[corpus()],
        batches=batches,
        learner=machine,
        log=lambda step, metrics: log.append((step, metrics)),
        save=more.pop("save", lambda step: None),
    )
    return final, log


def test_it_learns_the_song_and_reports_the_figures():
    batches = pretrain.plan(CFG, [corpus()], [12.0], seed=0)
    machine = learner(len(batches))
    first = math.exp(pretrain.held_out_nll(machine, corpus().held_out)[0])
    assert first == pytest.approx(13, rel=0.1)  # a fresh model knows nothing: one in thirteen
    final, log = course(machine, batches)
    assert final["perplexity/song"] < 1.5
    assert final["tokens"] == 12 * sum(3 + i % 6 for i in range(20))
    n_parameters = sum(p.numel() for p in machine.module.parameters())
    assert final["parameters"] == n_parameters
    assert final["chinchilla_share"] == pytest.approx(final["tokens"] / n_parameters / 20)
    assert log[-1] == (len(batches) - 1, final)


def test_held_out_loss_is_per_token_over_all_pieces():
    machine = learner(1)
    nll, n = pretrain.held_out_nll(machine, [SONG, SONG[:5]])
    assert n == 7 + 4  # every token but each piece's first
    (a, n_a), (b, n_b) = (pretrain.held_out_nll(machine, [p]) for p in (SONG, SONG[:5]))
    assert nll == pytest.approx((a * n_a + b * n_b) / (n_a + n_b), abs=1e-6)


def test_a_resumed_run_is_the_unbroken_one():
    batches = pretrain.plan(CFG, [corpus()], [2.0], seed=0)
    whole, kept = learner(len(batches)), {}
    final, log = course(whole, batches, save=lambda step: kept.update({step: whole.state()}))
    assert 4 in kept and len(batches) > 5
    resumed = learner(len(batches), seed=3)
    resumed.load_state(kept[4])
    again, rest = course(resumed, batches)
    assert again == final and rest == [row for row in log if row[0] >= 4]
    assert all(torch.equal(resumed.state()[k], v) for k, v in whole.state().items())


@pytest.mark.parametrize(
    ("wrong", "message"), [({"width": 30, "heads": 4}, "Set width to 28"), ({"batch_tokens": 100}, "window = 512")]
)
def test_settings_that_cannot_be(wrong, message):
    with pytest.raises(ConfigError, match=message):
        pretrain.PretrainConfig(**wrong)
