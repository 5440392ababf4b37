"""The rollout engine: requests in, samples out. One turn admits, prefills, decodes some tokens a slot and releases."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from tutelage.engine.cache import PrefillLayout, SlotCache
from tutelage.engine.parking import Parking, n_parking
from tutelage.engine.request import Request, Sample, SamplingConfig
from tutelage.engine.room import room_of
from tutelage.engine.scheduler import Running, Scheduler
from tutelage.engine.steps import Steps
from tutelage.errors import ConfigError, DataError
from tutelage.model.attention import Packed
from tutelage.model.causal import CausalModel
from tutelage.native.slots import POSITIONS
from tutelage.stopwatch import OFF, Watch
from tutelage.types import FinishReason

Precision = Literal["fp32", "bf16"]
STEPS = 16  # between two looks at what waits and reports of progress


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """How much runs at once."""

    slots: int = 64  # sequences decoded together
    prefill_tokens: int = 4096  # prompt tokens computed together

    def __post_init__(self) -> None:
        if self.slots < 1 or self.prefill_tokens < 1:
            raise ConfigError(
                f"engine.slots = {self.slots}, engine.prefill_tokens = {self.prefill_tokens}: both must be 1 or more."
            )


class Engine:
    """Samples from a causal model.

    The model is shared with whoever trains it: new weights need no copy, only a new version.

    precision  of the passes; on a processor 'bf16' is used for models with native kernels, where it is the faster one
    """

    def __init__(
        self,
        model: CausalModel,
        *,
        end_id: int,
        window: int,
        config: EngineConfig | None = None,
        precision: Precision = "fp32",
        watch: Watch = OFF,
    ) -> None:
        self.model = model
        self._watch = watch
        self._precision = precision
        self.end_id = end_id
        self.window = window
        self.config = config or EngineConfig()
        self.version = 0

    @torch.no_grad()
    def generate(
        self,
        requests: Sequence[Request],
        sampling: SamplingConfig,
        *,
        progress: Callable[[int], None] | None = None,
        step: Callable[[Sequence[Running]], None] | None = None,
    ) -> list[Sample]:
        """All samples of all requests, in order. No key or value is kept between calls, so none can be stale.

        progress  told the number of tokens drawn since it was last told
        step      shown the samples that are being written after each step; what it raises ends the work
        Raises DataError for a prompt that is empty or that does not fit the window with its answer.
        """
        self._check(requests, sampling)
        scheduler = Scheduler(requests, self.config.slots, limit=sampling.max_new_tokens)
        longest = max(len(r.prompt_ids) + r.limit(sampling.max_new_tokens) for r in requests)
        model, n_slots, room = self._sampled(), self.config.slots, None
        n_waiting = n_parking(n_slots, len(scheduler.samples))
        if model.device.type != "cpu":
            room = room_of(model, slots=n_slots, capacity=longest, last=self.window - 1, is_half=self._is_half)
        cache = room.cache if room else SlotCache(n_slots + n_waiting, longest + -longest % POSITIONS)
        steps = Steps(model, cache, scheduler, sampling, room)
        parking = Parking(cache, room.n_slots if room else n_slots, n_waiting)
        while scheduler.n_waiting or scheduler.n_running:
            drawn = self._admit(model, scheduler, requests, cache, steps, parking)
            if scheduler.n_running:
                with self._watch.phase("decode"):
                    drawn += steps.run(self.end_id, 1 if step else STEPS)
            if progress:
                progress(drawn)
            if step:
                step(scheduler.running)
        return [self._sample(s) for s in scheduler.samples]

    def _sample(self, s: Running) -> Sample:
        ids = tuple(s.token_ids)
        reason: FinishReason = "stop" if ids[-1] == self.end_id else "length"
        return Sample(s.i_request, s.i_sample, ids, tuple(s.logp), reason, self.version)

    @property
    def _is_half(self) -> bool:
        """Whether passes run in bf16: where it is asked for, and the model gains by it."""
        return self._precision == "bf16" and (self.model.device.type != "cpu" or self.model.is_fusable)

    def _sampled(self) -> CausalModel:
        """What is sampled from: the model, or on a GPU its copy in bf16, with the weights of now."""
        return self.model.half_copy() if self._is_half and self.model.device.type != "cpu" else self.model

    def _check(self, requests: Sequence[Request], sampling: SamplingConfig) -> None:
        if not requests:
            raise DataError("there is no prompt to sample from. Give at least one.")
        for i, request in enumerate(requests):
            n = len(request.prompt_ids)
            if not n:
                raise DataError(f"prompt {i} has no token. Give it at least one.")
            if request.max_new_tokens is not None and request.max_new_tokens < 1:
                raise DataError(f"prompt {i} asks for {request.max_new_tokens} tokens. Ask for one or more.")
            limit = request.limit(sampling.max_new_tokens)
            if n + limit > self.window:
                raise DataError(
                    f"prompt {i} has {n} tokens; with {limit} for the answer that is more than the "
                    f"model's window of {self.window}. Shorten the prompt or lower sampling.max_new_tokens."
                )

    def _admit(
        self,
        model: CausalModel,
        scheduler: Scheduler,
        requests: Sequence[Request],
        cache: SlotCache,
        steps: Steps,
        parking: Parking,
    ) -> int:
        """Fills free slots: computes prompts that are new, takes over those that wait, draws each first token."""
        taken = scheduler.admit()
        if not taken:
            return 0
        slots: dict[int, list[int]] = {}
        first = scheduler.n_running - len(taken)
        for slot, sample in enumerate(taken, start=first):
            slots.setdefault(sample.i_request, []).append(slot)
        with self._watch.phase("prefill"):
            logits = {i: parking.copy_to(slots.pop(i), i) for i in [*slots] if i in parking}
            waiting = scheduler.next_requests(parking.n)
            parking.keep(waiting)
            if slots:
                ahead = self._ahead(waiting, slots, requests, parking)
                logits |= self._prefill(model, slots, requests, cache)
                for i, slot in ahead.items():
                    parking.park(i, slot, len(requests[i].prompt_ids), logits[i])
            steps.first(first, torch.stack([logits[s.i_request] for s in taken]))
            steps.release(self.end_id)
        return len(taken)

    def _ahead(
        self, waiting: Sequence[int], slots: dict[int, list[int]], requests: Sequence[Request], parking: Parking
    ) -> dict[int, int]:
        """Where prompts will wait that are computed along, as many as fit one pass; adds these slots to the others."""
        room = self.config.prefill_tokens - sum(len(requests[i].prompt_ids) for i in slots)
        reserved: dict[int, int] = {}
        for i in waiting:
            if i not in slots:  # else it is computed anyway, and some of its samples wait
                room -= len(requests[i].prompt_ids)
                if room < 0:
                    break
            reserved[i] = parking.reserve()
            slots.setdefault(i, []).append(reserved[i])
        return reserved

    def _prefill(
        self, model: CausalModel, slots: dict[int, list[int]], requests: Sequence[Request], cache: SlotCache
    ) -> dict[int, Tensor]:
        """Computes prompts into these slots, several in one packed row, at most `prefill_tokens` at once.

        Returns the logits [V] that follow each.
        """
        parts: list[list[int]] = []
        logits: dict[int, Tensor] = {}
        room = 0
        for i in slots:
            n = len(requests[i].prompt_ids)
            if not parts or n > room:
                parts.append([])
                room = self.config.prefill_tokens
            parts[-1].append(i)
            room -= n
        for part in parts:
            packed = Packed([len(requests[i].prompt_ids) for i in part], device=model.device)
            layout = PrefillLayout(packed, cache, [slots[i] for i in part])
            token_N = torch.tensor([t for i in part for t in requests[i].prompt_ids], device=model.device)
            last_B = torch.tensor(packed.lengths, device=model.device).cumsum(0) - 1
            with torch.autocast(model.device.type, torch.bfloat16, enabled=self._is_half):
                logits_BV = model.logits(token_N, packed.position_N, last_B, layout)
            logits.update(zip(part, logits_BV, strict=True))
        return logits
