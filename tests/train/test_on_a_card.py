"""Updates on a device that is not the processor (`card.py`) are those of the processor, to rounding."""

import pytest
import torch

from tutelage.model.value_model import PolicyWithValue
from tutelage.train.learner import ComputeConfig
from tutelage.train.machines import SharedActorCritic, shared_learner
from tutelage.train.optim import OptimConfig

FIGURES = ("score", "kl", "entropy", "grad_norm", "value_loss", "explained_variance", "length", "loss")


def shared(run):
    """The run's actor and critic as one network."""
    trunk = PolicyWithValue(run.model)
    optim = OptimConfig(lr=1e-3, warmup_steps=2)
    learner = shared_learner(trunk, temperature=1.0, optim=optim, compute=ComputeConfig(), total_steps=20)
    return SharedActorCritic(learner, trunk)


@pytest.mark.parametrize("way", ["ppo", "ppo with a shared critic", "rloo"])
def test_an_rl_run_is_that_of_the_processor(way, course, speaker_copy, card):
    found = {}
    for device in ("cpu", card.NAME):
        run = course(make=lambda device=device: speaker_copy().to(device))
        if way == "ppo with a shared critic":
            run.parts["actor_critic"] = shared(run)
        (run.run_rloo if way == "rloo" else run.run_ppo)(2)
        found[device] = (
            [[row[k] for k in FIGURES if k in row] for row in run.rows],
            {n: p.detach().cpu() for n, p in run.model.named_parameters()},
        )
        assert all(p.device.type == device for p in run.model.parameters())
    (rows, weights), (expected, weights_here) = found[card.NAME], found["cpu"]
    assert len(rows) == 2 and [len(row) for row in rows] == [len(row) for row in expected]
    for row, other in zip(rows, expected, strict=True):
        assert row == pytest.approx(other, rel=1e-3, abs=1e-4)
    for n in weights:
        # Adam makes a step of full size of a gradient that is all rounding.
        assert (weights[n] - weights_here[n]).abs().mean() < 1e-5


def test_half_a_pass_rounds_as_the_processors_kernels_do(course, speaker_copy, card):
    run, token_BT = course(), torch.randint(4, 12, (4, 16), generator=torch.Generator().manual_seed(0))
    asked = token_BT, torch.tensor([16, 9, 12, 16]), torch.ones_like(token_BT) > 0
    asked[2][:, 0] = False
    exact = run.model.logp(*asked)[0]
    model = speaker_copy().to(card.NAME)
    with torch.autocast(card.NAME, torch.bfloat16):
        half = model.logp(*(x.to(card.NAME) for x in asked))[0].cpu()
    with torch.autocast("cpu", torch.bfloat16):
        here = run.model.logp(*asked)[0]
    assert 0 < (half - exact).abs().mean() < 3 * (here - exact).abs().mean() < 0.1
