"""The rollout engine: requests in, samples out. One step admits, prefills, decodes one token a slot and releases."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tutelage.engine.cache import PrefillLayout, Prefix, SlotCache
from tutelage.engine.request import Request, Sample, SamplingConfig
from tutelage.engine.sampling import draw, uniform
from tutelage.engine.scheduler import Running, Scheduler
from tutelage.errors import ConfigError, DataError
from tutelage.model.attention import Packed
from tutelage.model.causal import CausalModel


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
    """

    def __init__(self, model: CausalModel, *, end_id: int, window: int, config: EngineConfig | None = None) -> None:
        self.model = model
        self.end_id = end_id
        self.window = window
        self.config = config or EngineConfig()
        self.version = 0

    @torch.no_grad()
    def generate(
        self, requests: Sequence[Request], sampling: SamplingConfig, *, progress: Callable[[int], None] | None = None
    ) -> list[Sample]:
        """All samples of all requests, in order. Nothing is kept between calls, so no cache can be stale.

        progress  told the number of tokens drawn in each step
        Raises DataError for a prompt that is empty or that does not fit the window with its answer.
        """
        self._check(requests, sampling)
        scheduler = Scheduler(requests, self.config.slots)
        longest = max(len(r.prompt_ids) for r in requests) + sampling.max_new_tokens
        cache = SlotCache(self.config.slots, longest)
        prefixes: dict[int, Prefix] = {}
        done: list[Sample] = []
        while scheduler.waiting or scheduler.running:
            drawn = self._admit(scheduler, requests, cache, prefixes, sampling)
            self._release(scheduler, cache, sampling, done)
            if scheduler.running:
                drawn += self._decode(scheduler.running, cache, sampling)
                self._release(scheduler, cache, sampling, done)
            if progress:
                progress(drawn)
        return sorted(done, key=lambda s: (s.i_request, s.i_sample))

    def _check(self, requests: Sequence[Request], sampling: SamplingConfig) -> None:
        if not requests:
            raise DataError("there is no prompt to sample from. Give at least one.")
        for i, request in enumerate(requests):
            n = len(request.prompt_ids)
            if not n:
                raise DataError(f"prompt {i} has no token. Give it at least one.")
            if n + sampling.max_new_tokens > self.window:
                raise DataError(
                    f"prompt {i} has {n} tokens; with {sampling.max_new_tokens} for the answer that is more than the "
                    f"model's window of {self.window}. Shorten the prompt or lower sampling.max_new_tokens."
                )

    def _admit(
        self,
        scheduler: Scheduler,
        requests: Sequence[Request],
        cache: SlotCache,
        prefixes: dict[int, Prefix],
        sampling: SamplingConfig,
    ) -> int:
        """Fills free slots: prefills prompts that are new, copies their keys and values, and draws each first token."""
        taken = scheduler.admit()
        if not taken:
            return 0
        self._prefill([i for i in dict.fromkeys(s.i_request for s in taken) if i not in prefixes], requests, prefixes)
        first_slot = len(scheduler.running) - len(taken)
        for slot, sample in enumerate(taken, start=first_slot):
            cache.admit(slot, prefixes[sample.i_request])
        self._append(taken, torch.stack([prefixes[s.i_request].logits_V for s in taken]), sampling)
        kept = scheduler.waiting[0].i_request if scheduler.waiting else None
        for i in [i for i in prefixes if i != kept]:
            del prefixes[i]
        return len(taken)

    def _prefill(self, new: Sequence[int], requests: Sequence[Request], prefixes: dict[int, Prefix]) -> None:
        """Computes prompts, several in one packed row, at most `prefill_tokens` at once."""
        parts: list[list[int]] = []
        room = 0
        for i in new:
            n = len(requests[i].prompt_ids)
            if not parts or n > room:
                parts.append([])
                room = self.config.prefill_tokens
            parts[-1].append(i)
            room -= n
        for part in parts:
            packed = Packed([len(requests[i].prompt_ids) for i in part], device=self.model.device)
            layout = PrefillLayout(packed)
            token_N = torch.tensor([t for i in part for t in requests[i].prompt_ids], device=self.model.device)
            last_B = torch.tensor(packed.lengths, device=self.model.device).cumsum(0) - 1
            logits_BV = self.model.logits(token_N, packed.position_N, last_B, layout)
            prefixes.update(zip(part, layout.prefixes(logits_BV), strict=True))

    def _decode(self, running: Sequence[Running], cache: SlotCache, sampling: SamplingConfig) -> int:
        """One token for every running sample."""
        device = self.model.device
        token_S = torch.tensor([s.token_ids[-1] for s in running], device=device)
        position_S = torch.tensor([s.length - 1 for s in running], device=device)
        logits_SV = self.model.logits(
            token_S, position_S, torch.arange(len(running), device=device), cache.step(position_S)
        )
        self._append(running, logits_SV, sampling)
        return len(running)

    def _append(self, samples: Sequence[Running], logits_SV: Tensor, sampling: SamplingConfig) -> None:
        seeds = np.array([s.seed for s in samples], dtype=np.uint64)
        positions = np.array([len(s.token_ids) for s in samples], dtype=np.uint64)
        token_S, logp_S = draw(logits_SV, uniform(seeds, positions), sampling)
        for sample, token, logp in zip(samples, token_S.tolist(), logp_S.tolist(), strict=True):
            sample.token_ids.append(token)
            sample.logp.append(logp)

    def _release(self, scheduler: Scheduler, cache: SlotCache, sampling: SamplingConfig, done: list[Sample]) -> None:
        """Frees the slots of finished samples at once; the last running sequence moves into the hole."""
        for slot in reversed(range(len(scheduler.running))):
            sample = scheduler.running[slot]
            stopped = sample.token_ids[-1] == self.end_id
            if not stopped and len(sample.token_ids) < sampling.max_new_tokens:
                continue
            done.append(
                Sample(
                    sample.i_request,
                    sample.i_sample,
                    tuple(sample.token_ids),
                    tuple(sample.logp),
                    "stop" if stopped else "length",
                    self.version,
                )
            )
            moved = scheduler.release(slot)
            if moved is not None:
                cache.move(moved, slot, scheduler.running[slot].length)
