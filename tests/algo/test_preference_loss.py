"""Worked losses of ranked completions, then weights, permutations and agreement with enumeration."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tutelage.algo.preference_loss import (
    all_pairs,
    davidson_nll,
    davidson_prob,
    pair_nll,
    plackett_luce_nll,
    rao_kupper_nll,
    rao_kupper_prob,
    strict_pairs,
    tied_pairs,
)

SCORE = torch.tensor([2.0, 1.0, 0.0, -1.0])
RANKED = torch.tensor([1, 2, 3, 4])
ONE_PROMPT = torch.zeros(4, dtype=torch.long)


def pairs(winner, loser):
    return set(zip(winner.tolist(), loser.tolist(), strict=True))


def test_pairs_of_four_ranked_completions():
    winner, loser, weight = strict_pairs(RANKED, ONE_PROMPT)
    assert pairs(winner, loser) == {(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)}
    nll = pair_nll(SCORE[winner] - SCORE[loser])
    assert nll.sum().item() == pytest.approx(1.242228, abs=1e-5)
    assert (weight * nll).sum().item() == pytest.approx(0.207038, abs=1e-5)


def test_pairs_with_ties_and_prompts_interleaved():
    # Prompt 0: completions 0, 2, 4 with tiers 2, 1, 2; prompt 1: 1, 3 with tiers 1, 1; prompt 2: 5 alone.
    tier, group = torch.tensor([2, 1, 1, 1, 2, 1]), torch.tensor([0, 1, 0, 1, 0, 2])
    winner, loser, weight = strict_pairs(tier, group)
    assert pairs(winner, loser) == {(2, 0), (2, 4)}
    assert weight.tolist() == [0.5, 0.5]
    i, j, weight = tied_pairs(tier, group)
    assert pairs(i, j) == {(0, 4), (1, 3)}
    assert weight.tolist() == [0.5, 0.5]
    i, j, outcome, weight = all_pairs(tier, group)
    got = dict(zip(zip(i.tolist(), j.tolist(), strict=True), outcome.tolist(), strict=True))
    assert got == {(0, 2): -1, (0, 4): 0, (2, 4): 1, (1, 3): 0}
    weights = dict(zip(zip(i.tolist(), j.tolist(), strict=True), weight.tolist(), strict=True))
    assert weights[1, 3] == 0.5 and weights[0, 2] == pytest.approx(1 / 6)


def test_a_prompt_of_many_pairs_weighs_no_more_than_one_of_few():
    tier = torch.tensor([*range(4), *range(9)])
    group = torch.tensor([0] * 4 + [1] * 9)
    winner, _, weight = strict_pairs(tier, group)
    assert len(winner) == 6 + 36
    for prompt in (0, 1):
        assert weight[group[winner] == prompt].sum().item() == pytest.approx(0.5)


def test_weights_of_microbatches_add_up_when_the_number_of_prompts_is_given():
    g = torch.Generator().manual_seed(0)
    tier, group = torch.randint(1, 4, (12,), generator=g), torch.arange(12) // 4
    score = torch.randn(12, generator=g, dtype=torch.float64)

    def loss(t, gr, s, n):
        winner, loser, weight = strict_pairs(t, gr, n_prompts=n)
        return (weight * pair_nll(s[winner] - s[loser])).sum() + plackett_luce_nll(s, t, gr, n_prompts=n)

    whole = loss(tier, group, score, None)
    cut = [loss(tier[i : i + 4], group[i : i + 4], score[i : i + 4], 3) for i in (0, 4, 8)]
    torch.testing.assert_close(sum(cut), whole)


def test_a_batch_without_pairs_costs_nothing():
    winner, loser, weight = strict_pairs(torch.tensor([1, 1]), torch.tensor([0, 1]))
    assert len(winner) == len(loser) == len(weight) == 0
    assert plackett_luce_nll(torch.randn(2), torch.tensor([1, 1]), torch.tensor([0, 1])).item() == 0


def test_bradley_terry_loss_and_gradient_at_margin_nought():
    margin = torch.zeros(1, requires_grad=True)
    nll = pair_nll(margin)
    nll.sum().backward()
    assert nll.item() == pytest.approx(0.693147, abs=1e-6)
    assert margin.grad.item() == -0.5


def test_smoothing_and_target_margin():
    assert pair_nll(torch.tensor(0.15)).item() == pytest.approx(0.620957, abs=1e-5)
    assert pair_nll(torch.tensor(0.15), smoothing=0.1).item() == pytest.approx(0.635957, abs=1e-5)
    assert pair_nll(torch.tensor(1.15), margin_target=1.0).item() == pytest.approx(0.620957, abs=1e-5)
    # A flipped label would ask the loser to lead by the target: .9 L(.15) + .1 L(-2.15).
    want = 0.9 * 0.620957 + 0.1 * math.log1p(math.exp(2.15))
    assert pair_nll(torch.tensor(1.15), smoothing=0.1, margin_target=1.0).item() == pytest.approx(want, abs=1e-5)


def test_smoothed_loss_is_least_where_the_model_is_as_unsure_as_the_labels():
    margin = torch.linspace(-5, 5, 1001)
    best = margin[pair_nll(margin, smoothing=0.1).argmin()]
    assert best.sigmoid().item() == pytest.approx(0.9, abs=0.002)


@pytest.mark.parametrize(
    ("margin", "davidson", "rao_kupper"),
    [
        (0.0, (0.4, 0.2, 0.4), (0.4, 0.2, 0.4)),
        (1.0, (0.598392, 0.181472, 0.220136), (0.644405, 0.158645, 0.196950)),
        (2.0, (0.757992, 0.139425, 0.102583), (0.831253, 0.085990, 0.082757)),
    ],
)
def test_tie_models_by_hand(margin, davidson, rao_kupper):
    m, outcome = torch.full((3,), margin), torch.tensor([1, 0, -1])
    for prob, nll, parameter, want in (
        (davidson_prob, davidson_nll, math.log(0.5), davidson),
        (rao_kupper_prob, rao_kupper_nll, math.log(1.5 - 1), rao_kupper),
    ):
        got = [p[0].item() for p in prob(m, parameter)]
        assert got == pytest.approx(want, abs=1e-5)
        assert nll(m, outcome, parameter).tolist() == pytest.approx([-math.log(p) for p in want], abs=1e-5)


@pytest.mark.parametrize("prob", [davidson_prob, rao_kupper_prob])
def test_tie_models_sum_to_one_mirror_and_fall_back_to_bradley_terry(prob):
    margin = torch.linspace(-30, 30, 61, dtype=torch.float64)
    for parameter in (-3.0, 0.0, 2.0):
        win, tie, loss = prob(margin, parameter)
        torch.testing.assert_close(win + tie + loss, torch.ones_like(margin))
        torch.testing.assert_close(win.flip(0), loss)
        torch.testing.assert_close(tie.flip(0), tie)
    win, tie, _ = prob(margin, -math.inf)
    torch.testing.assert_close(win, margin.sigmoid())
    assert (tie == 0).all()


@pytest.mark.parametrize("nll", [davidson_nll, rao_kupper_nll])
def test_tie_parameter_can_be_trained(nll):
    # 30 ties in 100 at margin 0: the tie chance must come out at .3.
    outcome = torch.tensor([0] * 30 + [1] * 35 + [-1] * 35)
    parameter = torch.zeros((), dtype=torch.float64, requires_grad=True)
    margin = torch.zeros(100, dtype=torch.float64)
    for _ in range(300):
        (gradient,) = torch.autograd.grad(nll(margin, outcome, parameter).mean(), parameter)
        parameter = (parameter - 2 * gradient).detach().requires_grad_()
    prob = davidson_prob if nll is davidson_nll else rao_kupper_prob
    assert prob(margin[:1], parameter)[1].item() == pytest.approx(0.3, abs=1e-4)


def test_plackett_luce_by_hand():
    assert plackett_luce_nll(SCORE, RANKED, ONE_PROMPT).item() == pytest.approx(1.161057, abs=1e-5)


@pytest.mark.parametrize(
    ("score", "want"),
    [
        (torch.linspace(1, 2, 4, dtype=torch.float64).log(), -5.486092774024455),
        (torch.zeros(4, dtype=torch.float64), -math.log(4) - 2 * (math.log(3) + math.log(2))),
    ],
)
def test_plackett_luce_agrees_with_choix(score, want):
    # Rankings (0, 1, 2, 3) and (1, 3, 0) of items; the mean over two prompts is half the sum.
    item, tier = torch.tensor([0, 1, 2, 3, 1, 3, 0]), torch.tensor([1, 2, 3, 4, 1, 2, 3])
    group = torch.tensor([0, 0, 0, 0, 1, 1, 1])
    assert -2 * plackett_luce_nll(score[item], tier, group).item() == pytest.approx(want, abs=1e-12)


def test_pairwise_losses_agree_with_choix():
    # (0 beats 1), (1 beats 2), (2 beats 0) with scores 0, 1, 2.
    score = torch.arange(3, dtype=torch.float64)
    got = -pair_nll(score[[0, 1, 2]] - score[[1, 2, 0]]).sum().item()
    e = math.e
    assert got == pytest.approx(3 - math.log(1 + e) - math.log(e + e * e) - math.log(e * e + 1), abs=1e-12)
    assert got == pytest.approx(-2.753451, abs=1e-5)


def test_plackett_luce_is_a_distribution_over_rankings():
    total = sum(
        (-plackett_luce_nll(SCORE.double(), torch.tensor(tier), ONE_PROMPT)).exp().item()
        for tier in itertools.permutations((1, 2, 3, 4))
    )
    assert total == pytest.approx(1, abs=1e-12)


def test_plackett_luce_of_two_is_bradley_terry_and_ignores_a_shift():
    score = torch.tensor([0.3, 1.0, 5.0, 4.0])
    tier, group = torch.tensor([1, 2, 1, 2]), torch.tensor([0, 0, 1, 1])
    want = pair_nll(torch.tensor([-0.7, 1.0])).mean()
    torch.testing.assert_close(plackett_luce_nll(score, tier, group), want)
    torch.testing.assert_close(plackett_luce_nll(score + 50, tier, group), want, atol=1e-5, rtol=0)


def test_tied_completions_by_efron():
    # Two tied at the top of three, scores a, b, c: -log[ e^a e^b / (S (S - (e^a + e^b) / 2)) ], S over all three.
    score = torch.tensor([0.5, -0.2, 1.0], dtype=torch.float64)
    a, b, c = score.exp().tolist()
    total = a + b + c
    want = math.log(total) + math.log(total - (a + b) / 2) - math.log(a) - math.log(b)
    got = plackett_luce_nll(score, torch.tensor([1, 1, 2]), torch.zeros(3, dtype=torch.long))
    assert got.item() == pytest.approx(want, abs=1e-12)


def test_equal_scores_make_the_tie_term_exact_but_for_the_constant():
    # At equal scores every order of a tie is as likely, so Efron's term times m! is the sum over orders.
    tier, group = torch.tensor([1, 1, 1, 2, 3]), torch.zeros(5, dtype=torch.long)
    got = (-plackett_luce_nll(torch.zeros(5, dtype=torch.float64), tier, group)).exp().item()
    assert got * math.factorial(3) == pytest.approx(math.factorial(3) / (5 * 4 * 3 * 2))


def test_a_tie_pulls_scores_together():
    score = torch.tensor([1.0, -1.0], requires_grad=True)
    plackett_luce_nll(score, torch.tensor([1, 1]), torch.tensor([0, 0])).backward()
    assert score.grad[0] > 0 > score.grad[1]


def test_order_of_completions_does_not_matter():
    g = torch.Generator().manual_seed(2)
    score = torch.randn(14, generator=g, dtype=torch.float64)
    tier, group = torch.randint(1, 4, (14,), generator=g), torch.randint(0, 4, (14,), generator=g)
    order = torch.randperm(14, generator=g)

    def losses(s, t, gr):
        i, j, outcome, weight = all_pairs(t, gr)
        winner, loser, strict_weight = strict_pairs(t, gr)
        return torch.stack(
            [
                (weight * davidson_nll(s[i] - s[j], outcome, 0.3)).sum(),
                (weight * rao_kupper_nll(s[i] - s[j], outcome, 0.3)).sum(),
                (strict_weight * pair_nll(s[winner] - s[loser])).sum(),
                plackett_luce_nll(s, t, gr),
            ]
        )

    torch.testing.assert_close(losses(score, tier, group), losses(score[order], tier[order], group[order]))
    assert all_pairs(tier, group)[3].sum().item() == pytest.approx(1)


def test_gradients_are_finite_for_far_apart_scores():
    score = torch.tensor([400.0, -400.0, 0.0, 1.0], requires_grad=True)
    tier = torch.tensor([3, 1, 2, 2])
    i, j, outcome, weight = all_pairs(tier, ONE_PROMPT)
    loss = plackett_luce_nll(score, tier, ONE_PROMPT)
    loss = loss + (weight * davidson_nll(score[i] - score[j], outcome, 0.0)).sum()
    loss = loss + (weight * rao_kupper_nll(score[i] - score[j], outcome, 0.0)).sum()
    loss.backward()
    assert score.grad.isfinite().all()


def test_pairs_are_found_in_order_wherever_a_prompt_s_completions_stand():
    # Completions 0, 2, 5 of prompt 7 and 1, 3 of prompt 4; completion 4 stands alone.
    group_C = torch.tensor([7, 4, 7, 4, 9, 7])
    i_M, j_M, outcome_M, weight_M = all_pairs(torch.tensor([1, 2, 1, 1, 1, 3]), group_C)
    assert list(zip(i_M.tolist(), j_M.tolist(), strict=True)) == [(0, 2), (0, 5), (1, 3), (2, 5)]
    assert outcome_M.tolist() == [0, 1, -1, 1]
    assert weight_M.tolist() == pytest.approx([1 / 6, 1 / 6, 1 / 2, 1 / 6])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 4), max_size=12))
def test_pairs_are_all_that_share_a_prompt(groups):
    group_C = torch.tensor(groups, dtype=torch.int64)
    i_M, j_M, _, _ = all_pairs(torch.ones(len(groups), dtype=torch.int64), group_C)
    every = [(i, j) for j in range(len(groups)) for i in range(j) if groups[i] == groups[j]]
    assert list(zip(i_M.tolist(), j_M.tolist(), strict=True)) == sorted(every)


def test_many_rankings_need_memory_for_their_pairs_alone():
    n = 200_000  # the square of the completions would be 160 billion pairs
    i_M, _, _, _ = all_pairs(torch.ones(2 * n, dtype=torch.int64), torch.arange(n).repeat_interleave(2))
    assert i_M.tolist()[-1] == 2 * n - 2 and len(i_M) == n
