"""Whether a policy may take the place of the one before it. Knows figures, not models."""

from collections.abc import Mapping
from dataclasses import dataclass

from tutelage.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class GateConfig:
    """A policy is promoted when every line holds."""

    win_rate: float = 0.5  # against the best policy so far: the low end of the 95 % interval must be at least this
    max_kl: float = 25.0  # nats a sequence from the SFT model
    max_unfinished: float = 0.10  # share of answers without an end
    min_unique: float = 0.5  # share of different answers over different prompts

    def __post_init__(self) -> None:
        if not 0 <= self.win_rate < 1:
            raise ConfigError(
                f"gate.win_rate = {self.win_rate}, but it is a share of comparisons won. 0.5 asks for 'not worse'."
            )


@dataclass(frozen=True, slots=True)
class Verdict:
    """Promoted or not, and every reason against."""

    promoted: bool
    reasons: tuple[str, ...]


def decide(cfg: GateConfig, figures: Mapping[str, float]) -> Verdict:
    """Reads `win_low` and `changed` (against the best policy so far), `kl`, `unfinished` and `unique`.

    changed  share of the answers that are not those of the best policy so far
    """
    against = []
    if figures["changed"] == 0:
        against.append("each of its answers is that of the best policy so far: RL found nothing better")
    elif figures["win_low"] < cfg.win_rate:
        against.append(
            f"its win rate against the best policy so far may be as low as {figures['win_low']:.1%} "
            f"(asked: {cfg.win_rate:.0%})"
        )
    if figures["kl"] > cfg.max_kl:
        against.append(f"it stands {figures['kl']:.1f} nats from the SFT model (allowed: {cfg.max_kl:g})")
    if figures["unfinished"] > cfg.max_unfinished:
        against.append(f"{figures['unfinished']:.0%} of its answers have no end (allowed: {cfg.max_unfinished:.0%})")
    if figures["unique"] < cfg.min_unique:
        against.append(f"only {figures['unique']:.0%} of its answers differ (asked: {cfg.min_unique:.0%})")
    return Verdict(not against, tuple(against))
