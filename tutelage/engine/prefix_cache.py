"""Keys and values of what prompts began with, from call to call of the engine, as long as the weights stay.

What all prompts of a call begin with is kept: an instruction that stands before all of them, or, of a prompt alone, the
conversation so far, which its next turn begins with. In whole pages, so that going on behind them gives, to the bit,
what the whole prompt gives.
L layers, G key heads, P positions, W head width as slots hold it.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from tutelage.native.slots import PAGE

MOST_BYTES = 256 << 20  # of what one cache keeps: some ten thousand tokens of a model of 100M weights
MOST_ENTRIES = 64

Ids = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Prefix:
    """What a prompt begins with, computed."""

    ids: Ids
    keys_LGPW: Tensor
    values_LGPW: Tensor

    def __len__(self) -> int:
        return len(self.ids)

    def first(self, n: int) -> "Prefix":
        return Prefix(self.ids[:n], self.keys_LGPW[:, :, :n], self.values_LGPW[:, :, :n])

    def copy(self) -> "Prefix":
        return Prefix(self.ids, self.keys_LGPW.clone(), self.values_LGPW.clone())

    @property
    def n_bytes(self) -> int:
        return self.keys_LGPW.nbytes + self.values_LGPW.nbytes


class PrefixCache:
    """The prefixes used last, of one model in one precision.

    most_bytes  of all that are kept; 0 keeps none
    """

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self._most_bytes = most_bytes
        self._kept: OrderedDict[Ids, Prefix] = OrderedDict()
        self._weights: tuple[object, ...] = ()  # that computed them

    @property
    def is_on(self) -> bool:
        return self._most_bytes > 0

    @property
    def n_bytes(self) -> int:
        return sum(prefix.n_bytes for prefix in self._kept.values())

    def __len__(self) -> int:
        return len(self._kept)

    def longest(self, ids: Ids, weights: tuple[object, ...]) -> Prefix | None:
        """The longest prefix of `ids` that these weights have computed.

        weights  `CausalModel.contents`: what others have computed is dropped
        """
        if weights != self._weights:
            self._kept.clear()
            self._weights = ()
        best, n = None, 0
        for prefix in self._kept.values():
            if (common := in_common([ids, prefix.ids])) > n:
                best, n = prefix, common
        if best is None:
            return None
        self._kept.move_to_end(best.ids)
        return best.first(n)

    def keep(self, prefix: Prefix, weights: tuple[object, ...]) -> None:
        """Copies as many pages of it as there may be; for the weights of the last `longest`.

        It takes the place of what it begins with, and of the prefixes that were not used for longest.
        """
        n = self._most_bytes // (prefix.n_bytes // len(prefix)) // PAGE * PAGE
        kept = prefix.first(n)
        if any(ids[: len(kept)] == kept.ids for ids in self._kept) or not kept.ids:
            return
        self._weights = weights
        for ids in [ids for ids in self._kept if ids == kept.ids[: len(ids)]]:
            del self._kept[ids]
        while self._kept and (self.n_bytes + kept.n_bytes > self._most_bytes or len(self) == MOST_ENTRIES):
            self._kept.popitem(last=False)
        self._kept[kept.ids] = kept.copy()


def in_common(prompts: Sequence[Ids]) -> int:
    """How many tokens all of them begin with, in whole pages."""
    first, n = prompts[0], 0
    most = min(map(len, prompts))
    while n + PAGE <= most and all(ids[n : n + PAGE] == first[n : n + PAGE] for ids in prompts):
        n += PAGE
    return n
