"""Prompts into slots: several in one packed row, and what they all begin with once.

V vocabulary.
"""

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from tutelage.engine.cache import PrefillLayout, SlotCache
from tutelage.engine.prefix_cache import Ids, Prefix, PrefixCache, in_common
from tutelage.model.attention import Packed
from tutelage.model.causal import CausalModel

Slots = Mapping[int, Sequence[int]]  # of each prompt


class Prefill:
    """The prompts of one `generate`.

    most     tokens that are computed together
    is_half  whether passes run in bf16
    kept     what prompts began with; only the kernels go on behind it
    """

    def __init__(
        self,
        model: CausalModel,
        cache: SlotCache,
        prompts: Sequence[Ids],
        *,
        most: int,
        is_half: bool,
        kept: PrefixCache,
    ) -> None:
        self._model, self._cache, self._prompts = model, cache, prompts
        self._most, self._is_half, self._kept = most, is_half, kept
        self._common: Ids = ()  # what all prompts begin with, where it is to be kept
        self._prefix: Prefix | None = None  # what is known of it
        self._weights: tuple[object, ...] = ()

    def begin(self) -> None:
        """Finds what is kept of what all prompts begin with. Of several prompts, the rest of it is computed here.

        Slot 0 must be free.
        """
        common = self._prompts[0][: in_common([ids[:-1] for ids in self._prompts])]  # logits follow what is left
        if not self._kept.is_on or not (common or self._kept):
            return
        self._weights = self._model.contents()
        self._prefix = self._kept.longest(common, self._weights)
        if len(common) == self._n_known:
            return
        if len(self._prompts) == 1:
            self._common = common
        else:
            self._pass([common], [[0]])
            self._kept.keep(self._cache.prefix(0, common), self._weights)
            self._prefix = self._kept.longest(common, self._weights)

    @property
    def _n_known(self) -> int:
        return len(self._prefix) if self._prefix else 0

    def n_left(self, i: int) -> int:
        """Tokens of prompt i that a pass computes."""
        return len(self._prompts[i]) - self._n_known

    def run(self, slots: Slots) -> dict[int, Tensor]:
        """Computes these prompts into their slots. Returns the logits [V] that follow each."""
        logits: dict[int, Tensor] = {}
        for part in self._parts(slots):
            logits_BV = self._pass([self._prompts[i] for i in part], [slots[i] for i in part])
            logits.update(zip(part, logits_BV, strict=True))
            if self._common:  # of a prompt alone
                self._kept.keep(self._cache.prefix(slots[part[0]][0], self._common), self._weights)
        return logits

    def _parts(self, prompts: Iterable[int]) -> list[list[int]]:
        """Prompts that are computed together."""
        parts: list[list[int]] = []
        room = 0
        for i in prompts:
            if not parts or self.n_left(i) > room:
                parts.append([])
                room = self._most
            parts[-1].append(i)
            room -= self.n_left(i)
        return parts

    def _pass(self, prompts: Sequence[Ids], slots: Sequence[Sequence[int]]) -> Tensor:
        """One packed row, behind the prefix. Returns the logits [B, V] that follow each prompt."""
        after, device = self._n_known, self._model.device
        packed = Packed([len(ids) - after for ids in prompts], device=device, after=after)
        layout = PrefillLayout(packed, self._cache, slots, self._prefix)
        token_N = torch.tensor([t for ids in prompts for t in ids[after:]], device=device)
        last_B = torch.tensor(packed.lengths, device=device).cumsum(0) - 1
        with torch.autocast(device.type, torch.bfloat16, enabled=self._is_half):
            return self._model.logits(token_N, packed.position_N, last_B, layout)
