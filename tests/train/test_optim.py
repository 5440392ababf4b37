"""Learning rates by hand, weight decay on matrices alone, and moments that survive a kill."""

import pytest
import torch
from torch import nn

from tutelage.errors import ConfigError
from tutelage.train.optim import OptimConfig, build_adamw, load_moments, lr_at, moments


@pytest.mark.parametrize(
    ("schedule", "step", "lr"),
    [
        # Warm-up of 4 from 0.1: 0.1 + 0.9 x 2 / 4 = 0.55. Then 8 updates from 1 down to 0.2; half-way is 0.6.
        ("constant", 0, 0.1),
        ("linear", 2, 0.55),
        ("cosine", 4, 1.0),
        ("constant", 11, 1.0),
        ("linear", 8, 0.6),
        ("cosine", 8, 0.6),
        ("linear", 6, 0.8),
        ("cosine", 6, 0.2 + 0.8 * 0.5 * (1 + 0.5**0.5)),  # cos(pi / 4)
        ("linear", 12, 0.2),
        ("cosine", 30, 0.2),  # beyond its end it stays
    ],
)
def test_learning_rate_by_hand(schedule, step, lr):
    cfg = OptimConfig(lr=2.0, schedule=schedule, warmup_steps=4, final_lr=0.2)
    assert lr_at(cfg, step, 12) == pytest.approx(2 * lr)


def test_without_warm_up_the_first_update_has_the_whole_rate():
    assert lr_at(OptimConfig(lr=3.0, warmup_steps=0), 0, 5) == 3.0


def test_weight_decay_shrinks_matrices_alone():
    named = dict(nn.Linear(3, 2).named_parameters()) | {"scalar": nn.Parameter(torch.tensor(2.0))}
    before = {n: p.detach().clone() for n, p in named.items()}
    adamw = build_adamw(named, OptimConfig(lr=0.1, weight_decay=0.5))
    for p in named.values():
        p.grad = torch.zeros_like(p)
    adamw.step()
    torch.testing.assert_close(named["weight"].detach(), before["weight"] * (1 - 0.1 * 0.5))
    assert torch.equal(named["bias"], before["bias"]) and torch.equal(named["scalar"], before["scalar"])


def test_one_step_of_adam_by_hand():
    # The first step of Adam is lr x g / (|g| + eps): all of 0.1 for g = 4, and a share of 1e-6 / 1.1e-5 for g = 1e-6.
    p = nn.Parameter(torch.tensor([1.0, 1.0], dtype=torch.float64))
    adamw = build_adamw({"p": p}, OptimConfig(lr=0.1, eps=1e-5))
    p.grad = torch.tensor([4.0, 1e-6], dtype=torch.float64)
    adamw.step()
    assert (1 - p).tolist() == pytest.approx([0.1, 0.1 / 11], rel=1e-4)


def test_a_step_counts_as_a_change_of_each_weight():
    named = {"matrix": nn.Parameter(torch.ones(2, 2)), "bias": nn.Parameter(torch.ones(2))}
    optimizer = build_adamw(named, OptimConfig())
    for p in named.values():
        p.grad = torch.ones_like(p)
    before = [p._version for p in named.values()]
    optimizer.step()
    assert all(p._version > old for p, old in zip(named.values(), before, strict=True))


def test_moments_come_back_by_name():
    def stepped():
        p = nn.Parameter(torch.tensor([1.0, -1.0]))
        named = {"p": p}
        return named, build_adamw(named, OptimConfig(lr=0.1))

    named, adamw = stepped()
    assert moments(adamw, named) == {}
    named["p"].grad = torch.tensor([0.5, 3.0])
    adamw.step()
    kept = {k: v.clone() for k, v in moments(adamw, named).items()}
    assert set(kept) == {"p.step", "p.exp_avg", "p.exp_avg_sq"}
    torch.testing.assert_close(kept["p.exp_avg"], 0.1 * torch.tensor([0.5, 3.0]))
    other, resumed = stepped()
    load_moments(resumed, other, kept)
    other["p"].data.copy_(named["p"].data)
    for params, machine in ((named, adamw), (other, resumed)):
        params["p"].grad = torch.tensor([-1.0, 0.25])
        machine.step()
    assert torch.equal(named["p"], other["p"])
    assert resumed.state[other["p"]]["step"].item() == 2


@pytest.mark.parametrize("wrong", [{"lr": 0.0}, {"final_lr": 1.5}, {"grad_clip": 0.0}])
def test_settings_that_cannot_be(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        OptimConfig(**wrong)
