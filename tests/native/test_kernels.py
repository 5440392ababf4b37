"""Each kernel against its definition in plain torch, in float64, from the same bf16 inputs.

A result in bf16 may differ by its own rounding, 2^-9 of a number; sums of such, by that of the terms.
"""

import pytest
import torch

from tutelage.native import kernels, plain
from tutelage.native.kernels import Heads, Norm, Sequences

SIZES = [1, 3, 17, 65]
ROUNDING = 2**-8  # of the norm of a whole tensor: bf16 keeps 8 bits


def noise(*shape, seed=0, scale=1.0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale


def assert_near(got, expected, tolerance, floor=0.0):
    """`floor` is the size of the terms, where they may cancel."""
    error, size = (got.double() - expected.double()).norm(), max(expected.double().norm(), floor)
    assert error <= tolerance * size, f"{error / size:.2e}"


def gradients(function, inputs, grad):
    """Result of a plain function in float64, and the gradient by each input."""
    wide = [x.double().requires_grad_() for x in inputs]
    out = function(*wide)
    out.backward(grad.double())
    return out.detach(), [x.grad for x in wide]


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("d", [*SIZES, 256])
@pytest.mark.parametrize("has_y", [True, False])
@pytest.mark.parametrize("has_bias", [False, True])
def test_norm_and_its_gradient(n, d, has_y, has_bias):
    x_ND, weight_D = noise(n, d) + 2 * has_bias, noise(d, seed=1) + 1
    bias_D = noise(d, seed=7) if has_bias else None
    by = Norm(weight_D, bias_D, 1e-5)
    y_ND = noise(n, d, seed=2).bfloat16() if has_y else None
    total_ND = x_ND + (y_ND.float() if has_y else 0)
    sum_ND, half_ND, moments_2N = kernels.norm(x_ND, y_ND, by)
    assert torch.equal(sum_ND, total_ND)
    wide_ND = kernels.norm(x_ND, y_ND, by, wide=True)[1]
    grad_ND, past_ND = noise(n, d, seed=3).bfloat16(), noise(n, d, seed=4)
    if has_bias:
        expected_ND, (slope_ND, slope_D, level_D) = gradients(
            lambda x, w, b: plain.layer_norm(x, w, b, 1e-5), [total_ND, weight_D, bias_D], grad_ND
        )
    else:
        expected_ND, (slope_ND, slope_D) = gradients(
            lambda x, w: plain.rms_norm(x, w, 1e-5), [total_ND, weight_D], grad_ND
        )
    # Of one column nothing is left about its mean; of three, rounding is multiplied where they are nearly alike.
    assert_near(wide_ND, expected_ND, 1e-5 if has_bias else 1e-6)
    assert torch.equal(half_ND, wide_ND.bfloat16())
    for given_ND in (grad_ND, grad_ND.float()):
        got_ND, rounded_ND, got_D, got_level_D = kernels.norm_backward(given_ND, past_ND, sum_ND, moments_2N, by)
        assert_near(got_ND, slope_ND + past_ND, 1e-5, floor=(grad_ND * weight_D * moments_2N[0][:, None]).norm())
        assert torch.equal(rounded_ND, got_ND.bfloat16())
        assert_near(got_D, slope_D, 1e-5, floor=1e-4)
        if has_bias:
            assert_near(got_level_D, level_D, 1e-5)
        else:
            assert got_level_D is None
    # With one column the norm is a sign, and its two terms cancel.
    alone_ND = kernels.norm_backward(grad_ND, None, sum_ND, moments_2N, by)[0]
    assert_near(alone_ND, slope_ND, 1e-5, (grad_ND * weight_D * moments_2N[0][:, None]).norm())


ROTATED = [
    ([1], 1, 1, 8, False),
    ([3, 17, 65, 1, 130], 4, 2, 8, True),
    ([64, 33], 4, 4, 64, False),
    ([65, 3], 6, 2, 96, True),
    ([31, 2], 2, 1, 128, False),
    ([200], 3, 3, 18, False),
]


def problem(lengths, queries, groups, width, has_norms):
    t = max(lengths)
    angle_TK = noise(t, width // 2, seed=5).repeat(1, 2) * 3
    rows = Sequences(
        torch.tensor([0, *lengths]).cumsum(0), torch.zeros(len(lengths), dtype=torch.int64),
        torch.zeros(sum(lengths), dtype=torch.int64), torch.cat([torch.arange(n) for n in lengths]),
        angle_TK.cos(), angle_TK.sin(),
    )  # fmt: skip
    heads = Heads(queries, groups, width, width**-0.5, 1e-6)
    qkv_NC = noise(sum(lengths), heads.columns, scale=1.5).bfloat16()
    norms = [noise(width, seed=6 + i) + 1 for i in range(2)] if has_norms else [None, None]
    return qkv_NC, rows, heads, norms


def assert_attends_as(slow, qkv_NC, rows, heads, norms, grad_NO):
    """Attention and its gradients, of the rows and of the norms' weights, are those of the plain function."""
    expected_NO, slopes = gradients(slow, [qkv_NC, *norms], grad_NO)
    kept = norms or (None, None)
    out_NO, lse_NH = kernels.attention(qkv_NC, rows, heads, *kept)
    assert_near(out_NO, expected_NO, 2 * ROUNDING)
    got = kernels.attention_backward(grad_NO, qkv_NC, out_NO, lse_NH, rows, heads, *kept)
    assert_near(got[0], slopes[0], 3 * ROUNDING)
    for got_K, slope_K in zip(got[1:], slopes[1:], strict=True) if norms else ():
        assert_near(got_K, slope_K, 4 * ROUNDING)


@pytest.mark.parametrize(("lengths", "queries", "groups", "width", "has_norms"), ROTATED)
def test_attention_and_its_gradient(lengths, queries, groups, width, has_norms):
    qkv_NC, rows, heads, norms = problem(lengths, queries, groups, width, has_norms)
    grad_NO = noise(len(qkv_NC), queries * width, seed=9).bfloat16()

    def slow(qkv, *norms):
        q_norm, k_norm = norms or (None, None)
        return plain.attention(
            qkv, lengths, rows.cos_TK.double(), rows.sin_TK.double(), queries=queries, groups=groups,
            scaling=heads.scaling, eps=heads.eps, q_norm_K=q_norm, k_norm_K=k_norm,
        )  # fmt: skip

    assert_attends_as(slow, qkv_NC, rows, heads, norms if has_norms else (), grad_NO)


@pytest.mark.parametrize(("queries", "groups", "width", "has_norms"), [(4, 2, 32, True), (3, 3, 64, False)])
@pytest.mark.parametrize(
    ("trunk", "branches"), [(16, [1, 5, 64]), (33, [70, 3]), (64, [64] * 5), (130, [40, 7, 1, 65])]
)
def test_branches_see_their_trunk_and_themselves(trunk, branches, queries, groups, width, has_norms):
    # Against the same attention of rows that each have the trunk for themselves.
    n = trunk + sum(branches)
    qkv_NC, rows, heads, norms = problem([n, 20], queries, groups, width, has_norms)
    start = [trunk + sum(branches[:i]) for i in range(len(branches))]
    own = torch.cat([torch.full((size,), s) for s, size in zip(start, branches, strict=True)])
    position = torch.cat([trunk + torch.arange(size) for size in branches])
    rows.own_N[trunk:n], rows.position_N[trunk:n], rows.trunk_B[0] = own, position, trunk
    spans = [
        torch.cat([torch.arange(trunk), torch.arange(s, s + size)]) for s, size in zip(start, branches, strict=True)
    ]
    grad_NO = noise(len(qkv_NC), queries * width, seed=9).bfloat16()

    def slow(qkv, *norms):
        q_norm, k_norm = norms or (None, None)
        alone = plain.attention(
            torch.cat([*(qkv[span] for span in spans), qkv[n:]]), [*map(len, spans), 20], rows.cos_TK.double(),
            rows.sin_TK.double(), queries=queries, groups=groups, scaling=heads.scaling, eps=heads.eps,
            q_norm_K=q_norm, k_norm_K=k_norm,
        ).split([*map(len, spans), 20])  # fmt: skip
        return torch.cat([alone[0][:trunk], *(out[trunk:] for out in alone[:-1]), alone[-1]])

    assert_attends_as(slow, qkv_NC, rows, heads, norms if has_norms else (), grad_NO)


@pytest.mark.parametrize("at", [0, 31, 32, 63, 64, 100])
def test_no_token_sees_a_later_one_or_another_sequence(at):
    qkv_NC, rows, heads, norms = problem([101, 40], 4, 2, 32, False)
    before_NO = kernels.attention(qkv_NC, rows, heads, *norms)[0]
    qkv_NC[at] = 50.0
    after_NO = kernels.attention(qkv_NC, rows, heads, *norms)[0]
    assert torch.equal(before_NO[:at], after_NO[:at]) and torch.equal(before_NO[101:], after_NO[101:])
    assert not torch.equal(before_NO[at], after_NO[at])


def test_scores_of_hundreds_do_not_overflow():
    qkv_NC, rows, heads, norms = problem([70], 2, 2, 32, False)
    out_NO, lse_NH = kernels.attention(qkv_NC * 30, rows, heads, *norms)
    assert lse_NH.max() > 200 and out_NO.isfinite().all()
    assert kernels.attention_backward(out_NO, qkv_NC * 30, out_NO, lse_NH, rows, heads, *norms)[0].isfinite().all()


@pytest.mark.parametrize(("rows", "columns"), [(32, 64), (320, 32), (48, 17)])
@pytest.mark.parametrize("n", [*SIZES, 300])
def test_weight_gradient(n, rows, columns):
    grad_NR, x_NC = noise(n, rows).bfloat16(), noise(n, columns, seed=1).bfloat16()
    # Sizes off the grid of 32 go through torch, which rounds the sum to bf16.
    tolerance = 1e-6 if rows % 32 == columns % 32 == 0 else ROUNDING
    assert_near(kernels.weight_gradient(grad_NR, x_NC), grad_NR.double().T @ x_NC.double(), tolerance)


@pytest.mark.parametrize("n", [1, 40, 1100])
def test_the_gradient_of_rows_that_lie_apart_is_theirs_alone(n):
    wide_NW, x_NC = noise(n, 100).bfloat16(), noise(n, 64, seed=1).bfloat16()
    wide_NW[:, 32:] = torch.nan
    assert_near(kernels.weight_gradient(wide_NW[:, :32], x_NC), wide_NW[:, :32].double().T @ x_NC.double(), 1e-6)
    with pytest.raises(AssertionError, match="whole rows"):
        kernels.weight_gradient(noise(32, 40).bfloat16().T, noise(40, 64).bfloat16())


def test_what_is_not_finite_stays_so():
    nan = torch.full((1, 32), torch.nan)
    for bias_D in (None, torch.zeros(32)):
        assert kernels.norm(nan, None, Norm(torch.ones(32), bias_D, 1e-5))[1].isnan().all()
    qkv_NC, rows, heads, norms = problem([3], 1, 1, 32, False)
    assert kernels.attention(qkv_NC * torch.nan, rows, heads, *norms)[0].isnan().all()


def test_the_number_of_threads_changes_no_bit_but_those_of_a_norm_weight():
    qkv_NC, rows, heads, norms = problem([65, 3, 40], 4, 2, 32, True)
    x_ND, y_ND = noise(108, 64), noise(108, 64, seed=1).bfloat16()
    by = Norm(noise(64, seed=2), noise(64, seed=3), 1e-5)

    def everything():
        out_NO, lse_NH = kernels.attention(qkv_NC, rows, heads, *norms)
        back = kernels.attention_backward(out_NO, qkv_NC, out_NO, lse_NH, rows, heads, *norms)
        sum_ND, half_ND, moments_2N = kernels.norm(x_ND, y_ND, by)
        slopes = kernels.norm_backward(half_ND, x_ND, sum_ND, moments_2N, by)
        return [out_NO, lse_NH, *back, half_ND, *slopes[:2], kernels.weight_gradient(qkv_NC, half_ND)], slopes[2]

    alone, weight_1 = everything()
    torch.set_num_threads(3)
    try:
        together, weight_3 = everything()
        again, weight_again = everything()
    finally:
        torch.set_num_threads(1)
    assert all(torch.equal(a, b) and torch.equal(a, c) for a, b, c in zip(alone, together, again, strict=True))
    assert_near(weight_3, weight_1, 1e-6)
    assert torch.equal(weight_3, weight_again)


@pytest.mark.parametrize("wrong", [lambda x: x.float(), lambda x: x[:, :-1], lambda x: x.T])
def test_a_tensor_that_a_kernel_cannot_read_is_refused(wrong):
    with pytest.raises(AssertionError, match="a kernel expects"):
        kernels.norm(noise(4, 8), wrong(noise(4, 8).bfloat16()), Norm(noise(8), None, 1e-5))
