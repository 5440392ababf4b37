"""One more token for every running sequence, by the quickest way that the model, the pass and the cache allow.

S running sequences.
"""

import torch
from torch import Tensor

from tutelage.engine.cache import SlotCache
from tutelage.engine.request import SamplingConfig
from tutelage.engine.sampling import draw
from tutelage.model.causal import CausalModel
from tutelage.native.decode import Array, Decoder
from tutelage.native.linear import draw_rows


class Steps:
    """The steps of one `generate`: the weights may not change before it ends."""

    def __init__(self, model: CausalModel, cache: SlotCache) -> None:
        self._model, self._cache = model, cache
        self._decoder: Decoder | None = None
        self._is_open = False

    def first(self, logits_SV: Tensor, uniform_S: Tensor, sampling: SamplingConfig) -> tuple[Array, Array]:
        """`draw` of what follows prompts, from their logits."""
        if sampling.is_policy_itself and self._open() is not None:
            return _arrays(*draw_rows(logits_SV, uniform_S, temperature=sampling.temperature))
        return _arrays(*draw(logits_SV, uniform_S, sampling))

    def draw(self, last_S: Array, where_S: Array, uniform_S: Tensor, sampling: SamplingConfig) -> tuple[Array, Array]:
        """Token ids [S] and log-probabilities [S] (nats) of what follows the sequences in the first slots.

        last_S, where_S  the last token of each, and its position
        """
        decoder = self._open()
        if decoder is not None and sampling.is_policy_itself:
            return decoder.draw(last_S, where_S, uniform_S.numpy(), temperature=sampling.temperature)
        if decoder is not None:
            return _arrays(*draw(decoder.logits(last_S, where_S), uniform_S, sampling))
        token_S, position_S = (torch.from_numpy(x_S).to(self._model.device) for x_S in (last_S, where_S))
        slot_S = torch.arange(len(token_S), device=token_S.device)
        logits_SV = self._model.logits(token_S, position_S, slot_S, self._cache.step(position_S))
        return _arrays(*draw(logits_SV, uniform_S, sampling))

    def _open(self) -> Decoder | None:
        """Not before the first prompt, with which the buffers come."""
        if not self._is_open:
            slots, self._is_open = self._cache.native, True
            self._decoder = None if slots is None else self._model.decoder(slots)
        return self._decoder


def _arrays(token_S: Tensor, logp_S: Tensor) -> tuple[Array, Array]:
    return token_S.cpu().numpy(), logp_S.cpu().numpy()
