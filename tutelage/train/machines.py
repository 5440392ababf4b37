"""What the RL loops need, as protocols, and the actor-critic that steps policy and critic. Knows no algorithm.

B rollouts, T tokens.
"""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from tutelage.data.batch import Rollouts, TokenBatch
from tutelage.model.causal import CausalModel
from tutelage.model.value_model import PolicyWithValue, ValueModel
from tutelage.stopwatch import OFF, Watch
from tutelage.train.learner import ComputeConfig, Learner, Loss, Term
from tutelage.train.optim import OptimConfig
from tutelage.types import Prompt


class Sampler(Protocol):
    """Writes completions with the newest weights that it was given."""

    def sample(self, prompts: Sequence[Prompt], *, n: int, step: int) -> Rollouts: ...
    def load(self, version: int) -> None: ...


class Policy(Protocol):
    """Log-probabilities and updates of the policy."""

    def logp(self, batch: TokenBatch, parts: Sequence[Tensor]) -> tuple[Tensor, Tensor]: ...
    def step(self, terms: Sequence[Term]) -> dict[str, float]: ...


class ActorCritic(Protocol):
    """A policy and its critic."""

    def logp(self, batch: TokenBatch, parts: Sequence[Tensor]) -> tuple[Tensor, Tensor]: ...
    def values(self, batch: TokenBatch, parts: Sequence[Tensor], first_loss: Loss) -> Tensor: ...
    def step(
        self,
        batch: TokenBatch,
        rows: Tensor,
        policy_loss: Loss,
        value_loss: Loss,
        *,
        extra: Sequence[Term],
        train_policy: bool,
    ) -> dict[str, float]: ...


class Reference(Protocol):
    """The policy that RL started from."""

    def logp(self, batch: TokenBatch, parts: Sequence[Tensor] | None = None) -> Tensor: ...


class Score(Protocol):
    """Reward [B] of finished texts; no gradient."""

    def __call__(self, prompts: Sequence[Prompt], texts: Sequence[str]) -> Tensor: ...


def policy_learner(
    model: CausalModel,
    *,
    temperature: float,
    optim: OptimConfig,
    compute: ComputeConfig,
    total_steps: int,
    ema_decay: float = 0.0,
    watch: Watch = OFF,
) -> Learner:
    """Output channels: log-probability and entropy of each trained token, at the sampling temperature."""

    def forward(batch: TokenBatch) -> Tensor:
        return torch.stack(model.logp(batch.token_BT, batch.length_B, batch.mask_BT, temperature=temperature), dim=-1)

    return Learner(
        model, forward, optim=optim, compute=compute, total_steps=total_steps, ema_decay=ema_decay, watch=watch
    )


def critic_learner(
    model: ValueModel, *, optim: OptimConfig, compute: ComputeConfig, total_steps: int, watch: Watch = OFF
) -> Learner:
    """Output channel: the value before each trained token."""

    def forward(batch: TokenBatch) -> Tensor:
        return model.before_tokens(batch.token_BT, batch.length_B, batch.mask_BT).unsqueeze(-1)

    return Learner(model, forward, optim=optim, compute=compute, total_steps=total_steps, watch=watch)


def shared_learner(
    module: PolicyWithValue,
    *,
    temperature: float,
    optim: OptimConfig,
    compute: ComputeConfig,
    total_steps: int,
    ema_decay: float = 0.0,
    watch: Watch = OFF,
) -> Learner:
    """Output channels: log-probability and entropy of each trained token, and the value before it."""

    def forward(batch: TokenBatch) -> Tensor:
        return module.channels(batch.token_BT, batch.length_B, batch.mask_BT, temperature=temperature)

    return Learner(
        module, forward, optim=optim, compute=compute, total_steps=total_steps, ema_decay=ema_decay, watch=watch
    )


class LearnerPolicy:
    """A policy on one learner."""

    def __init__(self, learner: Learner) -> None:
        self.learner = learner

    def logp(self, batch: TokenBatch, parts: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Log-probability and entropy [B, T], cut as the updates on `parts` will be, so that the first ratio is 1."""
        with self.learner.watch.phase("old log-probabilities"):
            out_BTC = self.learner.infer(batch, parts)
        return out_BTC[..., 0], out_BTC[..., 1]

    def step(self, terms: Sequence[Term]) -> dict[str, float]:
        return self.learner.step(terms)


class SeparateActorCritic(LearnerPolicy):
    """Two networks, two optimisers: the critic cannot harm the language model."""

    def __init__(self, policy: Learner, critic: Learner) -> None:
        super().__init__(policy)
        self.critic = critic
        self._first: dict[str, float] = {}  # figures of the critic's first step, when the policy's is still to come

    def values(self, batch: TokenBatch, parts: Sequence[Tensor], first_loss: Loss) -> Tensor:
        """Values [B, T] of the critic as it was before the update, whose first step it makes on the way.

        That step's pass over parts[0] tells the values of these rows, so they are not computed twice.

        first_loss  of a value [b, T] and its rows, with that very value as the old one
        """
        value_BT = torch.zeros(batch.mask_BT.shape)
        if len(parts) > 1:
            with self.critic.watch.phase("values"):
                value_BT = self.critic.infer(batch, parts[1:])[..., 0]

        def loss(out_BTC: Tensor, r: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            value_BT[r] = out_BTC[..., 0].detach()
            return first_loss(out_BTC[..., 0], r)

        self._first = _of_critic(self.critic.step([Term(batch, parts[0], loss)]))
        return value_BT

    def step(  # type: ignore[override]
        self,
        batch: TokenBatch,
        rows: Tensor,
        policy_loss: Loss,
        value_loss: Loss,
        *,
        extra: Sequence[Term],
        train_policy: bool,
    ) -> dict[str, float]:
        """One update of the critic, unless `values` has just made it, and one of the policy, unless the critic is
        warming up.
        """
        critic, self._first = self._first, {}
        if not critic:
            critic = _of_critic(self.critic.step([Term(batch, rows, lambda out, r: value_loss(out[..., 0], r))]))
        if not train_policy:
            return critic
        return critic | self.learner.step([Term(batch, rows, policy_loss), *extra])


class SharedActorCritic(LearnerPolicy):
    """One network with two heads and one optimiser.

    It needs half the memory, at the risk that the critic bends the language model.

    vf_coef  weight of the value loss beside the policy's (0.1 in Ziegler et al. 2019)
    """

    def __init__(self, learner: Learner, module: PolicyWithValue, *, vf_coef: float = 0.1) -> None:
        super().__init__(learner)
        self.module, self.vf_coef = module, vf_coef

    def values(self, batch: TokenBatch, parts: Sequence[Tensor], first_loss: Loss) -> Tensor:
        """Values [B, T] before the update, by a pass of their own: the update's needs the advantages of all rows."""
        with self.learner.watch.phase("values"):
            return self.learner.infer(batch)[..., 2]

    def step(  # type: ignore[override]
        self,
        batch: TokenBatch,
        rows: Tensor,
        policy_loss: Loss,
        value_loss: Loss,
        *,
        extra: Sequence[Term],
        train_policy: bool,
    ) -> dict[str, float]:
        """One update of both; while the critic is warming up, of the value head alone."""

        def critic(out_BTC: Tensor, r: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            loss, seen = value_loss(out_BTC[..., 2], r)
            return self.vf_coef * loss, {"value_loss": loss, **seen}

        def both(out_BTC: Tensor, r: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            (loss, seen), (value, value_seen) = policy_loss(out_BTC, r), critic(out_BTC, r)
            return loss + value, {**seen, **value_seen}

        if train_policy:
            return self.learner.step([Term(batch, rows, both), *extra])
        with self.module.hold_trunk():
            return _of_critic(self.learner.step([Term(batch, rows, critic)]))


def _of_critic(metrics: dict[str, float]) -> dict[str, float]:
    """The figures of an update that trained no policy, named so that none passes for the policy's."""
    renamed = {f"value_{k}": metrics[k] for k in ("loss", "grad_norm", "lr", "skipped")}
    return renamed | {k: v for k, v in metrics.items() if f"value_{k}" not in renamed}
