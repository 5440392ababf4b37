"""One more token for every running sequence, by the quickest way that the model, the pass and the cache allow.

S running sequences.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from tutelage.engine.cache import SlotCache
from tutelage.engine.request import SamplingConfig
from tutelage.engine.sampling import draw
from tutelage.engine.scheduler import Running
from tutelage.model.causal import CausalModel
from tutelage.native.decode import Decoder
from tutelage.native.linear import draw_rows


class Steps:
    """The steps of one `generate`: the weights may not change before it ends."""

    def __init__(self, model: CausalModel, cache: SlotCache) -> None:
        self._model, self._cache = model, cache
        self._decoder: Decoder | None = None
        self._is_open = False

    def first(self, logits_SV: Tensor, uniform_S: Tensor, sampling: SamplingConfig) -> tuple[Tensor, Tensor]:
        """`draw` of what follows prompts, from their logits."""
        if sampling.is_policy_itself and self._open() is not None:
            return draw_rows(logits_SV, uniform_S, temperature=sampling.temperature)
        return draw(logits_SV, uniform_S, sampling)

    def draw(self, running: Sequence[Running], uniform_S: Tensor, sampling: SamplingConfig) -> tuple[Tensor, Tensor]:
        """Token ids [S] and log-probabilities [S] (nats) of what follows each sequence; `running[i]` is slot i."""
        decoder = self._open()
        device = self._model.device
        token_S = torch.tensor([s.token_ids[-1] for s in running], device=device)
        position_S = torch.tensor([s.length - 1 for s in running], device=device)
        if decoder is None:
            slot_S = torch.arange(len(running), device=device)
            return draw(
                self._model.logits(token_S, position_S, slot_S, self._cache.step(position_S)), uniform_S, sampling
            )
        if sampling.is_policy_itself:
            return decoder.draw(token_S, position_S, uniform_S, temperature=sampling.temperature)
        return draw(decoder.logits(token_S, position_S), uniform_S, sampling)

    def _open(self) -> Decoder | None:
        """Not before the first prompt, with which the buffers come."""
        if not self._is_open:
            self._decoder, self._is_open = self._model.decoder(self._cache.keys, self._cache.values), True
        return self._decoder
