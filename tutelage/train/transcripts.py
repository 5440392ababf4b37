"""A reward model's backbone reads the conversations that were compared, as a language model, before it judges them.

Task-adaptive pre-training (Gururangan et al. 2020, arXiv:2004.10964): what is judged differs from what a small backbone
was made of, and the texts of a comparison are worth more than its one bit. No preference is used.
"""

from collections.abc import Callable, Sequence

import torch

from tutelage.data.comparisons import RankedRows
from tutelage.data.sft import SFTRows, epoch_batches, take
from tutelage.errors import ConfigError
from tutelage.model.causal import CausalModel
from tutelage.model.reward_model import RewardModel
from tutelage.train.learner import ComputeConfig, Term
from tutelage.train.optim import OptimConfig
from tutelage.train.pretrain import language_learner, mean_nll

BATCH = 32  # conversations of an update


def read_transcripts(
    model: RewardModel,
    ranked: Sequence[RankedRows],
    *,
    epochs: int,
    optim: OptimConfig,
    compute: ComputeConfig,
    seed: int,
    log: Callable[[int, dict[str, float]], None],
) -> None:
    """Trains the backbone on every token of every conversation, its prompt and each of its answers, in place.

    log  told of each update: its number and {"loss": nats a token, …}

    Raises ConfigError for an encoder, which predicts no next token.
    """
    if not isinstance(model.backbone, CausalModel):
        raise ConfigError("reward_stage.adapt_epochs needs a causal reward model: an encoder predicts no next token.")
    texts = [ids for r in ranked for ids, _ in r.answers if len(ids) > 1]
    rows = SFTRows(tuple((ids, [False] + [True] * (len(ids) - 1)) for ids in texts), 0)
    batches = epoch_batches(len(rows.rows), BATCH, epochs=epochs, seed=seed)
    learner = language_learner(model.backbone, optim=optim, compute=compute, total_steps=len(batches))
    for step, index in enumerate(batches):
        batch = take(rows, index)
        log(step, learner.step([Term(batch, torch.arange(len(batch)), mean_nll(batch))]))
