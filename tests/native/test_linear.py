"""Linear layers, gated MLPs and the output layer on paired weights, against plain torch in float64.

N tokens, I columns of the input, O of the output, F inner width, V vocabulary.
"""

import pytest
import torch

from tutelage.algo.logprob import entropy, token_logp
from tutelage.native import plain
from tutelage.native.layer import GELU, GELU_TANH
from tutelage.native.linear import (
    Paired,
    activated,
    activated_backward,
    gated,
    gated_backward,
    linear,
    pair,
    read_head,
    read_head_backward,
)

SIZES = [1, 3, 17, 65]
ROUNDING = 2**-8  # of the norm of a whole tensor: bf16 keeps 8 bits


def noise(*shape, seed=0, scale=1.0):
    return (torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale).bfloat16()


def paired(weight_OI, bias_O=None):
    return Paired(pair([weight_OI]), *weight_OI.shape, bias_O)


def turned(weight_OI):
    return Paired(pair([weight_OI], turned=True), weight_OI.shape[1], len(weight_OI))


def assert_near(got, expected, tolerance=ROUNDING, floor=0.0):
    """`floor` is the size of the terms, where they may cancel."""
    error, size = (got.double() - expected.double()).norm(), max(expected.double().norm(), floor)
    assert error <= tolerance * size, f"{error / size:.2e}"


@pytest.mark.parametrize("n", [*SIZES, 300])
@pytest.mark.parametrize(("n_out", "n_in"), [(1, 1), (3, 65), (65, 3), (64, 32), (768, 256), (48, 130), (1024, 544)])
def test_linear_both_ways(n, n_out, n_in):
    weight_OI, bias_O = noise(n_out, n_in), noise(n_out, seed=1)
    x_NI, y_NO = noise(n, n_in, seed=2), noise(n, n_out, seed=3)
    assert_near(linear(x_NI, paired(weight_OI)), x_NI.double() @ weight_OI.double().T)
    assert_near(linear(x_NI, paired(weight_OI, bias_O)), x_NI.double() @ weight_OI.double().T + bias_O.double())
    assert_near(linear(y_NO, turned(weight_OI)), y_NO.double() @ weight_OI.double())


def test_two_weights_below_each_other_give_both_results_side_by_side():
    one_OI, two_OI, x_NI = noise(48, 64), noise(33, 64, seed=1), noise(5, 64, seed=2)
    both_NO = linear(x_NI, paired(torch.cat([one_OI, two_OI])))
    assert torch.equal(both_NO, torch.cat([linear(x_NI, paired(w)) for w in (one_OI, two_OI)], dim=1))


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize(("f", "width"), [(1, 3), (65, 17), (48, 32), (704, 256)])
def test_a_gated_mlp_and_its_gradient(n, f, width):
    gate_FI, up_FI, down_OF = noise(f, width), noise(f, width, seed=1), noise(width, f, seed=2, scale=0.1)
    x_NI, grad_NO = noise(n, width, seed=3, scale=0.3), noise(n, width, seed=4)
    out_NF, kept_N2F = gated(x_NI, paired(gate_FI), paired(up_FI), keep=True)
    assert_near(kept_N2F, x_NI.double() @ torch.cat([gate_FI, up_FI]).double().T)
    wide_N2F = kept_N2F.double().requires_grad_()  # as kept: the gradient is that of the rounded gates
    expected_NF = plain.gate(wide_N2F)
    assert_near(out_NF, expected_NF)
    (expected_NF @ down_OF.double().T).backward(grad_NO.double())
    grad_N2F, again_NF = gated_backward(grad_NO, turned(down_OF), kept_N2F)
    assert torch.equal(again_NF, out_NF)
    assert_near(grad_N2F, wide_N2F.grad)
    without_NF, nothing = gated(x_NI, paired(gate_FI), paired(up_FI), keep=False)
    assert torch.equal(without_NF, out_NF) and nothing is None


@pytest.mark.parametrize("activation", [GELU, GELU_TANH])
@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize(("f", "width"), [(1, 3), (65, 17), (48, 32), (704, 256)])
def test_an_mlp_without_gates_and_its_gradient(n, f, width, activation):
    up_FI, bias_F, down_OF = noise(f, width), noise(f, seed=1), noise(width, f, seed=2, scale=0.1)
    x_NI, grad_NO = noise(n, width, seed=3, scale=0.3), noise(n, width, seed=4)
    out_NF, kept_NF = activated(x_NI, paired(up_FI, bias_F), activation, keep=True)
    assert_near(kept_NF, x_NI.double() @ up_FI.double().T + bias_F.double())
    wide_NF = kept_NF.double().requires_grad_()  # as kept: the gradient is that of the rounded numbers
    expected_NF = plain.gelu(wide_NF, tanh=activation == GELU_TANH)
    assert_near(out_NF, expected_NF)
    (expected_NF @ down_OF.double().T).backward(grad_NO.double())
    grad_NF, again_NF = activated_backward(grad_NO, turned(down_OF), kept_NF, activation)
    assert torch.equal(again_NF, out_NF)
    assert_near(grad_NF, wide_NF.grad)
    without_NF, nothing = activated(x_NI, paired(up_FI, bias_F), activation, keep=False)
    assert torch.equal(without_NF, out_NF) and nothing is None


@pytest.mark.parametrize("activation", [GELU, GELU_TANH])
def test_gelu_is_right_from_end_to_end_and_nan_stays(activation):
    x_N1 = torch.tensor([[0.0], [1.0], [-1.0], [3.0], [-3.0], [200.0], [-200.0], [torch.nan]]).bfloat16()
    out_N = activated(x_N1, paired(torch.ones(1, 1).bfloat16()), activation, keep=False)[0].squeeze(1).double()
    exact_N = x_N1.squeeze(1).double()
    exact_N = exact_N * (1 + torch.erf(exact_N / 2**0.5)) / 2
    # Phi(1) = .841345: gelu(1) = .841345, gelu(-1) = -.158655.
    torch.testing.assert_close(out_N[:7], exact_N[:7], atol=2e-3, rtol=4e-3)
    assert out_N[7].isnan()


def test_far_gates_neither_overflow_nor_lose_their_sign():
    one = paired(torch.ones(1, 1).bfloat16())
    x_NI = torch.tensor([[200.0], [-200.0], [1e19], [-1e19], [torch.nan]]).bfloat16()
    out_NF = gated(x_NI, one, one, keep=False)[0].squeeze(1)
    assert out_NF[:2].tolist() == [39936.0, 0.0]  # 200^2 in bf16
    assert out_NF[:4].isfinite().all() and out_NF[4].isnan()


@pytest.mark.parametrize("n_threads", [1, 3])
def test_no_rows_give_no_rows(on_threads, n_threads):
    gate, up, down = paired(noise(48, 64)), paired(noise(48, 64, seed=1), noise(48)), turned(noise(64, 48, seed=2))
    x_NI, none_N = noise(0, 64), torch.empty(0)

    def everything():
        _, kept_N2F = gated(x_NI, gate, up, keep=True)
        _, kept_NF = activated(x_NI, up, GELU, keep=True)
        return [
            linear(x_NI, up), kept_N2F, kept_NF, *gated_backward(x_NI, down, kept_N2F),
            *activated_backward(x_NI, down, kept_NF, GELU),
            *read_head(x_NI, gate, none_N.long(), 1.0, with_entropy=True),
            *read_head_backward(x_NI, gate, turned(noise(48, 64)), none_N.long(), none_N, none_N, 1.0),
        ]  # fmt: skip

    assert all(len(out) == 0 for out in on_threads(n_threads, everything))


@pytest.mark.parametrize("step", [0.05, 0.3, 3.0, -0.3, -3.0])
def test_the_output_layer_bears_logits_that_rise_and_fall_from_column_to_column(step):
    v = 336
    logits_NV = (torch.arange(v) * step).expand(3, v).bfloat16()
    token_N = torch.tensor([0, 170, v - 1])
    logp_N, norm_N, entropy_N = read_head(logits_NV, paired(torch.eye(v).bfloat16()), token_N, 1.0, with_entropy=True)
    wide_NV = logits_NV.double()
    torch.testing.assert_close(logp_N.double(), token_logp(wide_NV, token_N), atol=1e-4, rtol=1e-6)
    torch.testing.assert_close(norm_N.double(), wide_NV.logsumexp(dim=1), atol=1e-4, rtol=1e-6)
    torch.testing.assert_close(entropy_N.double(), entropy(wide_NV), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("n", [*SIZES, 130])
@pytest.mark.parametrize("v", [2, 17, 336, 2048])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_log_probability_entropy_and_gradient_at_the_output_layer(n, v, temperature):
    # The weight is the identity, so the logits are the hidden states, to the bit.
    logits_NV, grad_N = noise(n, v, scale=4.0), noise(n, seed=1).float()
    token_N = torch.randint(v, (n,), generator=torch.Generator().manual_seed(2))
    eye_VV = torch.eye(v).bfloat16()
    wide_NV = logits_NV.double().requires_grad_()
    expected_N = token_logp(wide_NV, token_N, temperature=temperature)
    expected_N.backward(grad_N.double())
    logp_N, norm_N, entropy_N = read_head(logits_NV, paired(eye_VV), token_N, temperature, with_entropy=True)
    torch.testing.assert_close(logp_N, expected_N.detach().float(), atol=1e-5, rtol=1e-6)
    spread_N = entropy(logits_NV.double(), temperature=temperature).float()
    torch.testing.assert_close(entropy_N, spread_N, atol=1e-5, rtol=1e-5)
    assert read_head(logits_NV, paired(eye_VV), token_N, temperature, with_entropy=False)[2].eq(0).all()
    for back in (turned(eye_VV), None):
        slope_NV, grad_NI = read_head_backward(
            logits_NV, paired(eye_VV), back, token_N, norm_N, grad_N, temperature
        )  # fmt: skip
        assert_near(slope_NV, wide_NV.grad, floor=1e-4)  # 1 - p cancels where the token is certain
        assert grad_NI is None if back is None else torch.equal(grad_NI, slope_NV)


def test_a_forbidden_token_adds_nothing_and_large_logits_do_not_overflow():
    low = -3.3e38  # as good as minus infinity, which times 0 would be no number
    x_NI = torch.tensor([[0.0, 0.0, low], [1e4, 0.0, 0.0], [0.0, 1e4, low]]).bfloat16()
    logp_N, _, entropy_N = read_head(
        x_NI, paired(torch.eye(3).bfloat16()), torch.zeros(3).long(), 1.0, with_entropy=True
    )
    assert logp_N.tolist() == pytest.approx([-0.6931472, 0.0, -9984.0], abs=1e-6)  # 1e4 in bf16 is 9984
    assert entropy_N.tolist() == pytest.approx([0.6931472, 0.0, 0.0], abs=1e-6)


def test_what_is_not_finite_stays_so():
    x_NI, head = torch.full((1, 32), torch.nan).bfloat16(), paired(noise(7, 32))
    assert all(x.isnan().all() for x in read_head(x_NI, head, torch.tensor([0]), 1.0, with_entropy=True))
    assert linear(x_NI, head).isnan().all()


def test_a_token_that_is_not_in_the_vocabulary_is_refused():
    for token in (-1, 7):
        with pytest.raises(AssertionError, match="out of range"):
            read_head(noise(1, 32), paired(noise(7, 32)), torch.tensor([token]), 1.0, with_entropy=False)


@pytest.mark.parametrize("n_threads", [1, 3])
def test_a_row_does_not_depend_on_its_company_or_the_threads(n_threads):
    x_NI, weight_OI = noise(150, 96), noise(80, 96, seed=1)
    token_N = torch.arange(150) % 80
    whole = paired(weight_OI)
    alone = [
        (linear(x[None], whole), *read_head(x[None], whole, t[None], 1.0, with_entropy=True))
        for x, t in zip(x_NI, token_N, strict=True)
    ]
    torch.set_num_threads(n_threads)
    try:
        together = (linear(x_NI, whole), *read_head(x_NI, whole, token_N, 1.0, with_entropy=True))
    finally:
        torch.set_num_threads(1)
    assert all(torch.equal(torch.cat(one), many) for one, many in zip(zip(*alone, strict=True), together, strict=True))
