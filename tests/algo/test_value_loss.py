"""The critic that the clip freezes, explained variance by hand, then padding and cutting."""

import math

import pytest
import torch

from tutelage.algo.value_loss import clipped_value_loss, explained_variance


def one(x):
    return torch.tensor([[x]])


@pytest.mark.parametrize("value", [1.0, 1.9])
def test_a_value_past_the_clip_is_frozen(value):
    # old .5, return 2, clip .2: the value counts as .7, (.7 - 2)^2 / 2 = .845, whatever it is.
    v = one(value).requires_grad_()
    loss, metrics = clipped_value_loss(v, one(0.5), one(2.0), one(True), clip=0.2, n_trained=1)
    loss.backward()
    assert loss.item() == pytest.approx(0.845)
    assert v.grad.item() == 0
    assert metrics["vf_clip_frac"].item() == 1


@pytest.mark.parametrize("clip", [0.2, None])
def test_within_the_clip_it_is_half_the_squared_error(clip):
    v = one(0.6).requires_grad_()
    loss, metrics = clipped_value_loss(v, one(0.5), one(2.0), one(True), clip=clip, n_trained=1)
    loss.backward()
    assert loss.item() == pytest.approx(0.98)  # 1.4^2 / 2
    assert v.grad.item() == pytest.approx(-1.4)
    assert metrics["vf_clip_frac"].item() == 0


def test_a_value_that_moved_away_from_its_return_is_pulled_back():
    v = one(-1.0).requires_grad_()
    loss, _ = clipped_value_loss(v, one(0.5), one(2.0), one(True), clip=0.2, n_trained=1)
    loss.backward()
    assert (loss.item(), v.grad.item()) == (pytest.approx(4.5), pytest.approx(-3.0))


def test_padding_of_nan_and_cuts_change_nothing():
    g = torch.Generator().manual_seed(0)
    value, old, returns = (torch.randn(6, 4, generator=g, dtype=torch.float64) for _ in range(3))
    mask = torch.arange(4) < torch.randint(1, 5, (6,), generator=g)[:, None]

    def run(columns, step):
        v = columns[0].clone().requires_grad_()
        total = torch.zeros((), dtype=torch.float64)
        for i in range(0, 6, step):
            part = [x[i : i + step] for x in (v, *columns[1:], mask)]
            loss, metrics = clipped_value_loss(*part, clip=0.2, n_trained=mask.sum())
            loss.backward()
            total += metrics["vf_clip_frac"]
        return v.grad, total

    whole = run((value, old, returns), 6)
    spoilt = [torch.where(mask, x, math.nan) for x in (value, old, returns)]
    for got in (run((value, old, returns), 1), run(spoilt, 6), run(spoilt, 2)):
        torch.testing.assert_close(got, whole)
    assert whole[0].abs().max() > 0


def test_explained_variance_by_hand():
    # Errors -.1, .1, -.2, .2 of mean 0: variance .025, against 1.25.
    returns, value = torch.tensor([[1.0, 2, 3, 4]]), torch.tensor([[1.1, 1.9, 3.2, 3.8]])
    mask = torch.ones(1, 4, dtype=torch.bool)
    assert explained_variance(value, returns, mask).item() == pytest.approx(0.98, abs=1e-6)
    assert explained_variance(returns, returns, mask).item() == 1
    assert explained_variance(-returns, returns, mask).item() == pytest.approx(-3)


def test_explained_variance_does_not_see_padding_or_a_constant_shift():
    returns = torch.tensor([[1.0, 2, 3, 4, math.nan]])
    value = torch.tensor([[1.1, 1.9, 3.2, 3.8, math.inf]])
    mask = torch.tensor([[True] * 4 + [False]])
    assert explained_variance(value + 10, returns, mask).item() == pytest.approx(0.98, abs=1e-5)


def test_returns_that_do_not_vary_leave_nothing_to_explain():
    assert math.isnan(explained_variance(torch.rand(1, 3), torch.ones(1, 3), torch.ones(1, 3).bool()).item())
