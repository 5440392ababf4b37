"""The price of leaving the reference: fixed, adaptive, or set from a KL target. Per-sequence KL in nats."""

from dataclasses import dataclass
from typing import Literal

from tutelage.algo.kl import adaptive_coef, coef_for_target
from tutelage.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class KLConfig:
    """The coefficient beta is reward lost per nat."""

    mode: Literal["fixed", "adaptive", "target"] = "target"
    coef: float = 0.1  # of `fixed`, and where `adaptive` starts
    target: float = 6.0  # nats a sequence; `target` sets beta = reward std / sqrt(2 x target) once, from fresh rollouts
    horizon: int = 10_000  # rollouts over which `adaptive` corrects beta
    budget: float = 12.0  # nats a sequence beyond which a policy is never chosen

    def __post_init__(self) -> None:
        if self.coef < 0:
            raise ConfigError(
                f"kl.coef = {self.coef}, but a negative price rewards leaving the reference. Set it to 0 or more."
            )
        if not self.target > 0 or not self.budget > 0:
            raise ConfigError(
                f"kl.target = {self.target}, kl.budget = {self.budget}: both are nats a sequence and must be above 0."
            )
        if self.mode != "fixed" and self.budget < self.target:
            raise ConfigError(
                f"kl.budget = {self.budget} is below kl.target = {self.target}, so every policy that reaches its "
                f"target would be refused. Set the budget to at least the target (twice it is usual)."
            )


def first_coef(cfg: KLConfig, reward_std: float) -> float:
    """The coefficient of the first update; `reward_std` is that of the reference's own rollouts."""
    if cfg.mode == "target":
        return coef_for_target(reward_std, cfg.target)
    return cfg.coef


def next_coef(cfg: KLConfig, coef: float, kl: float, n_sequences: int) -> float:
    """The coefficient after an update whose rollouts stood `kl` nats a sequence from the reference."""
    if cfg.mode == "adaptive":
        return adaptive_coef(coef, kl, target=cfg.target, horizon=cfg.horizon, n_sequences=n_sequences)
    return coef
