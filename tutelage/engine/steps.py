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


class Steps:
    """The steps of one `generate`: the weights may not change before it ends."""

    def __init__(self, model: CausalModel, cache: SlotCache) -> None:
        self._model, self._cache = model, cache
        self._decoder: Decoder | None = None
        self._is_open = False

    def draw(self, running: Sequence[Running], uniform_S: Tensor, sampling: SamplingConfig) -> tuple[Tensor, Tensor]:
        """Token ids [S] and log-probabilities [S] (nats) of what follows each sequence; `running[i]` is slot i."""
        if not self._is_open:  # now, since the buffers exist from the first prompt on
            self._decoder, self._is_open = self._model.decoder(self._cache.keys, self._cache.values), True
        device = self._model.device
        token_S = torch.tensor([s.token_ids[-1] for s in running], device=device)
        position_S = torch.tensor([s.length - 1 for s in running], device=device)
        if self._decoder is None:
            slot_S = torch.arange(len(running), device=device)
            return draw(
                self._model.logits(token_S, position_S, slot_S, self._cache.step(position_S)), uniform_S, sampling
            )
        if sampling.is_policy_itself:
            return self._decoder.draw(token_S, position_S, uniform_S, temperature=sampling.temperature)
        return draw(self._decoder.logits(token_S, position_S), uniform_S, sampling)
