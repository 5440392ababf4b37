"""Pre-training a small causal model on packed pieces of text. The whole loop is `run`."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tutelage.data.batch import TokenBatch
from tutelage.data.corpus import Corpus, language_batch, plan_batches
from tutelage.errors import ConfigError
from tutelage.model.causal import CausalModel
from tutelage.train.learner import ComputeConfig, Learner, Term
from tutelage.train.optim import OptimConfig

CHINCHILLA = 20.0  # tokens a parameter at which compute is well spent (Hoffmann et al. 2022)


@dataclass(frozen=True, slots=True, kw_only=True)
class PretrainConfig:
    """The model's size and how long it reads."""

    vocabulary: int = 4096
    width: int = 256
    layers: int = 5
    heads: int = 4
    window: int = 512  # tokens that the model can see
    batch_tokens: int = 16384  # of one update
    updates: int = 0  # stops after this many; 0 = until every source was read as often as it says
    eval_every: int = 200  # updates
    save_every: int = 100  # updates

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ConfigError(
                f"pretrain.width = {self.width} is not a multiple of pretrain.heads = {self.heads}, so the heads "
                f"cannot share it. Set width to {self.heads * max(1, self.width // self.heads)}."
            )
        if self.batch_tokens < self.window:
            raise ConfigError(
                f"pretrain.batch_tokens = {self.batch_tokens} is less than one row of pretrain.window = {self.window}. "
                f"Raise it."
            )


def language_learner(model: CausalModel, *, optim: OptimConfig, compute: ComputeConfig, total_steps: int) -> Learner:
    """A learner whose one output channel is the log-probability of each trained token."""

    def forward(batch: TokenBatch) -> Tensor:
        return model.logp(batch.token_BT, batch.length_B, batch.mask_BT, with_entropy=False)[0].unsqueeze(-1)

    return Learner(model, forward, optim=optim, compute=compute, total_steps=total_steps)


def mean_nll(batch: TokenBatch) -> Callable[[Tensor, Tensor], tuple[Tensor, dict[str, Tensor]]]:
    """Mean negative log-likelihood (nats) over the trained tokens of the whole batch."""
    n_trained = batch.mask_BT.sum()

    def loss(out_BTC: Tensor, rows: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return -torch.where(batch.mask_BT[rows].to(out_BTC.device), out_BTC[..., 0], 0.0).sum() / n_trained, {}

    return loss


def held_out_nll(learner: Learner, pieces: Sequence[Sequence[int]]) -> tuple[float, int]:
    """Mean negative log-likelihood (nats) of held-out pieces, and over how many tokens."""
    total, n = 0.0, 0
    for start in range(0, len(pieces), 64):
        batch = language_batch(pieces[start : start + 64])
        total -= float(learner.infer(batch)[..., 0].sum())
        n += int(batch.mask_BT.sum())
    return total / max(n, 1), n


def plan(cfg: PretrainConfig, corpora: Sequence[Corpus], epochs: Sequence[float], seed: int) -> list[list[int]]:
    """The batches of the whole run."""
    lengths = [[len(p) for p in c.train] for c in corpora]
    batches = plan_batches(lengths, epochs, batch_tokens=cfg.batch_tokens, seed=seed)
    return batches[: cfg.updates] if cfg.updates else batches


def run(
    cfg: PretrainConfig,
    *,
    corpora: Sequence[Corpus],
    batches: Sequence[Sequence[int]],
    learner: Learner,
    log: Callable[[int, dict[str, float]], None],
    save: Callable[[int], None],
) -> dict[str, float]:
    """Reads every batch once, from the learner's own step on.

    Returns tokens, ratio and held-out perplexity by source.
    """
    pieces = [p for c in corpora for p in c.train]

    def held_out() -> dict[str, float]:
        found = {c.name: held_out_nll(learner, c.held_out)[0] for c in corpora}
        return {f"perplexity/{name}": math.exp(nll) for name, nll in found.items()}

    while learner.n_steps < len(batches):
        step = learner.n_steps
        batch = language_batch([pieces[i] for i in batches[step]])
        metrics = learner.step([Term(batch, torch.arange(len(batch)), mean_nll(batch))])
        log(step, {**metrics, "tokens": float(batch.length_B.sum())})
        if (step + 1) % cfg.eval_every == 0 and step + 1 < len(batches):
            log(step, held_out())
        if (step + 1) % cfg.save_every == 0:
            save(step + 1)
    n_parameters = sum(p.numel() for p in learner.named.values())
    tokens = sum(len(pieces[i]) for b in batches for i in b)
    final = {
        "parameters": float(n_parameters),
        "tokens": float(tokens),
        "tokens_per_parameter": tokens / n_parameters,
        "chinchilla_share": tokens / n_parameters / CHINCHILLA,
        **held_out(),
    }
    log(len(batches) - 1, final)
    return final
