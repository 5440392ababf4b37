"""The next tokens of every running sequence, by the quickest way that the model, the pass and the cache allow.

S running sequences, V vocabulary.
"""

import torch
from torch import Tensor

from tutelage.engine.cache import SlotCache
from tutelage.engine.request import SamplingConfig
from tutelage.engine.room import STEPS, Room
from tutelage.engine.sampling import draw, uniform
from tutelage.engine.scheduler import Scheduler
from tutelage.model.causal import CausalModel
from tutelage.native.decode import Decoder
from tutelage.native.linear import draw_rows

READ = 32  # positions looked at are a multiple of this, so that few shapes occur


class Steps:
    """The steps of one `generate`: the weights may not change before it ends."""

    def __init__(
        self,
        model: CausalModel,
        cache: SlotCache,
        scheduler: Scheduler,
        sampling: SamplingConfig,
        room: Room | None,
    ) -> None:
        self._model, self._cache, self._scheduler, self._sampling, self._room = model, cache, scheduler, sampling, room
        self._decoder: Decoder | None = None
        self._is_open = False

    def first(self, first: int, logits_SV: Tensor) -> None:
        """Draws what follows the prompts in the running slots from `first` on, from the logits there."""
        uniform_S = self._uniform(first)
        if self._sampling.is_policy_itself and self._open() is not None:
            drawn = draw_rows(logits_SV, uniform_S, temperature=self._sampling.temperature)
        else:
            drawn = draw(logits_SV, uniform_S, self._sampling)
        self._append(first, drawn)

    def run(self, end_id: int, most: int) -> int:
        """Draws a token for all running samples: where that is faster up to `most` times, or until waiting ones have
        room.

        Frees the slots of those that end. Returns how many tokens were drawn.
        """
        s, decoder = self._scheduler, self._open()
        if decoder is not None and self._sampling.is_policy_itself:
            temperature = self._sampling.temperature
            s.n_running, drawn = decoder.run(
                s.draws, s.row_S, s.n_running, end_id=end_id, temperature=temperature, steps=most, few=s.few
            )
            return drawn
        if self._room is not None:
            drawn = self._run_in(self._room, end_id, most)
        else:
            drawn = s.n_running
            token_S, position_S = (torch.from_numpy(x_S) for x_S in s.last())
            if decoder is not None:
                logits_SV = decoder.logits(token_S, position_S)
            else:
                longest = int(position_S.max()) + 1
                layout = self._cache.step(position_S, longest + -longest % READ)
                logits_SV = self._model.logits(token_S, position_S, torch.arange(drawn), layout)
            self._append(0, draw(logits_SV, self._uniform(0), self._sampling))
        self.release(end_id)
        return drawn

    def _run_in(self, room: Room, end_id: int, most: int) -> int:
        s = self._scheduler
        d, row_S = s.draws, s.rows()
        steps = min(most, STEPS, int((d.limit_R - d.drawn_R)[row_S].max()))
        uniform_KS = torch.stack([self._uniform(0, ahead) for ahead in range(steps)])
        return s.extend(*room.run(self._model, self._sampling, *s.last(), uniform_KS), end_id)

    def release(self, end_id: int) -> None:
        """Frees the slots of samples that are over at once; the last running sequence moves into the hole."""
        for slot in self._scheduler.over(end_id):
            if moved := self._scheduler.release(slot):
                self._cache.move(moved[0], slot, moved[1])

    def _uniform(self, first: int, ahead: int = 0) -> Tensor:
        """For the next draw, or one further ahead, of each sample in the running slots from `first` on."""
        d, row_S = self._scheduler.draws, self._scheduler.rows(first)
        return uniform(d.seed_R[row_S], (d.drawn_R[row_S] + ahead).astype(d.seed_R.dtype))

    def _append(self, first: int, drawn: tuple[Tensor, Tensor]) -> None:
        token_S, logp_S = (x_S.cpu().numpy() for x_S in drawn)
        self._scheduler.append(first, token_S, logp_S)

    def _open(self) -> Decoder | None:
        """Not before the first prompt, with which the buffers come."""
        if not self._is_open:
            slots, self._is_open = self._cache.native, True
            self._decoder = None if slots is None else self._model.decoder(slots)
        return self._decoder
