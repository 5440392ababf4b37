"""What is asked of the engine and what it answers: token ids in, token ids with log-probabilities out."""

from dataclasses import dataclass

from tutelage.errors import ConfigError
from tutelage.types import FinishReason


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingConfig:
    """The distribution that is drawn from. Training samples with top_p = 1 and top_k = 0: the policy itself."""

    max_new_tokens: int = 48
    temperature: float = 1.0  # divides the logits; 0 takes the likeliest token
    top_p: float = 1.0  # smallest set of tokens with this much probability; 1 = all
    top_k: int = 0  # this many likeliest tokens; 0 = all

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise ConfigError(
                f"sampling.max_new_tokens = {self.max_new_tokens}, but an answer needs at least its end token. Set it "
                f"to 1 or more."
            )
        if self.temperature < 0:
            raise ConfigError(
                f"sampling.temperature = {self.temperature}, but it divides the logits. Set it to 0 (likeliest token) "
                f"or above."
            )
        if not 0 < self.top_p <= 1:
            raise ConfigError(
                f"sampling.top_p = {self.top_p}, but it is a share of probability. Set it above 0 and at most 1."
            )
        if self.top_k < 0:
            raise ConfigError(f"sampling.top_k = {self.top_k}, but it counts tokens. Set it to 0 (all) or more.")

    @property
    def is_policy_itself(self) -> bool:
        """Whether the recorded log-probabilities are those of the whole policy at this temperature."""
        return self.top_p == 1 and self.top_k == 0 and self.temperature > 0


@dataclass(frozen=True, slots=True)
class Request:
    """K samples of one prompt. Example: `Request(prompt_ids=(5, 6), seeds=(1, 2, 3, 4))` asks for four."""

    prompt_ids: tuple[int, ...]
    seeds: tuple[int, ...]  # one a sample; the same seed gives the same sample whatever else is running
    max_new_tokens: int | None = None  # of these samples, if fewer than those of the sampling

    def limit(self, max_new_tokens: int) -> int:
        """Tokens after which a sample ends."""
        return max_new_tokens if self.max_new_tokens is None else min(self.max_new_tokens, max_new_tokens)


@dataclass(frozen=True, slots=True)
class Sample:
    """One completion as it was drawn."""

    i_request: int
    i_sample: int
    token_ids: tuple[int, ...]  # the end token included when it was drawn
    logp: tuple[float, ...]  # nats, of each token under the distribution that it was drawn from
    finish_reason: FinishReason
    version: int  # which weights wrote it
