"""Output layer and log-probability in one, against the two in a row. M positions, D width, V vocabulary."""

import pytest
import torch

from tutelage.engine.request import SamplingConfig
from tutelage.engine.sampling import draw
from tutelage.native import head
from tutelage.native.head import head_logp
from tutelage.native.linear import Paired, draw_rows, pair, read_logits


@pytest.fixture(params=[3, 10_000])
def slice_rows(request, monkeypatch):
    monkeypatch.setattr(head, "LEAST_ROWS", request.param)
    monkeypatch.setattr(head, "SLICE_BYTES", 0)


def problem(m=10, d=32, v=320):
    g = torch.Generator().manual_seed(0)
    hidden_MD, weight_VD = torch.randn(m, d, generator=g), torch.randn(v, d, generator=g) * 0.5
    return hidden_MD, weight_VD, torch.randint(v, (m,), generator=g), torch.randn(m, generator=g)


def run(hidden_MD, weight_VD, token_M, *, temperature=1.0, with_entropy=False):
    half_VD = weight_VD.detach().bfloat16()
    v, d = half_VD.shape
    straight, turned = Paired(pair([half_VD]), v, d), Paired(pair([half_VD], turned=True), d, v)
    return head_logp(
        hidden_MD, weight_VD, straight, turned, token_M, temperature=temperature, with_entropy=with_entropy
    )  # fmt: skip


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_values_and_gradients_are_those_of_the_layer_and_the_formula_in_float32(slice_rows, temperature):
    *inputs, token_M, grad_M = problem()
    fast, slow = ([x.clone().requires_grad_() for x in inputs] for _ in range(2))
    logp_M, entropy_M = run(*fast, token_M, temperature=temperature, with_entropy=True)
    all_MV = (slow[0] @ slow[1].T / temperature).log_softmax(-1)
    expected_M = all_MV.gather(1, token_M[:, None]).squeeze(1)
    # The states and the weights are rounded, the logits are not.
    torch.testing.assert_close(logp_M, expected_M, atol=0.03, rtol=2e-3)
    torch.testing.assert_close(entropy_M, -(all_MV.exp() * all_MV).sum(-1), atol=0.03, rtol=0.01)
    rounded_MV = (inputs[0].bfloat16().float() @ inputs[1].bfloat16().float().T / temperature).log_softmax(-1)
    torch.testing.assert_close(logp_M, rounded_MV.gather(1, token_M[:, None]).squeeze(1), atol=3e-5, rtol=3e-6)
    torch.testing.assert_close(entropy_M, -(rounded_MV.exp() * rounded_MV).sum(-1), atol=3e-5, rtol=1e-4)
    assert not entropy_M.requires_grad
    (logp_M @ grad_M).backward()
    (expected_M @ grad_M).backward()
    for a, b in zip(fast, slow, strict=True):
        assert (a.grad - b.grad).norm() < 0.02 * b.grad.norm()


def test_slices_change_nothing_but_the_order_of_a_sum(monkeypatch):
    hidden_MD, weight_VD, token_M, grad_M = problem()
    results = []
    for rows in (1, 4, 100):
        monkeypatch.setattr(head, "LEAST_ROWS", rows)
        monkeypatch.setattr(head, "SLICE_BYTES", 0)
        leaves = [hidden_MD.clone().requires_grad_(), weight_VD.clone().requires_grad_()]
        logp_M, _ = run(*leaves, token_M)
        (logp_M @ grad_M).backward()
        results.append([logp_M.detach(), leaves[0].grad, leaves[1].grad])
    for logp_M, grad_MD, grad_VD in results[1:]:
        assert torch.equal(logp_M, results[0][0]) and torch.equal(grad_MD, results[0][1])
        torch.testing.assert_close(grad_VD, results[0][2], atol=1e-6, rtol=1e-5)


def test_frozen_sides_get_no_gradient_and_no_position_is_allowed():
    hidden_MD, weight_VD, token_M, _ = problem()
    hidden_MD.requires_grad_()
    run(hidden_MD, weight_VD, token_M)[0].sum().backward()
    assert weight_VD.grad is None and hidden_MD.grad.abs().max() > 0
    weight_VD.requires_grad_()
    logp_M, _ = run(hidden_MD.detach()[:0], weight_VD, token_M[:0], with_entropy=True)
    logp_M.sum().backward()
    assert logp_M.shape == (0,) and weight_VD.grad.eq(0).all()


@pytest.mark.parametrize("v", [320, 321, 31])
def test_logits_and_draws_are_those_of_plain_torch(v):
    hidden_MD, weight_VD, *_ = problem(m=200, v=v)
    half_MD, half_VD = hidden_MD.bfloat16(), weight_VD.bfloat16()
    logits_MV = read_logits(half_MD, Paired(pair([half_VD]), v, 32))
    torch.testing.assert_close(logits_MV, half_MD.float() @ half_VD.float().T, atol=1e-5, rtol=1e-5)
    uniform_M = torch.rand(200, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    uniform_M[:2] = torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64)
    expected_M, expected_logp_M = draw(logits_MV, uniform_M, SamplingConfig(temperature=0.7))
    token_M, logp_M = draw_rows(logits_MV, uniform_M, temperature=0.7)
    assert torch.equal(token_M, expected_M) and len(token_M.unique()) > 5 and token_M[:2].tolist() == [0, v - 1]
    torch.testing.assert_close(logp_M, expected_logp_M, atol=3e-6, rtol=1e-6)


def test_a_forbidden_token_and_one_that_is_not_a_number_stay_what_they_are():
    # Logits of +-inf come of weights of +-inf: a token that nothing can draw, and a broken one.
    hidden_MD, weight_VD, token_M, _ = problem()
    hidden_MD = hidden_MD.abs() + 0.1
    weight_VD[7] = -torch.inf
    token_M[token_M == 7] = 8
    _, entropy_M = run(hidden_MD, weight_VD, token_M, with_entropy=True)
    others = [i for i in range(320) if i != 7]
    all_MV = (hidden_MD.bfloat16().float() @ weight_VD[others].bfloat16().float().T).log_softmax(-1)
    torch.testing.assert_close(entropy_M, -(all_MV.exp() * all_MV).sum(-1), atol=3e-5, rtol=1e-4)
    assert run(hidden_MD, weight_VD, torch.full_like(token_M, 7))[0].eq(-torch.inf).all()
    weight_VD[7] = torch.nan
    assert all(x.isnan().all() for x in run(hidden_MD, weight_VD, token_M, with_entropy=True))
