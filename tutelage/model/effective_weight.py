"""The weight by which a linear layer acts: its own, and on top that of a low-rank adapter while it is on.

So a model with adapters (`model.lora`) runs on the kernels that a model without runs on. O outputs, I inputs, R rank.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

ADAPTER = "default"  # peft's name of the only one that a layer may carry


@dataclass(frozen=True, slots=True)
class EffectiveWeight:
    """Of one linear layer, with its bias."""

    weight: Tensor  # [O, I]; [I, O] where it is turned
    bias_O: Tensor | None = None
    low_RI: Tensor | None = None  # of the adapter, None without one
    high_OR: Tensor | None = None
    scaling: float = 1.0
    is_turned: bool = False  # as `Conv1D` keeps it

    @property
    def is_adapted(self) -> bool:
        return self.low_RI is not None

    @property
    def sources(self) -> tuple[Tensor, ...]:
        """What `whole` is made of."""
        return tuple(x for x in (self.weight, self.low_RI, self.high_OR) if x is not None)

    def whole(self) -> Tensor:
        """weight + scaling * high low, in float32. Gradients flow to all three (Hu et al. 2021, arXiv:2106.09685)."""
        if self.low_RI is None or self.high_OR is None:
            return self.weight
        with torch.autocast(self.weight.device.type, enabled=False):
            delta_OI = self.scaling * (self.high_OR @ self.low_RI)
            return self.weight + (delta_OI.T if self.is_turned else delta_OI)


def effective(layer: Any) -> EffectiveWeight:
    """Of a layer that `is_plain`, as it stands now."""
    if type(layer) is nn.Linear or not hasattr(layer, "lora_A"):
        return EffectiveWeight(layer.weight, layer.bias)
    if layer.disable_adapters:
        return EffectiveWeight(layer.base_layer.weight, layer.base_layer.bias)
    low, high = layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight
    return EffectiveWeight(
        layer.base_layer.weight, layer.base_layer.bias, low, high, layer.scaling[ADAPTER], bool(layer.fan_in_fan_out)
    )


def is_plain(layer: Any, *, may_have_bias: bool = False, kind: type = nn.Linear) -> bool:
    """A layer of float32 weights on the processor, at most with an adapter as `model.lora` makes it."""
    base: Any = layer
    if type(layer) is not kind and hasattr(layer, "lora_A"):
        if not _is_low_rank(layer):
            return False
        base = layer.base_layer
    is_of_kind: bool = type(base) is kind
    return (
        is_of_kind
        and base.weight.dtype == torch.float32
        and base.weight.device.type == "cpu"
        and (may_have_bias or base.bias is None)
    )


def _is_low_rank(layer: Any) -> bool:
    """Whether an adapted layer is its base and two float32 matrices: no dropout, no variant of LoRA, nothing merged."""
    from peft.tuners.lora import Linear  # slow to import, and who has such a layer has done so

    return (
        type(layer) is Linear
        and list(layer.lora_A) == [ADAPTER]
        and not layer.merged
        and not layer.lora_variant
        and not layer.lora_bias[ADAPTER]
        and type(layer.lora_dropout[ADAPTER]) is nn.Identity
        and all(low[ADAPTER].weight.dtype == torch.float32 for low in (layer.lora_A, layer.lora_B))
    )
