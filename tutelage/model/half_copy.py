"""A model's matrices once more in bf16, for passes without gradient on a GPU.

Autocast makes such copies in every pass: for one token a sequence that is three times the traffic of the step itself.
A pass through the copy gives the bits that the same pass through the model gives, since all else is the model's own.
"""

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

MULTIPLIED = (nn.Linear, Conv1D)  # whose weights autocast rounds


class HalfCopy:
    """Of one model. Small weights and embeddings are shared with it; the matrices follow it when they are asked to."""

    def __init__(self, hf: PreTrainedModel) -> None:
        self._of = pass_of(hf)
        shared = {id(x): x for x in (*hf.parameters(), *hf.buffers())}
        self.hf = copy.deepcopy(hf, shared)
        self._sources: list[Tensor] = []
        self._copies: list[Tensor] = []
        for layer, other in zip(_multiplied(hf), _multiplied(self.hf), strict=True):
            for name, weight in layer.named_parameters(recurse=False):
                half = nn.Parameter(weight.detach().bfloat16(), requires_grad=False)
                setattr(other, name, half)
                self._sources.append(weight.detach())
                self._copies.append(half.detach())

    def is_of(self, hf: PreTrainedModel) -> bool:
        """Whether a pass of the model still reads the same tensors by the same way; what stands in them may change."""
        return self._of == pass_of(hf)

    @torch.no_grad()
    def refresh(self) -> None:
        """Takes over the weights of now."""
        torch._foreach_copy_(self._copies, self._sources)


def pass_of(hf: PreTrainedModel) -> tuple[object, ...]:
    """What a pass reads: layers, addresses of weights, and whether adapters are on. Another pass, another value."""
    return id(hf), tuple(p.data_ptr() for p in hf.parameters()), switches_of(hf)


def switches_of(hf: PreTrainedModel) -> tuple[object, ...]:
    """Of each layer with an adapter, whether it is off, and its scaling."""
    adapted: list[Any] = [layer for layer in hf.modules() if hasattr(layer, "lora_A")]
    return tuple((layer.disable_adapters, *layer.scaling.items()) for layer in adapted)


def _multiplied(hf: PreTrainedModel) -> Iterator[nn.Module]:
    return (layer for layer in hf.modules() if isinstance(layer, MULTIPLIED))
