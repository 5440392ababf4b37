"""bf16 copies of parameters as the kernels read them, made again when one has changed. Knows no architecture."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tutelage.native.linear import Paired, pair

Order = Callable[[Tensor], Tensor]  # rows (and columns) of a weight, or numbers of a bias, as the kernels want them


def as_it_is(x: Tensor) -> Tensor:
    return x


@dataclass(slots=True)
class _Made:
    """A tensor made from parameters, and which contents of them it was made from."""

    tensor: Tensor
    sources: tuple[Tensor, ...]
    state: tuple[tuple[int, int], ...]


class WeightCache:
    """What was made of parameters, until they change.

    torch counts every in-place change in `_version` (optimiser steps and `copy_` among them); new storage has another
    address. A change through `.data` keeps both, so whoever makes one calls `CausalModel.forget_copies`.
    """

    def __init__(self) -> None:
        self._made: dict[str, _Made] = {}
        self._sizes: dict[str, torch.Size] = {}  # O, I of those that are paired

    def get(self, name: str, sources: Sequence[Tensor], make: Order = as_it_is) -> Tensor:
        """What is made of the sources in bf16, one below the other. One name always comes with one `make`."""
        state = tuple((p._version, p.data_ptr()) for p in sources)
        made = self._made.get(name)
        if made is not None and made.state == state and all(a is b for a, b in zip(made.sources, sources, strict=True)):
            return made.tensor
        with torch.no_grad():
            halves = [p.detach().bfloat16() for p in sources]
            tensor = make(halves[0] if len(halves) == 1 else torch.cat(halves))
        self._made[name] = _Made(tensor, tuple(sources), state)
        return tensor

    def paired(
        self, name: str, weights: Sequence[Tensor], biases: Sequence[Tensor] = (), order: Order = as_it_is,
        bias_order: Order = as_it_is,
    ) -> Paired:  # fmt: skip
        """The layers of these weights, one below the other, for x W^T. `order` gives [O, I]."""
        weight, n_out, n_in = self._pair(name, weights, order, turned=False)
        return Paired(weight, n_out, n_in, self.get(f"{name}, bias", biases, bias_order) if biases else None)

    def turned(self, name: str, weights: Sequence[Tensor], order: Order = as_it_is) -> Paired:
        """The same for x W, which has I outputs."""
        weight, n_out, n_in = self._pair(f"{name}, turned", weights, order, turned=True)
        return Paired(weight, n_in, n_out)

    def _pair(self, name: str, weights: Sequence[Tensor], order: Order, *, turned: bool) -> tuple[Tensor, int, int]:
        def make(half: Tensor) -> Tensor:
            ordered_OI = order(half)
            self._sizes[name] = ordered_OI.shape
            return pair(ordered_OI, turned=turned)

        weight = self.get(name, weights, make)
        n_out, n_in = self._sizes[name]
        return weight, n_out, n_in
