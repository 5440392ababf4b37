"""Gradient checkpointing: what a layer keeps for its way back is thrown away and computed again there.

Chen et al. 2016 (arXiv:1604.06174), a checkpoint before each layer: a third more arithmetic for memory that no longer
grows with what is inside a layer.
"""

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer


def recomputed(run: Callable[..., Any]) -> Callable[..., Any]:
    """The function, which keeps its inputs alone. It may draw no random numbers, as no pass of ours does."""
    return partial(checkpoint, run, use_reentrant=False, preserve_rng_state=False)


@contextlib.contextmanager
def layers_recomputed(hf: nn.Module, is_wanted: bool) -> Iterator[None]:
    """Inside, the layers of a `transformers` model keep their inputs alone, if it is wanted and there is a way back."""
    layers: list[Any] = []
    if is_wanted and torch.is_grad_enabled():
        layers = [m for m in hf.modules() if isinstance(m, GradientCheckpointingLayer)]
    for layer in layers:
        layer.forward = recomputed(layer.forward)  # on the object, before its class's own
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward
