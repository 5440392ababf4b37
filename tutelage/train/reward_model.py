"""Learning a reward from rankings: all pairs of a prompt in one batch element, ties by their own likelihood.

C completions, M pairs, A aspects. Scores are in nats of log-odds until they are normalised.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from tutelage.algo.preference_loss import (
    all_pairs,
    davidson_nll,
    pair_nll,
    plackett_luce_nll,
    rao_kupper_nll,
    strict_pairs,
)
from tutelage.data.batch import TokenBatch
from tutelage.data.comparisons import ComparisonBatch, RankedRows, comparison_batch
from tutelage.data.sft import epoch_batches
from tutelage.errors import ConfigError
from tutelage.model.reward_model import RewardModel
from tutelage.train.learner import ComputeConfig, Learner, Loss, Term
from tutelage.train.optim import OptimConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardConfig:
    """How rankings become a loss."""

    # The heads are fitted first, on the backbone as it is, under a normal prior by which scores spread by so many nats;
    # 0 = they are not. Where comparisons are few this is most of what can be learned, and the passes over the data that
    # follow start from it instead of from chance (Kumar et al. 2022, arXiv:2202.10054).
    head_prior: float = 0.0
    ngram_prior: float = 0.7  # the same of n-grams, where the heads read them (`reward_stage.ngram_cells`)
    epochs: int = 1  # more than one overfits: each comparison is seen by heart (Ouyang et al. 2022, C.2)
    prompts_per_step: int = 32
    likelihood: Literal["pairs", "plackett_luce"] = "pairs"
    ties: Literal["davidson", "rao_kupper", "half", "drop"] = "davidson"
    smoothing: float = 0.0  # chance that a label is the wrong way round
    margin_scale: float = 0.0  # score by which the winner should lead, per unit of the data's margin
    save_every: int = 50  # updates

    def __post_init__(self) -> None:
        if self.epochs < 0 or self.head_prior < 0 or not (self.epochs or self.head_prior):
            raise ConfigError(
                f"reward.epochs = {self.epochs} and reward.head_prior = {self.head_prior} train nothing. Read the data "
                f"once or more, or give the heads a prior (0.7 is usual); neither may be below 0."
            )
        if not self.ngram_prior > 0:
            raise ConfigError(
                f"reward.ngram_prior = {self.ngram_prior} leaves n-grams no weight. Set it above 0 (0.7 is usual), or "
                f"read none: reward_stage.ngram_cells = 0."
            )
        if not 0 <= self.smoothing < 0.5:
            raise ConfigError(
                f"reward.smoothing = {self.smoothing}, but at one half a label says nothing. Set it to 0 or more and "
                f"below 0.5."
            )
        if self.likelihood == "plackett_luce" and (self.smoothing or self.margin_scale or self.head_prior):
            raise ConfigError(
                "reward.smoothing, reward.margin_scale and reward.head_prior are defined on pairs, but "
                "reward.likelihood = 'plackett_luce' ranks all at once. Set them to 0, or the likelihood to 'pairs'."
            )


def reward_learner(model: RewardModel, *, optim: OptimConfig, compute: ComputeConfig, total_steps: int) -> Learner:
    """A learner whose output is what each row's heads give [B, C]."""

    def forward(batch: TokenBatch) -> Tensor:
        return model.heads(batch.token_BT, batch.length_B, batch.mask_BT)

    return Learner(model, forward, optim=optim, compute=compute, total_steps=total_steps)


def ranking_loss(cfg: RewardConfig, data: ComparisonBatch, model: RewardModel, log_tie: Tensor | None = None) -> Loss:
    """The loss of whole rankings; a microbatch may hold any of them, since every weight is over the whole batch.

    Each ranking trains the head of its own aspect. Where a gate weighs the aspects by the prompt, it learns beside them
    to tell which aspect a prompt belongs to.

    log_tie  the model's own unless given
    """
    log_tie = model.log_tie if log_tie is None else log_tie
    aspect_C = torch.tensor([list(model.aspects).index(a) for a in data.aspect_P])[data.group_C]
    strict_P = torch.zeros(data.n_prompts, dtype=torch.bool)
    strict_P[data.group_C[strict_pairs(data.tier_C, data.group_C)[0]]] = True
    drops = cfg.ties == "drop" and cfg.likelihood == "pairs"
    n_prompts = strict_P.sum() if drops else data.n_prompts

    def gate_nll(out_cC: Tensor, rows: Tensor) -> Tensor:
        if model.gate is None:
            return out_cC.new_zeros(())
        nll_c = cross_entropy(out_cC[:, len(model.aspects) :], aspect_C[rows], reduction="none")
        return (nll_c / data.group_C.bincount()[data.group_C[rows]]).sum() / data.n_prompts

    def loss(out_cC: Tensor, rows: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        score_c = out_cC.gather(1, aspect_C[rows, None].to(out_cC.device)).squeeze(1)
        tier_c, group_c = data.tier_C[rows], data.group_C[rows]
        if cfg.likelihood == "plackett_luce":
            assert (data.weight_P == 1).all(), "the recipe refuses weights of labelers with plackett_luce"
            return plackett_luce_nll(score_c, tier_c, group_c, n_prompts=n_prompts) + gate_nll(out_cC, rows), {}
        if drops:
            i_M, j_M, weight_M = strict_pairs(tier_c, group_c, n_prompts=n_prompts)
            outcome_M = torch.ones_like(i_M)
        else:
            i_M, j_M, outcome_M, weight_M = all_pairs(tier_c, group_c, n_prompts=n_prompts)
        margin_M, lead_M = score_c[i_M] - score_c[j_M], cfg.margin_scale * data.margin_P[group_c[i_M]]

        def nll(outcome_M: Tensor) -> Tensor:
            return _nll(cfg, margin_M - outcome_M * lead_M, outcome_M, log_tie.to(margin_M.device))

        nll_M = (1 - cfg.smoothing) * nll(outcome_M) + cfg.smoothing * nll(-outcome_M)
        right_M = torch.where(outcome_M == 0, 0.5, (margin_M * outcome_M > 0).float())
        trust_M = weight_M * data.weight_P[group_c[i_M]]
        return (trust_M * nll_M).sum() + gate_nll(out_cC, rows), {"accuracy": (weight_M * right_M).sum()}

    return loss


def _nll(cfg: RewardConfig, margin_M: Tensor, outcome_M: Tensor, log_tie: Tensor) -> Tensor:
    if cfg.ties == "davidson":
        return davidson_nll(margin_M, outcome_M, log_tie)
    if cfg.ties == "rao_kupper":
        return rao_kupper_nll(margin_M, outcome_M, log_tie)
    tie_M = 0.5 * (pair_nll(margin_M) + pair_nll(-margin_M))
    return torch.where(outcome_M == 0, tie_M, pair_nll(torch.where(outcome_M < 0, -margin_M, margin_M)))


def log_tie_of(rows: Sequence[RankedRows]) -> float:
    """Where the tie parameter starts: at the value that gives two equal scores the data's own share of ties.

    At margin 0 Davidson ties with nu / (2 + nu) and Rao-Kupper with (theta - 1) / (theta + 1), so nu and theta - 1 are
    both 2 r / (1 - r). It shares the backbone's learning rate, which alone would never bring it there.
    """
    ties = sum(a == b for r in rows for a, b in combinations(r.tiers, 2))
    pairs = sum(len(r.tiers) * (len(r.tiers) - 1) // 2 for r in rows)
    share = min(max(ties / pairs, 1e-3), 0.9)
    return math.log(2 * share / (1 - share))


def run(
    cfg: RewardConfig,
    *,
    rows: Sequence[RankedRows],
    model: RewardModel,
    learner: Learner,
    seed: int,
    log: Callable[[int, dict[str, float]], None],
    save: Callable[[int], None],
) -> None:
    """Reads the rankings `cfg.epochs` times, from the learner's own step on."""
    batches = epoch_batches(len(rows), cfg.prompts_per_step, epochs=cfg.epochs, seed=seed)
    while learner.n_steps < len(batches):
        step = learner.n_steps
        data = comparison_batch([rows[i] for i in batches[step]])
        everything = torch.arange(len(data.batch))
        term = Term(data.batch, everything, ranking_loss(cfg, data, model), together=data.group_C)
        metrics = learner.step([term])
        log(step, {**metrics, "tokens": float(data.batch.length_B.sum()), "log_tie": float(model.log_tie.detach())})
        if (step + 1) % cfg.save_every == 0:
            save(step + 1)


def n_steps(cfg: RewardConfig, n_rows: int) -> int:
    """Updates of a whole run."""
    return cfg.epochs * -(-n_rows // cfg.prompts_per_step)
