"""The machine that learns: one module, one optimiser, microbatches by tokens. Knows no algorithm.

B rows, T tokens, C channels of a module's output (a policy gives log-probability and entropy, a critic its value).
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from tutelage.data.batch import TokenBatch
from tutelage.data.packing import cut, cut_units
from tutelage.errors import ConfigError, TrainingError
from tutelage.model.causal import CausalModel
from tutelage.model.reward_model import EncoderModel
from tutelage.stopwatch import OFF, Watch
from tutelage.train.optim import OptimConfig, build_adamw, clip_gradients, load_moments, lr_at, moments

# (output [b, T, C], indices [b] of these rows in the whole batch) -> loss [], metrics []; joined over microbatches.
Loss = Callable[[Tensor, Tensor], tuple[Tensor, dict[str, Tensor]]]
Forward = Callable[[TokenBatch], Tensor]

LARGEST = "max_"  # metrics of this prefix are joined by their maximum, all others by their sum
MAX_SKIPPED = 3  # updates in a row that may be skipped for a value that is not finite


@dataclass(frozen=True, slots=True, kw_only=True)
class ComputeConfig:
    """How a pass is computed; none of it changes what is computed, beyond rounding."""

    precision: Literal["fp32", "bf16"] = "fp32"  # of the passes; weights and moments stay float32
    microbatch_tokens: int = 8192  # bounds memory
    gradient_checkpointing: bool = False  # a layer's insides are computed again on the way back, and not kept

    def __post_init__(self) -> None:
        if self.microbatch_tokens < 1:
            raise ConfigError(
                f"microbatch_tokens = {self.microbatch_tokens}, but a pass needs at least one token. 8192 is usual."
            )


@dataclass(frozen=True, slots=True)
class Term:
    """One part of an update: these rows of this batch under this loss."""

    batch: TokenBatch
    rows: Tensor
    loss: Loss
    together: Tensor | None = None  # [B]; rows with the same number are never cut apart (completions of one prompt)

    def parts(self, max_tokens: int) -> list[Tensor]:
        """Microbatches, as positions in `rows`."""
        batch = self.batch.rows(self.rows)
        if self.together is None:
            return cut(batch, max_tokens)
        unit_b = self.together[self.rows].unique(return_inverse=True)[1]
        return cut_units(unit_b, batch.length_B, max_tokens)


def _join(name: str, a: float, b: float) -> float:
    return max(a, b) if name.startswith(LARGEST) else a + b


def run_pass(forward: Forward, batch: TokenBatch, device: torch.device, compute: ComputeConfig) -> Tensor:
    """One forward pass in the chosen precision; the output is float32 and, as a batch's other tensors, on the CPU."""
    with torch.autocast(device.type, torch.bfloat16, enabled=compute.precision == "bf16"):
        out = forward(TokenBatch(batch.token_BT.to(device), batch.length_B.to(device), batch.mask_BT.to(device)))
    return out.float().cpu()


@torch.no_grad()
def infer(
    forward: Forward,
    batch: TokenBatch,
    device: torch.device,
    compute: ComputeConfig,
    parts: Sequence[Tensor] | None = None,
) -> Tensor:
    """The output [B, ...] of a whole batch on the CPU, computed in microbatches.

    parts  rows that are cut into microbatches by themselves, as an update of these rows would; None takes all at once.
           In bf16 the same rows in other company round otherwise, so only the same cut gives the same bits.
    """
    whole: Tensor | None = None
    for part in parts if parts is not None else [torch.arange(len(batch))]:
        for chosen in cut(batch.rows(part), compute.microbatch_tokens):
            rows = part[chosen]
            out = run_pass(forward, batch.rows(rows), device, compute).cpu()
            whole = torch.empty(len(batch), *out.shape[1:]) if whole is None else whole
            whole[rows] = out
    assert whole is not None, "a batch has at least one row"
    return whole


class Learner:
    """Steps a module on sums of losses. Every denominator is inside the losses, so cutting never changes the result."""

    def __init__(
        self,
        module: nn.Module,
        forward: Forward,
        *,
        optim: OptimConfig,
        compute: ComputeConfig,
        total_steps: int,
        ema_decay: float = 0.0,
        watch: Watch = OFF,
    ) -> None:
        self.module = module
        for part in module.modules():
            if isinstance(part, CausalModel | EncoderModel):
                part.gradient_checkpointing = compute.gradient_checkpointing
        self._forward = forward
        self._optim = optim
        self._compute = compute
        self._total_steps = total_steps
        self.watch = watch
        self.named = {n: p for n, p in module.named_parameters() if p.requires_grad}
        if not self.named:
            raise ConfigError(
                "every weight of the model is frozen, so training would change nothing. Give lora.rank above 0, or "
                "train the full weights."
            )
        self._adamw = build_adamw(self.named, optim)
        self.n_steps = 0
        self._skipped_in_a_row = 0
        self._ema_decay = ema_decay
        self.ema = {n: p.detach().clone() for n, p in self.named.items()} if ema_decay else {}

    def _pass(self, batch: TokenBatch) -> Tensor:
        return run_pass(self._forward, batch, next(self.module.parameters()).device, self._compute)

    def infer(self, batch: TokenBatch, parts: Sequence[Tensor] | None = None) -> Tensor:
        """The module's output [B, ...] without gradient, in the microbatches that training on `parts` would use."""
        return infer(self._forward, batch, next(self.module.parameters()).device, self._compute, parts)

    def step(self, terms: Sequence[Term]) -> dict[str, float]:
        """One update on the sum of the terms. Returns their summed metrics, the loss, the gradient norm and the lr.

        An update whose loss or gradient is not finite is skipped and counted; raises TrainingError after
        MAX_SKIPPED of them in a row.
        """
        with self.watch.phase("update"):
            return self._step(terms)

    def _step(self, terms: Sequence[Term]) -> dict[str, float]:
        lr = lr_at(self._optim, self.n_steps, self._total_steps)
        for group in self._adamw.param_groups:
            group["lr"] = lr
        self._adamw.zero_grad(set_to_none=True)
        metrics: dict[str, float] = {}
        for term in terms:
            for part in term.parts(self._compute.microbatch_tokens):
                rows = term.rows[part]
                with self.watch.phase("forward"):
                    loss, seen = term.loss(self._pass(term.batch.rows(rows)), rows)
                with self.watch.phase("backward"):
                    loss.backward()
                for name, value in {"loss": loss, **seen}.items():
                    metrics[name] = (
                        _join(name, metrics[name], float(value.detach())) if name in metrics else float(value.detach())
                    )
        with self.watch.phase("optimizer"):
            norm = clip_gradients(list(self.named.values()), self._optim.grad_clip)
        metrics |= {"grad_norm": float(norm), "lr": lr, "skipped": 0.0}
        if not (torch.isfinite(norm) and all(v == v and abs(v) != float("inf") for v in metrics.values())):
            return self._skip(metrics)
        self._skipped_in_a_row = 0
        with self.watch.phase("optimizer"):
            self._adamw.step()
        self.n_steps += 1
        for name, average in self.ema.items():
            average.lerp_(self.named[name].detach(), 1 - self._ema_decay)
        return metrics

    def _skip(self, metrics: dict[str, float]) -> dict[str, float]:
        self._adamw.zero_grad(set_to_none=True)
        self._skipped_in_a_row += 1
        if self._skipped_in_a_row >= MAX_SKIPPED:
            raise TrainingError(
                f"loss {metrics['loss']:g} and gradient norm {metrics['grad_norm']:g} at update {self.n_steps}: not "
                f"finite {MAX_SKIPPED} times in a row, so the weights would be lost. Nothing of this update was kept. "
                f"Lower the learning rate, or look for empty or broken rows in the data."
            )
        return {**metrics, "skipped": 1.0}

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """Inside, the module holds its averaged weights; without an average nothing changes."""
        present = {n: self.named[n].detach().clone() for n in self.ema}
        self._fill(self.ema)
        try:
            yield
        finally:
            self._fill(present)

    @torch.no_grad()
    def _fill(self, weights: Mapping[str, Tensor]) -> None:
        for name, tensor in weights.items():
            self.named[name].copy_(tensor)

    def state(self) -> dict[str, Tensor]:
        """Everything that the next update depends on, as named tensors (clones)."""
        named = {f"weights/{n}": p.detach() for n, p in self.named.items()}
        kept = {f"moments/{n}": t for n, t in moments(self._adamw, self.named).items()}
        average = {f"ema/{n}": t for n, t in self.ema.items()}
        steps = {"n_steps": torch.tensor(self.n_steps)}
        return {k: v.clone() for k, v in {**named, **kept, **average, **steps}.items()}

    @torch.no_grad()
    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """The inverse of `state`: the next update is the one that would have come."""
        for name, p in self.named.items():
            p.copy_(state[f"weights/{name}"])
        load_moments(
            self._adamw,
            self.named,
            {k.removeprefix("moments/"): v for k, v in state.items() if k.startswith("moments/")},
        )
        for name, average in self.ema.items():
            average.copy_(state[f"ema/{name}"])
        self.n_steps = int(state["n_steps"])
