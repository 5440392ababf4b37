"""AdamW, its schedule, and its moments as named tensors. Knows no loss and no batch."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.autograd.graph import increment_version

from tutelage.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimConfig:
    """How weights move. One step is one update, whatever the number of microbatches."""

    lr: float = 1e-4
    schedule: Literal["constant", "linear", "cosine"] = "cosine"
    warmup_steps: int = 10  # from 0.1 x lr
    final_lr: float = 0.1  # share of lr that is left at the end of `linear` and `cosine`
    weight_decay: float = 0.0  # on matrices alone
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8  # with a warm-up; 1e-5 acts like 3e-7 of TensorFlow's at step 1 (science of early updates)
    grad_clip: float = 1.0  # largest global norm

    def __post_init__(self) -> None:
        if not self.lr > 0:
            raise ConfigError(f"lr = {self.lr}, but a step of that size goes nowhere. Set it above 0 (1e-4 is usual).")
        if not 0 <= self.final_lr <= 1:
            raise ConfigError(f"final_lr = {self.final_lr}, but it is a share of lr. Set it between 0 and 1.")
        if not self.grad_clip > 0:
            raise ConfigError(f"grad_clip = {self.grad_clip}, but a gradient cut to that norm is empty. 1.0 is usual.")


def lr_at(cfg: OptimConfig, step: int, total: int) -> float:
    """Learning rate of update `step` (0-based) of `total`: linear warm-up from 0.1 x lr, then the schedule."""
    if step < cfg.warmup_steps:
        return cfg.lr * (0.1 + 0.9 * step / cfg.warmup_steps)
    if cfg.schedule == "constant":
        return cfg.lr
    done = min(1.0, (step - cfg.warmup_steps) / max(1, total - cfg.warmup_steps))
    left = 1 - done if cfg.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * done))
    return cfg.lr * (cfg.final_lr + (1 - cfg.final_lr) * left)


def build_adamw(named: dict[str, nn.Parameter], cfg: OptimConfig) -> torch.optim.AdamW:
    """AdamW with weight decay on matrices alone; norms, biases and vectors are left free.

    Fused: one pass over weights and moments instead of eight. Unlike other in-place steps of torch it does not count as
    a change of the weights, so that is done here, for who keeps copies of them (`model.weight_cache`).
    """
    decayed = [p for p in named.values() if p.ndim >= 2]
    free = [p for p in named.values() if p.ndim < 2]
    groups = [{"params": decayed, "weight_decay": cfg.weight_decay}, {"params": free, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(
        [g for g in groups if g["params"]], lr=cfg.lr, betas=(cfg.beta1, cfg.beta2), eps=cfg.eps, fused=True
    )
    optimizer.register_step_post_hook(lambda *_: increment_version(named.values()))
    return optimizer


def clip_gradients(parameters: Sequence[nn.Parameter], most: float) -> Tensor:
    """The global norm [] of the gradients, which are scaled down to `most` where it is above; else left untouched."""
    norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    if not norm <= most:  # a norm that is not finite is passed on, as torch does
        nn.utils.clip_grads_with_norm_(parameters, most, norm)
    return norm


def moments(optimizer: torch.optim.Optimizer, named: dict[str, nn.Parameter]) -> dict[str, Tensor]:
    """The optimiser's state as {"name.exp_avg": tensor, …}; empty before the first step."""
    return {
        f"{name}.{key}": value.detach() if isinstance(value, Tensor) else torch.tensor(float(value))
        for name, p in named.items()
        for key, value in optimizer.state[p].items()
    }


def load_moments(optimizer: torch.optim.Optimizer, named: dict[str, nn.Parameter], tensors: dict[str, Tensor]) -> None:
    """The inverse of `moments`."""
    optimizer.state.clear()
    for name, p in named.items():
        for key in ("step", "exp_avg", "exp_avg_sq"):
            if f"{name}.{key}" in tensors:
                optimizer.state[p][key] = tensors[f"{name}.{key}"].to(p.device, copy=True)
