"""bf16 copies of parameters as the kernels read them, made again when one has changed. Knows no architecture."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tutelage.model.effective_weight import EffectiveWeight
from tutelage.native.linear import Paired, pair

Order = Callable[[Tensor], Tensor]  # rows (and columns) of a weight, or numbers of a bias, as the kernels want them


def as_it_is(x: Tensor) -> Tensor:
    return x


def joined(sources: Sequence[Tensor]) -> Tensor:
    """One below the other."""
    return sources[0] if len(sources) == 1 else torch.cat([*sources])


class Contents:
    """What stands in some parameters: equal as long as nothing was written to them.

    torch counts every in-place change in `_version` (optimiser steps and `copy_` among them); new storage has another
    address. A change through `.data` keeps both, so whoever makes one, or changes the scaling of an adapter, calls
    `CausalModel.forget_copies`.
    """

    def __init__(self, sources: Iterable[Tensor]) -> None:
        self._sources = tuple(sources)  # held, so that no other tensor gets their addresses
        self._state = tuple((p._version, p.data_ptr()) for p in self._sources)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Contents) or self._state != other._state:
            return False
        return all(a is b for a, b in zip(self._sources, other._sources, strict=True))

    __hash__ = None  # type: ignore[assignment]


@dataclass(slots=True)
class _Made:
    """A tensor made from parameters, and which contents of them it was made from."""

    tensor: Tensor
    contents: Contents


class WeightCache:
    """What was made of parameters, until their contents change."""

    def __init__(self) -> None:
        self._made: dict[str, _Made] = {}
        self._sizes: dict[str, tuple[int, int]] = {}  # O, I of those that are paired

    def get(self, name: str, sources: Sequence[Tensor], make: Callable[[], Tensor]) -> Tensor:
        """What is made of the sources. One name always comes with one `make`."""
        contents, made = Contents(sources), self._made.get(name)
        if made is not None and made.contents == contents:
            return made.tensor
        with torch.no_grad():
            tensor = make()
        self._made[name] = _Made(tensor, contents)
        return tensor

    def paired(
        self, name: str, layers: Sequence[EffectiveWeight], order: Order = as_it_is, bias_order: Order = as_it_is
    ) -> Paired:
        """These layers, one below the other, for x W^T. `order` gives [O, I]."""
        weight, n_out, n_in = self._pair(name, layers, order, turned=False)
        biases = [p.bias_O for p in layers if p.bias_O is not None]
        if not biases:
            return Paired(weight, n_out, n_in)
        bias_O = self.get(f"{name}, bias", biases, lambda: bias_order(joined([b.bfloat16() for b in biases])))
        return Paired(weight, n_out, n_in, bias_O)

    def turned(self, name: str, layers: Sequence[EffectiveWeight], order: Order = as_it_is) -> Paired:
        """The same for x W, which has I outputs."""
        weight, n_out, n_in = self._pair(f"{name}, turned", layers, order, turned=True)
        return Paired(weight, n_in, n_out)

    def _pair(
        self, name: str, layers: Sequence[EffectiveWeight], order: Order, *, turned: bool
    ) -> tuple[Tensor, int, int]:
        if any(p.is_adapted for p in layers):
            name = f"{name}, adapted"  # beside the plain ones, which the reference reads

        def make() -> Tensor:
            found = [p.whole() for p in layers]
            if order is not as_it_is:
                found = [order(joined(found))]
            self._sizes[name] = sum(map(len, found)), found[0].shape[1]
            return pair(found, turned=turned)

        weight = self.get(name, [x for p in layers for x in p.sources], make)
        n_out, n_in = self._sizes[name]
        return weight, n_out, n_in
