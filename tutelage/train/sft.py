"""Supervised fine-tuning on demonstrations, stopped when held-out loss no longer falls. The whole loop is `run`."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from tutelage.data.sft import SFTRows, epoch_batches, take
from tutelage.errors import ConfigError
from tutelage.train.learner import Learner, Term
from tutelage.train.pretrain import mean_nll


@dataclass(frozen=True, slots=True, kw_only=True)
class SFTConfig:
    """How often the demonstrations are read."""

    epochs: int = 3
    batch_size: int = 32  # demonstrations of one update
    patience: int = 1  # epochs without a better held-out loss before stopping
    save_every: int = 50  # updates

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_size < 1:
            raise ConfigError(
                f"sft.epochs = {self.epochs}, sft.batch_size = {self.batch_size}: both must be 1 or more."
            )


@dataclass(slots=True)
class SFTProgress:
    """What the next epoch depends on besides the learner."""

    best_loss: float = float("inf")
    best_epoch: int = -1
    stopped: bool = False


def held_out_loss(learner: Learner, rows: SFTRows) -> float:
    """Mean negative log-likelihood (nats) of the answers' tokens."""
    batch = take(rows, range(len(rows.rows)))
    return -float(learner.infer(batch)[..., 0].sum() / batch.mask_BT.sum())


def run(
    cfg: SFTConfig,
    *,
    rows: SFTRows,
    held_out: SFTRows,
    learner: Learner,
    seed: int,
    progress: SFTProgress,
    log: Callable[[int, dict[str, float]], None],
    save: Callable[[int, SFTProgress], None],
    keep_best: Callable[[], None],
) -> SFTProgress:
    """Reads the demonstrations epoch by epoch from the learner's own step on.

    keep_best  called after each epoch whose held-out loss is the lowest so far
    """
    batches = epoch_batches(len(rows.rows), cfg.batch_size, epochs=cfg.epochs, seed=seed)
    per_epoch = len(batches) // cfg.epochs
    while learner.n_steps < len(batches) and not progress.stopped:
        step = learner.n_steps
        batch = take(rows, batches[step])
        metrics = learner.step([Term(batch, torch.arange(len(batch)), mean_nll(batch))])
        log(step, {**metrics, "tokens": float(batch.length_B.sum())})
        if (step + 1) % per_epoch == 0:
            epoch, loss = step // per_epoch, held_out_loss(learner, held_out)
            if loss < progress.best_loss:
                progress.best_loss, progress.best_epoch = loss, epoch
                keep_best()
            progress.stopped = epoch - progress.best_epoch >= cfg.patience
            log(step, {"held_out_loss": loss, "epoch": float(epoch + 1)})
        if (step + 1) % cfg.save_every == 0:
            save(step + 1, progress)
    return progress
