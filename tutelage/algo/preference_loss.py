"""Losses of reward models on ranked completions: which pairs count how much, and what each pair costs.

C completions of all prompts of a batch, in any order; P prompts; M pairs. `score_C` is the model's scalar; `tier_C`
int, 1 the best, equal where tied; `group_C` int, which prompt (0 to P - 1) a completion answers. A margin is
score_i - score_j; an outcome is 1 (i better), 0 (tie) or -1 (j better). Weights sum to 1 over a batch with at least
one pair: the mean over a prompt's pairs, then over prompts (Ouyang et al. 2022, arXiv:2203.02155, equation 1), so that
a prompt with 36 pairs does not outweigh one with 6. Negative log-likelihoods are in nats. Scores should be float32:
bfloat16 rounds margins.
"""

import math

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus

Count = Tensor | float | None  # prompts in the whole step, over all ranks and microbatches; None: those of this batch


def _mean_weight(group_M: Tensor, n_prompts: Count) -> Tensor:
    """1 / (pairs of the prompt * prompts that have a pair), [M]."""
    n_pairs_P = group_M.bincount()
    return 1.0 / (n_pairs_P[group_M] * ((n_pairs_P > 0).sum() if n_prompts is None else n_prompts))


def all_pairs(tier_C: Tensor, group_C: Tensor, *, n_prompts: Count = None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Every pair of completions of one prompt: i [M] < j [M] (indices into C), outcome [M], weight [M].

    Four completions ranked 1, 2, 2, 3 give 6 pairs, one of them with outcome 0, each with weight 1/6.
    """
    # Neighbours at every distance within a prompt: what lies between grows with the completions, not with their square.
    order_C = group_C.argsort(stable=True)
    sorted_C = group_C[order_C]
    largest = int(sorted_C.unique_consecutive(return_counts=True)[1].max()) if len(sorted_C) else 0
    found = []
    for step in range(1, largest):
        first = (sorted_C[step:] == sorted_C[:-step]).nonzero().squeeze(1)
        found.append(torch.stack([order_C[first], order_C[first + step]]))
    i_M, j_M = torch.cat(found, dim=1) if found else order_C.new_empty(2, 0)
    in_order_M = (i_M * len(group_C) + j_M).argsort()
    i_M, j_M = i_M[in_order_M], j_M[in_order_M]
    outcome_M = (tier_C[j_M] - tier_C[i_M]).sign()
    return i_M, j_M, outcome_M, _mean_weight(group_C[i_M], n_prompts)


def strict_pairs(tier_C: Tensor, group_C: Tensor, *, n_prompts: Count = None) -> tuple[Tensor, Tensor, Tensor]:
    """Pairs with a winner: winner [M], loser [M] (indices into C), weight [M] over the strict pairs alone."""
    i_M, j_M, outcome_M, _ = all_pairs(tier_C, group_C)
    i_M, j_M, outcome_M = (x[outcome_M != 0] for x in (i_M, j_M, outcome_M))
    winner_M, loser_M = torch.where(outcome_M > 0, i_M, j_M), torch.where(outcome_M > 0, j_M, i_M)
    return winner_M, loser_M, _mean_weight(group_C[i_M], n_prompts)


def tied_pairs(tier_C: Tensor, group_C: Tensor, *, n_prompts: Count = None) -> tuple[Tensor, Tensor, Tensor]:
    """Pairs without a winner: i [M] < j [M] (indices into C), weight [M] over the tied pairs alone."""
    i_M, j_M, outcome_M, _ = all_pairs(tier_C, group_C)
    i_M, j_M = i_M[outcome_M == 0], j_M[outcome_M == 0]
    return i_M, j_M, _mean_weight(group_C[i_M], n_prompts)


def pair_nll(margin_M: Tensor, *, smoothing: float = 0.0, margin_target: Tensor | float = 0.0) -> Tensor:
    """Bradley-Terry loss [M] of margins winner - loser.

    smoothing      chance that a label is the wrong way round; the loss is its expectation over that chance
    margin_target  by how much the winner should lead, in units of score: a number, or [M]

    -log sigmoid(margin - target); Christiano et al. 2017 (arXiv:1706.03741), equation 1. Smoothing as in cDPO.
    """
    right_M = logsigmoid(margin_M - margin_target)
    if smoothing == 0:
        return -right_M
    return -(1 - smoothing) * right_M - smoothing * logsigmoid(-margin_M - margin_target)


def _davidson_logp(margin_M: Tensor, log_nu: Tensor | float) -> Tensor:
    log_nu_M = torch.as_tensor(log_nu, dtype=margin_M.dtype, device=margin_M.device).expand_as(margin_M)
    return torch.stack([margin_M / 2, log_nu_M, -margin_M / 2], dim=-1).log_softmax(dim=-1)


def davidson_prob(margin_M: Tensor, log_nu: Tensor | float) -> tuple[Tensor, Tensor, Tensor]:
    """Chance [M] of win, tie and loss: exp(s_i), nu exp((s_i + s_j) / 2) and exp(s_j), over their sum.

    nu = 0 is Bradley-Terry. Davidson 1970, JASA 65.
    """
    win_M, tie_M, loss_M = _davidson_logp(margin_M, log_nu).exp().unbind(dim=-1)
    return win_M, tie_M, loss_M


def davidson_nll(margin_M: Tensor, outcome_M: Tensor, log_nu: Tensor | float) -> Tensor:
    """Negative log-likelihood [M] of the outcomes under `davidson_prob`; `log_nu` may be trained."""
    return -_davidson_logp(margin_M, log_nu).gather(-1, (1 - outcome_M.long()).unsqueeze(-1)).squeeze(-1)


def _rao_kupper_logp(margin_M: Tensor, log_excess: Tensor | float) -> Tensor:
    log_excess = torch.as_tensor(log_excess, dtype=margin_M.dtype, device=margin_M.device)
    log_theta = softplus(log_excess)  # log(1 + exp(log_excess)): theta stays >= 1 whatever the optimiser does
    win_M, loss_M = logsigmoid(margin_M - log_theta), logsigmoid(-margin_M - log_theta)
    log_theta2_m1 = log_excess + torch.logaddexp(log_excess, torch.full_like(log_excess, math.log(2)))
    return torch.stack([win_M, log_theta2_m1 + win_M + loss_M, loss_M], dim=-1)


def rao_kupper_prob(margin_M: Tensor, log_excess: Tensor | float) -> tuple[Tensor, Tensor, Tensor]:
    """Chance [M] of win, tie and loss with win = exp(s_i) / (exp(s_i) + theta exp(s_j)), loss likewise, tie the rest.

    log_excess  log(theta - 1), any real number, so theta = 1 + exp(log_excess) >= 1; -inf is Bradley-Terry

    Rao and Kupper 1967, JASA 62.
    """
    win_M, tie_M, loss_M = _rao_kupper_logp(margin_M, log_excess).exp().unbind(dim=-1)
    return win_M, tie_M, loss_M


def rao_kupper_nll(margin_M: Tensor, outcome_M: Tensor, log_excess: Tensor | float) -> Tensor:
    """Negative log-likelihood [M] of the outcomes under `rao_kupper_prob`; `log_excess` may be trained."""
    return -_rao_kupper_logp(margin_M, log_excess).gather(-1, (1 - outcome_M.long()).unsqueeze(-1)).squeeze(-1)


def plackett_luce_nll(score_C: Tensor, tier_C: Tensor, group_C: Tensor, *, n_prompts: Count = None) -> Tensor:
    """Negative log-likelihood [] of each prompt's whole ranking, averaged over prompts with two or more completions.

    Best first, each completion is drawn from those left by softmax of scores (Plackett 1975). Without ties this is
    exact. m tied completions are drawn from a pool that loses 1/m of their joint mass with each draw, Efron's
    approximation in Cox regression (JASA 1977), which pulls their scores together: a tie means "equally good", not
    "order unknown". The constant log(m!) is left out. A batch without a ranking costs 0.
    """
    same_CC = group_C[:, None] == group_C[None, :]
    pool_CC = same_CC & (tier_C[None, :] >= tier_C[:, None])  # row i: what is left when i's tier is drawn
    tie_CC = same_CC & (tier_C[None, :] == tier_C[:, None])
    pool_C = torch.where(pool_CC, score_C[None, :], float("-inf")).logsumexp(dim=1)
    tie_C = torch.where(tie_CC, score_C[None, :], float("-inf")).logsumexp(dim=1)
    drawn_C = tie_CC.tril(diagonal=-1).sum(dim=1) / tie_CC.sum(dim=1)  # share of its tie drawn before each
    nll_C = pool_C + torch.log1p(-drawn_C * (tie_C - pool_C).exp()) - score_C
    if n_prompts is None:
        n_prompts = (group_C.bincount() > 1).sum().clamp(min=1)
    return nll_C.sum() / n_prompts
