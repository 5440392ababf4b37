"""A reward model's heads, fitted to the end on the backbone as it is: one pass over the data, then a convex problem.

C completions, D width, A aspects. Scores are in nats of log-odds.
"""

import torch
from torch import Tensor

from tutelage.data.batch import TokenBatch
from tutelage.data.comparisons import ComparisonBatch
from tutelage.model.ngrams import Ngrams, ngrams
from tutelage.model.reward_model import RewardModel
from tutelage.train.learner import ComputeConfig, infer
from tutelage.train.reward_model import RewardConfig, ranking_loss

MAX_STEPS = 500
TOLERANCE = 1e-7  # of the gradient, per ranking


def fit_heads(cfg: RewardConfig, data: ComparisonBatch, model: RewardModel, compute: ComputeConfig) -> float:
    """Sets the heads, and the gate where there is one, to the most probable ones given all rankings; returns the loss.

    The prior of a head is normal over standardised summaries, so that scores spread by `cfg.head_prior` nats before
    anything is learned, whatever the width; with the logistic loss of pairs this is ridge logistic regression. The
    gate's prior is wider by half: which aspect a prompt belongs to is said by the data outright. The logarithm of the
    tie parameter is fitted along, under a normal prior of spread 1 around where it stands. The weights of n-grams,
    where heads read them, have a prior of their own, by which their scores spread by `cfg.ngram_prior` nats.
    """
    summary_CD, prompt_CD = _summaries(data.batch, model, compute)
    seen = [_Standard(summary_CD), _Standard(prompt_CD)]
    n_aspects, width = len(model.aspects), summary_CD.shape[1]
    # Weights are in units of their priors, so that the problem is conditioned alike whatever these are.
    spread, gate_spread = cfg.head_prior, 1.5 * cfg.head_prior
    weight_AD = torch.zeros(n_aspects, width, dtype=torch.float64, requires_grad=True)
    gate_AD = torch.zeros(n_aspects, width, dtype=torch.float64, requires_grad=True)
    bias_A = torch.zeros(n_aspects, dtype=torch.float64, requires_grad=True)
    words = _Words(data.batch, model) if model.n_cells else None
    ngram_cA = torch.zeros(words.n if words else 0, n_aspects, dtype=torch.float64, requires_grad=True)
    log_tie = model.log_tie.detach().cpu().clone().requires_grad_()
    free = [weight_AD, ngram_cA, log_tie]
    free += [] if model.gate is None else [gate_AD, bias_A]
    tie = log_tie.detach().clone()
    loss_of, rows = ranking_loss(cfg, data, model, log_tie), torch.arange(len(data.batch))
    optimiser = torch.optim.LBFGS(
        free, max_iter=MAX_STEPS, tolerance_grad=TOLERANCE, tolerance_change=0.0, line_search_fn="strong_wolfe"
    )

    def objective() -> Tensor:
        optimiser.zero_grad()
        out_CA = spread * seen[0].x_CD @ weight_AD.T
        if words is not None:
            out_CA = out_CA + cfg.ngram_prior * words.found.scores(ngram_cA)
        logit_CA = gate_spread * seen[1].x_CD @ gate_AD.T + bias_A
        out_CC = out_CA if model.gate is None else torch.cat([out_CA, logit_CA], dim=1)
        prior = sum(w.square().sum() for w in (weight_AD, gate_AD, ngram_cA)) + (log_tie - tie).square()
        loss = loss_of(out_CC, rows)[0] + prior / (2 * data.n_prompts)
        loss.backward()
        return loss

    optimiser.step(objective)
    loss = float(objective().detach())
    with torch.no_grad():
        model.log_tie.copy_(log_tie)
        model.head.weight.copy_(seen[0].raw_weight(spread * weight_AD))
        model.head.bias.zero_()  # a constant tells no two answers apart
        if words is not None:
            words.write(model, cfg.ngram_prior * ngram_cA)
        if model.gate is not None:
            raw_AD = seen[1].raw_weight(gate_spread * gate_AD)
            model.gate.weight.copy_(raw_AD)
            model.gate.bias.copy_(bias_A - raw_AD @ seen[1].mean_D)
    return loss


def _summaries(batch: TokenBatch, model: RewardModel, compute: ComputeConfig) -> tuple[Tensor, Tensor]:
    """What heads and gate read of every row, without gradient."""
    both_CDD = infer(
        lambda part: torch.cat(model.summaries(part.token_BT, part.length_B, part.mask_BT), dim=1),
        batch,
        next(model.parameters()).device,
        compute,
    )
    summary_CD, prompt_CD = both_CDD.double().chunk(2, dim=1)
    return summary_CD, prompt_CD


class _Words:
    """The n-grams of all rows in the cells that occur, scaled so that the squares of a row sum to 1 on average."""

    def __init__(self, batch: TokenBatch, model: RewardModel) -> None:
        raw = ngrams(batch.token_BT, batch.mask_BT, model.n_cells)
        self.cell_c, compact_N = raw.cell_N.unique(return_inverse=True)
        self.n = len(self.cell_c)
        row_N = torch.arange(len(raw.start_B)).repeat_interleave(
            raw.start_B.diff(append=torch.tensor([len(compact_N)]))
        )
        # An n-gram that occurs twice in a row counts with its sum there.
        place_N = (row_N * self.n + compact_N).unique(return_inverse=True)[1]
        value_u = torch.zeros(int(place_N.max()) + 1, dtype=torch.float64).index_add(0, place_N, raw.share_N.double())
        self.unit = float((value_u.square().sum() / len(raw.start_B)).rsqrt())
        self.found = Ngrams(compact_N, raw.share_N.double() * self.unit, raw.start_B)

    def write(self, model: RewardModel, weight_cA: Tensor) -> None:
        """Gives the model the weights of the raw n-grams; a cell that never occurred says nothing."""
        assert model.ngram_weight is not None, "the heads read n-grams"
        model.ngram_weight.zero_()
        model.ngram_weight[self.cell_c.to(model.ngram_weight.device)] = (
            (self.unit * weight_cA).float().to(model.ngram_weight.device)
        )


class _Standard:
    """Features of mean 0 whose squares sum to 1 a row, on average; and the way back to weights of the raw ones."""

    def __init__(self, raw_CD: Tensor) -> None:
        self.mean_D = raw_CD.mean(dim=0)
        # A direction that never changes, as an unused gate's, stays 0.
        self.unit_D = raw_CD.std(dim=0).clamp(min=1e-6) * raw_CD.shape[1] ** 0.5
        self.x_CD = (raw_CD - self.mean_D) / self.unit_D

    def raw_weight(self, weight_AD: Tensor) -> Tensor:
        raw_AD: Tensor = weight_AD.detach() / self.unit_D
        return raw_AD
