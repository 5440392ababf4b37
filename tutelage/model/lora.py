"""Low-rank adapters on a causal model: trained alone, switched off to be the reference, merged to be published."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from peft import LoraConfig
from peft.tuners.lora import LoraModel
from transformers import PreTrainedModel

from tutelage.errors import ConfigError
from tutelage.model.causal import CausalModel


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraSettings:
    """Size of the adapters; rank 0 trains the full weights."""

    rank: int = 0
    alpha: int = 16  # the update is scaled by alpha / rank

    def __post_init__(self) -> None:
        if self.rank < 0:
            raise ConfigError(f"lora.rank = {self.rank}. Set it to 0 (full weights) or more (8 to 64 is usual).")


class Adapter:
    """LoRA on every linear layer but the head. The base weights are frozen where they are."""

    def __init__(self, model: CausalModel, settings: LoraSettings, *, seed: int) -> None:
        self.model = model
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            config = LoraConfig(
                r=settings.rank, lora_alpha=settings.alpha, lora_dropout=0.0, target_modules="all-linear", bias="none"
            )
            self._tuner = LoraModel(model.hf, config, "default")
        for name, p in model.named_parameters():
            p.requires_grad_("lora_" in name)

    @contextlib.contextmanager
    def off(self) -> Iterator[None]:
        """Inside, the model is what it was before training: the reference of the KL penalty, at no memory."""
        self._tuner.disable_adapter_layers()
        try:
            yield
        finally:
            self._tuner.enable_adapter_layers()

    def merge(self) -> CausalModel:
        """Adds the adapters into the base weights and takes them out: a plain model to publish."""
        merged = self._tuner.merge_and_unload()
        assert isinstance(merged, PreTrainedModel), f"peft took the adapters out and left a {type(merged).__name__}"
        self.model.hf = merged
        self.model.forget_copies()  # peft adds to `weight.data`
        for p in self.model.parameters():
            p.requires_grad_(True)
        return self.model
