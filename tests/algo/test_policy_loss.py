"""Worked numbers of the policy losses, then what must hold for any: padding, cutting, permuting."""

import math

import pytest
import torch

from tutelage.algo.policy_loss import k2_loss, ppo_clip_loss, sequence_policy_loss

CLIP = {"clip_low": 0.2, "clip_high": 0.28}


def one(x):
    return torch.tensor([[x]])


def batch(seed=0):
    g = torch.Generator().manual_seed(seed)
    logp, old, adv = (torch.randn(8, 5, generator=g, dtype=torch.float64) for _ in range(3))
    length = torch.randint(1, 6, (8,), generator=g)
    return logp, old, adv, torch.arange(5) < length[:, None]


@pytest.mark.parametrize(
    ("ratio", "adv", "loss", "gradient"),
    [
        (1.5, 1.0, -1.2, 0.0),  # past the upper bound, and better: no more to gain
        (1.5, -1.0, 1.5, 1.5),  # past it, and worse: pulled back
        (0.5, 1.0, -0.5, -0.5),
        (0.5, -1.0, 0.8, 0.0),
        (1.1, 2.0, -2.2, -2.2),  # within the bounds
    ],
)
def test_clip_and_gradient_of_one_token(ratio, adv, loss, gradient):
    logp = one(math.log(ratio)).requires_grad_()
    got, metrics = ppo_clip_loss(logp, one(0.0), one(adv), one(True), clip_low=0.2, clip_high=0.2, n_trained=1)
    got.backward()
    assert got.item() == pytest.approx(loss)
    assert logp.grad.item() == pytest.approx(gradient)
    assert metrics["clip_frac"].item() == (gradient == 0)
    assert metrics["kl_old"].item() == pytest.approx(ratio - 1 - math.log(ratio), abs=1e-6)


def test_the_two_bounds_are_set_apart():
    up, _ = ppo_clip_loss(one(9.0), one(0.0), one(1.0), one(True), clip_low=0.1, clip_high=0.3, n_trained=1)
    down, _ = ppo_clip_loss(one(-9.0), one(0.0), one(-1.0), one(True), clip_low=0.1, clip_high=0.3, n_trained=1)
    assert (up.item(), down.item()) == (pytest.approx(-1.3), pytest.approx(0.9))


def test_importance_weight_scales_the_gain_of_its_token_and_gets_no_gradient():
    logp, old, adv, mask = batch()
    weight = torch.rand(8, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(9)).requires_grad_()
    logp.requires_grad_()
    loss, _ = ppo_clip_loss(logp, old, adv, mask, **CLIP, n_trained=7, weight_BT=weight)
    loss.backward()
    assert weight.grad is None
    scaled, _ = ppo_clip_loss(logp, old, adv * weight, mask, **CLIP, n_trained=7)
    torch.testing.assert_close(loss, scaled)


def test_gradient_flows_into_the_policy_alone():
    logp, old, adv, mask = batch()
    logp, old, adv = (x.requires_grad_() for x in (logp, old, adv))
    (ppo_clip_loss(logp, old, adv, mask, **CLIP, n_trained=1)[0]).backward()
    (sequence_policy_loss(logp, old, adv[:, 0], mask, clip=None, n_sequences=1)[0]).backward()
    k2_loss(logp, old, mask, n_trained=1).backward()
    assert old.grad is None and adv.grad is None and logp.grad is not None


def test_padding_adds_nothing_even_where_it_is_nan():
    logp, old, adv, mask = batch()
    spoilt = [torch.where(mask, x, bad) for x, bad in ((logp, -math.inf), (old, -math.inf), (adv, math.nan))]
    weight = torch.where(mask, 1.0, math.nan)
    for f in (
        lambda x, o, a: ppo_clip_loss(x, o, a, mask, **CLIP, n_trained=7, weight_BT=weight)[0],
        lambda x, o, a: sequence_policy_loss(x, o, a[:, 0], mask, clip=0.2, n_sequences=8)[0],
        lambda x, o, a: k2_loss(x, o, mask, n_trained=7),
    ):
        results = []
        for x, o, a in ((logp, old, adv), spoilt):
            x = x.clone().requires_grad_()
            loss = f(x, o, a)
            loss.backward()
            results.append((loss.detach(), x.grad))
        torch.testing.assert_close(results[0], results[1])
        assert (results[1][1][~mask] == 0).all()


@pytest.mark.parametrize("size", [1, 2, 4])
def test_losses_and_gradients_are_the_same_however_the_batch_is_cut(size):
    logp, old, adv, mask = batch()
    n = mask.sum()
    for f in (
        lambda x, o, a, m: ppo_clip_loss(x, o, a, m, **CLIP, n_trained=n)[0],
        lambda x, o, a, m: sequence_policy_loss(x, o, a[:, 0], m, clip=0.2, n_sequences=8)[0],
        lambda x, o, a, m: k2_loss(x, o, m, n_trained=n),
    ):
        gradients = []
        for step in (8, size):
            x = logp.clone().requires_grad_()
            for i in range(0, 8, step):
                f(*(y[i : i + step] for y in (x, old, adv, mask))).backward()
            gradients.append(x.grad)
        torch.testing.assert_close(*gradients, atol=1e-6, rtol=0)
        assert gradients[0].abs().max() > 1e-3


def test_metrics_add_up_over_cuts_too():
    logp, old, adv, mask = batch()
    _, whole = ppo_clip_loss(logp, old, adv, mask, **CLIP, n_trained=mask.sum())
    cut = [
        ppo_clip_loss(*(x[i : i + 2] for x in (logp, old, adv, mask)), **CLIP, n_trained=mask.sum())[1]
        for i in (0, 2, 4, 6)
    ]
    for name, value in whole.items():
        torch.testing.assert_close(sum(m[name] for m in cut), value)
    assert 0 < whole["clip_frac"] < 1


def test_order_of_sequences_does_not_matter():
    logp, old, adv, mask = batch()
    order = torch.tensor([3, 1, 7, 0, 2, 6, 5, 4])
    for f in (
        lambda x, o, a, m: ppo_clip_loss(x, o, a, m, **CLIP, n_trained=9)[0],
        lambda x, o, a, m: sequence_policy_loss(x, o, a[:, 0], m, clip=0.2, n_sequences=8)[0],
    ):
        torch.testing.assert_close(f(logp, old, adv, mask), f(*(x[order] for x in (logp, old, adv, mask))))


def test_sequence_ratio_is_of_the_summed_log_probabilities():
    # dlogp (.1, .2) => ratio e^.3 = 1.349859, past 1.2; with advantage 2 the bounded gain is 2.4.
    logp, mask = torch.tensor([[0.1, 0.2, 5.0]]), torch.tensor([[True, True, False]])
    free, _ = sequence_policy_loss(logp, torch.zeros(1, 3), torch.tensor([2.0]), mask, clip=None, n_sequences=1)
    bound, metrics = sequence_policy_loss(logp, torch.zeros(1, 3), torch.tensor([2.0]), mask, clip=0.2, n_sequences=1)
    assert free.item() == pytest.approx(-2 * 1.349859, abs=1e-5)
    assert bound.item() == pytest.approx(-2.4)
    assert metrics["clip_frac"].item() == 1
    assert metrics["kl_old"].item() == pytest.approx(1.349859 - 1 - 0.3, abs=1e-5)


def test_fresh_samples_give_the_gradient_of_advantage_times_log_probability():
    logp, _, adv, mask = batch()
    logp.requires_grad_()
    loss, metrics = sequence_policy_loss(logp, logp.detach(), adv[:, 0], mask, clip=0.2, n_sequences=8)
    loss.backward()
    torch.testing.assert_close(logp.grad, torch.where(mask, -adv[:, :1] / 8, 0.0))
    assert metrics["clip_frac"].item() == metrics["kl_old"].item() == 0


def test_a_row_without_tokens_is_filler():
    logp, old, mask = torch.zeros(2, 2), torch.zeros(2, 2), torch.tensor([[True, True], [False, False]])
    loss, _ = sequence_policy_loss(logp, old, torch.tensor([1.0, math.nan]), mask, clip=0.2, n_sequences=1)
    assert loss.item() == -1


def test_k2_loss_by_hand():
    # d = .2, -.1, .5 => (.04 + .01 + .25) / 2 / 3 = .05.
    logp, ref = torch.tensor([[-1.0, -0.5, -2.0]]), torch.tensor([[-1.2, -0.4, -2.5]])
    assert k2_loss(logp, ref, torch.ones(1, 3, dtype=torch.bool), n_trained=3).item() == pytest.approx(0.05)
