"""The sliced log-probability against the plain formula of `algo.logprob`, forwards and backwards."""

import pytest
import torch

from tutelage.algo.logprob import entropy, token_logp
from tutelage.model import logits
from tutelage.model.logits import chosen_logp, head_logp


@pytest.fixture(params=[3, 5, 1024])
def slice_rows(request, monkeypatch):
    monkeypatch.setattr(logits, "SLICE", request.param)


def problem(m=10, v=17):
    g = torch.Generator().manual_seed(0)
    return torch.randn(m, v, generator=g) * 4, torch.randint(v, (m,), generator=g), torch.randn(m, generator=g)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_value_entropy_and_gradient_are_those_of_the_plain_formula(slice_rows, temperature):
    logits_MV, token_M, weight_M = problem()
    fast_MV, slow_MV = (logits_MV.clone().requires_grad_() for _ in range(2))
    logp_M, entropy_M = chosen_logp(fast_MV, token_M, temperature=temperature)
    expected_M = token_logp(slow_MV, token_M, temperature=temperature)
    torch.testing.assert_close(logp_M, expected_M, atol=1e-5, rtol=1e-5)
    # The entropy is a difference of two numbers as large as the logits, so its error is absolute.
    torch.testing.assert_close(entropy_M, entropy(logits_MV, temperature=temperature), atol=3e-5, rtol=0)
    (logp_M * weight_M).sum().backward()
    (expected_M * weight_M).sum().backward()
    torch.testing.assert_close(fast_MV.grad, slow_MV.grad, atol=1e-6, rtol=1e-5)


def test_two_tokens_worked_by_hand():
    # logits [0, 2 ln 3] at T = 2 are [0, ln 3]: p = [1/4, 3/4].
    logits_MV = torch.tensor([[0.0, 2 * 1.0986123]], requires_grad=True)
    logp_M, entropy_M = chosen_logp(logits_MV, torch.tensor([1]), temperature=2.0)
    logp_M.backward()
    assert logp_M.item() == pytest.approx(-0.2876821, abs=1e-6)  # ln 3/4
    assert entropy_M.item() == pytest.approx(0.5623351, abs=1e-6)  # 1/4 ln 4 + 3/4 ln 4/3
    assert logits_MV.grad[0].tolist() == pytest.approx([-0.125, 0.125], abs=1e-6)  # (onehot - p) / T


def test_entropy_is_left_out_when_it_is_not_asked_for_and_carries_no_gradient():
    logits_MV, token_M, _ = problem()
    logits_MV.requires_grad_()
    assert chosen_logp(logits_MV, token_M, with_entropy=False)[1].eq(0).all()
    assert not chosen_logp(logits_MV, token_M)[1].requires_grad


def test_half_precision_logits_are_widened_first(slice_rows):
    logits_MV, token_M, _ = problem()
    half_MV = (logits_MV * 5).bfloat16().requires_grad_()
    logp_M, _ = chosen_logp(half_MV, token_M, temperature=0.7)
    assert logp_M.dtype == torch.float32
    torch.testing.assert_close(logp_M, token_logp(half_MV.float(), token_M, temperature=0.7), atol=1e-5, rtol=1e-5)
    logp_M.sum().backward()
    assert half_MV.grad.dtype == torch.bfloat16


def test_large_logits_do_not_overflow_and_no_position_is_allowed():
    logp_M, entropy_M = chosen_logp(torch.tensor([[1e4, 0.0], [0.0, 1e4]]), torch.tensor([0, 0]))
    assert logp_M.tolist() == [0.0, -1e4]
    assert entropy_M.tolist() == pytest.approx([0.0, 0.0], abs=1e-3)
    assert chosen_logp(torch.zeros(0, 5), torch.zeros(0, dtype=torch.int64))[0].shape == (0,)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("most", [1, 60, 10_000])  # one row at a time, three, all
def test_logits_made_by_slices_give_the_same_and_the_gradients_of_both_factors(most, temperature, monkeypatch):
    monkeypatch.setattr(logits, "MOST_LOGITS", most)
    _, token_M, weight_M = problem()
    g = torch.Generator().manual_seed(1)
    x_MD, head_VD = torch.randn(10, 6, generator=g), torch.randn(17, 6, generator=g)
    fast, slow = ([t.clone().requires_grad_() for t in (x_MD, head_VD)] for _ in range(2))
    logp_M, entropy_M = head_logp(*fast, token_M, temperature=temperature)
    expected_M, spread_M = chosen_logp(slow[0] @ slow[1].T, token_M, temperature=temperature)
    torch.testing.assert_close(logp_M, expected_M, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(entropy_M, spread_M, atol=3e-5, rtol=0)
    (logp_M * weight_M).sum().backward()
    (expected_M * weight_M).sum().backward()
    for a, b in zip(fast, slow, strict=True):
        torch.testing.assert_close(a.grad, b.grad, atol=1e-5, rtol=1e-5)


def test_slices_follow_autocast_and_a_frozen_head_costs_no_gradient(monkeypatch):
    monkeypatch.setattr(logits, "MOST_LOGITS", 40)
    _, token_M, _ = problem()
    g = torch.Generator().manual_seed(1)
    x_MD, head_VD = torch.randn(10, 6, generator=g).requires_grad_(), torch.randn(17, 6, generator=g)
    with torch.autocast("cpu", torch.bfloat16):
        logp_M, _ = head_logp(x_MD, head_VD, token_M)
        expected_M, _ = chosen_logp(torch.nn.functional.linear(x_MD, head_VD), token_M)
    assert logp_M.dtype == torch.float32
    torch.testing.assert_close(logp_M, expected_M, atol=1e-5, rtol=1e-5)
    found, expected = (torch.autograd.grad(y.sum(), x_MD)[0] for y in (logp_M, expected_M))
    assert head_VD.grad is None
    torch.testing.assert_close(found, expected, atol=2e-2, rtol=2e-2)  # the sum over tokens is rounded otherwise
