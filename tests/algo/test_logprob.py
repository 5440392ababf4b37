"""Log-probabilities by hand, then temperature, precision and forbidden tokens."""

import math

import pytest
import torch

from tutelage.algo.logprob import entropy, token_logp


def test_log_probability_of_each_token_by_hand():
    # softmax(0, log 3) = (1/4, 3/4).
    logits = torch.tensor([[0.0, math.log(3)], [0.0, math.log(3)]])
    torch.testing.assert_close(token_logp(logits, torch.tensor([0, 1])), torch.tensor([0.25, 0.75]).log())


def test_temperature_divides_the_logits():
    logits = torch.tensor([[1.0, 2.0, 3.0]]).expand(3, 3)
    token = torch.arange(3)
    at_07 = token_logp(logits, token, temperature=0.7)
    torch.testing.assert_close(at_07, token_logp(logits / 0.7, token))
    assert (at_07 - token_logp(logits, token)).abs().max() > 0.1
    assert at_07.exp().sum().item() == pytest.approx(1)


def test_entropy_of_even_and_certain_choices():
    # Even over 4: log 4. Two tokens forbidden: log 2, and no nan from 0 * -inf, forwards or backwards.
    logits = torch.tensor([[5.0, 5.0, 5.0, 5.0], [1.0, 1.0, -math.inf, -math.inf]], requires_grad=True)
    h = entropy(logits)
    torch.testing.assert_close(h, torch.tensor([math.log(4), math.log(2)]))
    h.sum().backward()
    assert logits.grad.abs().max() < 1e-6


def test_entropy_is_the_mean_of_minus_log_probability_at_the_same_temperature():
    logits = torch.randn(5, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    logp = torch.stack([token_logp(logits, torch.full((5,), v), temperature=1.7) for v in range(7)], dim=1)
    torch.testing.assert_close(entropy(logits, temperature=1.7), -(logp.exp() * logp).sum(1))


def test_half_precision_logits_are_widened_first():
    logits = torch.tensor([[10.0, 20.0, 21.0]], dtype=torch.bfloat16)  # exact in bfloat16
    got = token_logp(logits, torch.tensor([0]), temperature=0.7)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, token_logp(logits.double(), torch.tensor([0]), temperature=0.7).float())


def test_leading_shape_is_free_and_a_shift_of_the_logits_changes_nothing():
    g = torch.Generator().manual_seed(1)
    logits, token = torch.randn(2, 3, 5, generator=g), torch.randint(5, (2, 3), generator=g)
    flat = token_logp(logits.reshape(6, 5), token.reshape(6))
    torch.testing.assert_close(token_logp(logits, token).reshape(6), flat)
    torch.testing.assert_close(token_logp(logits + 30, token).reshape(6), flat, atol=1e-5, rtol=0)


def test_temperature_zero_is_refused():
    with pytest.raises(AssertionError, match="above 0"):
        token_logp(torch.zeros(1, 2), torch.tensor([0]), temperature=0.0)
