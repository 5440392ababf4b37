"""The rollout engine: requests in, samples out. One turn admits, prefills, decodes some tokens a slot and releases."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from tutelage.engine.cache import SlotCache
from tutelage.engine.parking import Parking, n_parking
from tutelage.engine.prefill import Prefill
from tutelage.engine.prefix_cache import PrefixCache
from tutelage.engine.request import Request, Sample, SamplingConfig
from tutelage.engine.room import room_of
from tutelage.engine.scheduler import Running, Scheduler
from tutelage.engine.steps import Steps
from tutelage.errors import ConfigError, DataError
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
    prefixes   what was kept of calls to other engines of this model and precision
    """

    def __init__(
        self,
        model: CausalModel,
        *,
        end_id: int,
        window: int,
        config: EngineConfig | None = None,
        precision: Precision = "fp32",
        prefixes: PrefixCache | None = None,
        watch: Watch = OFF,
    ) -> None:
        self.model = model
        self._prefixes = PrefixCache() if prefixes is None else prefixes
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
        """All samples of all requests, in order.

        Of keys and values only those of what all prompts begin with are kept for later calls, and only for these
        weights.

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
        prefill = self._prefill(model, cache, requests)
        parking = Parking(cache, room.n_slots if room else n_slots, n_waiting)
        while scheduler.n_waiting or scheduler.n_running:
            drawn = self._admit(scheduler, requests, prefill, steps, parking)
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

    def _prefill(self, model: CausalModel, cache: SlotCache, requests: Sequence[Request]) -> Prefill:
        """Knows what all prompts begin with, where the kernels go on behind it to the bit."""
        most, prompts = self.config.prefill_tokens, [r.prompt_ids for r in requests]
        prefill = Prefill(model, cache, prompts, most=most, is_half=self._is_half, kept=self._prefixes)
        if self._is_half and model.device.type == "cpu":
            with self._watch.phase("prefill"):
                prefill.begin()
        return prefill

    def _admit(
        self, scheduler: Scheduler, requests: Sequence[Request], prefill: Prefill, steps: Steps, parking: Parking
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
                ahead = self._ahead(waiting, slots, prefill, parking)
                logits |= prefill.run(slots)
                for i, slot in ahead.items():
                    parking.park(i, slot, len(requests[i].prompt_ids), logits[i])
            steps.first(first, torch.stack([logits[s.i_request] for s in taken]))
            steps.release(self.end_id)
        return len(taken)

    def _ahead(
        self, waiting: Sequence[int], slots: dict[int, list[int]], prefill: Prefill, parking: Parking
    ) -> dict[int, int]:
        """Where prompts will wait that are computed along, as many as fit one pass; adds these slots to the others."""
        room = self.config.prefill_tokens - sum(map(prefill.n_left, slots))
        reserved: dict[int, int] = {}
        for i in waiting:
            if i not in slots:  # else it is computed anyway, and some of its samples wait
                room -= prefill.n_left(i)
                if room < 0:
                    break
            reserved[i] = parking.reserve()
            slots.setdefault(i, []).append(reserved[i])
        return reserved
