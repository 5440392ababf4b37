"""A reward model's heads, fitted to the end on the backbone as it is: one pass over the data, then a convex problem.

C completions, D width, A aspects. Scores are in nats of log-odds.
"""

import torch
from torch import Tensor

from tutelage.data.batch import TokenBatch
from tutelage.data.comparisons import ComparisonBatch
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
    tie parameter is fitted along, under a normal prior of spread 1 around where it stands.
    """
    summary_CD, prompt_CD = _summaries(data.batch, model, compute)
    seen = [_Standard(summary_CD), _Standard(prompt_CD)]
    n_aspects, width = len(model.aspects), summary_CD.shape[1]
    weight_AD = torch.zeros(n_aspects, width, dtype=torch.float64, requires_grad=True)
    gate_AD = torch.zeros(n_aspects, width, dtype=torch.float64, requires_grad=True)
    bias_A = torch.zeros(n_aspects, dtype=torch.float64, requires_grad=True)
    free = [weight_AD, model.log_tie] if model.gate is None else [weight_AD, gate_AD, bias_A, model.log_tie]
    tie = model.log_tie.detach().clone()
    loss_of, rows = ranking_loss(cfg, data, model), torch.arange(len(data.batch))
    optimiser = torch.optim.LBFGS(
        free, max_iter=MAX_STEPS, tolerance_grad=TOLERANCE, tolerance_change=0.0, line_search_fn="strong_wolfe"
    )

    def objective() -> Tensor:
        optimiser.zero_grad()
        out_CA = seen[0].x_CD @ weight_AD.T
        out_CC = out_CA if model.gate is None else torch.cat([out_CA, seen[1].x_CD @ gate_AD.T + bias_A], dim=1)
        prior = weight_AD.square().sum() / cfg.head_prior**2 + gate_AD.square().sum() / (1.5 * cfg.head_prior) ** 2
        prior = prior + (model.log_tie - tie).square()
        loss = loss_of(out_CC, rows)[0] + prior / (2 * data.n_prompts)
        loss.backward()
        return loss

    optimiser.step(objective)
    loss = float(objective().detach())
    with torch.no_grad():
        model.head.weight.copy_(seen[0].raw_weight(weight_AD))
        model.head.bias.zero_()  # a constant tells no two answers apart
        if model.gate is not None:
            raw_AD = seen[1].raw_weight(gate_AD)
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
