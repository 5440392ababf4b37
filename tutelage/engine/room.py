"""Decoding on a device that works behind the program's back: some steps are queued before anybody waits for it.

On a CUDA device a step is recorded as a graph and played again, since starting its kernels one by one would take many
times as long as they run. A graph knows addresses alone, so buffers and graphs outlive a call of the engine. Nothing in
them is read that the call at hand has not written.
S running sequences, K steps, V vocabulary.
"""

import contextlib
import weakref
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from tutelage.engine.cache import SlotCache
from tutelage.engine.parking import PART
from tutelage.engine.request import SamplingConfig
from tutelage.engine.sampling import draw
from tutelage.log import say
from tutelage.model.causal import PLAIN_HEADS, CausalModel
from tutelage.model.half_copy import pass_of
from tutelage.native.decode import Array

STEPS = 8  # at most, before the host looks at what was drawn
READ = 256  # positions looked at are a multiple of this: one graph serves that many steps
NARROWER = 4  # widths are the number of slots divided by powers of this: one graph serves that many sequences
MOST_GRAPHS = 64  # that are kept: who serves is asked for one temperature after the other
WARM_UPS = 2  # steps before a recording, in which libraries allocate what they need


class Room:
    """Slots, and what the steps in them read and write, at fixed addresses.

    last     the highest position that a sequence may reach
    is_half  whether passes run in bf16
    """

    def __init__(self, model: CausalModel, *, slots: int, capacity: int, last: int, is_half: bool) -> None:
        device = model.device
        self.n_slots = slots
        self.cache = SlotCache(slots + max(1, slots // PART), capacity)  # some are for prompts that wait
        self._asked = last, is_half
        self._pass = pass_of(model.hf)
        self._highest = min(last, self.cache.capacity - 1)
        self._is_half, self._device = is_half, device
        self._is_recorded = device.type == "cuda" and not asks_the_host(model)
        if device.type == "cuda" and not self._is_recorded:
            say(
                f"a model of type {model.hf.config.model_type!r} samples without CUDA graphs here, and so more slowly: "
                f"its steps may ask the host."
            )
        self._token_S = torch.zeros(slots, dtype=torch.int64, device=device)
        self._position_S = torch.zeros_like(self._token_S)
        self._slot_S = torch.arange(slots, device=device)
        self._at = torch.zeros(1, dtype=torch.int64, device=device)  # the step
        self._uniform_KS = torch.zeros(STEPS, slots, dtype=torch.float64, device=device)
        self._token_KS = torch.zeros(STEPS, slots, dtype=torch.int64, device=device)
        self._logp_KS = torch.zeros(STEPS, slots, device=device)
        self._graphs: OrderedDict[tuple[int, int, SamplingConfig], torch.cuda.CUDAGraph] = OrderedDict()
        # What steps make on their way lies in one pool: of a step nothing is needed but what stands in the buffers.
        self._pool = torch.cuda.graph_pool_handle() if device.type == "cuda" else None

    def serves(self, model: CausalModel, *, slots: int, capacity: int, last: int, is_half: bool) -> bool:
        """Whether its slots are enough, and made for such passes of this model."""
        is_enough = self.n_slots >= slots and self.cache.capacity >= capacity
        return is_enough and self._asked == (last, is_half) and self._pass == pass_of(model.hf)

    def run(
        self, model: CausalModel, sampling: SamplingConfig, token_S: Array, position_S: Array, uniform_KS: Tensor
    ) -> tuple[Array, Array]:
        """K tokens of each sequence and their log-probabilities, both [K, S], the first of them after `token_S`.

        A sequence that ends on the way goes on to the last step: what it draws behind its end means nothing.
        """
        with torch.cuda.device(self._device) if self._device.type == "cuda" else contextlib.nullcontext():
            return self._run(model, sampling, token_S, position_S, uniform_KS)

    def _run(
        self, model: CausalModel, sampling: SamplingConfig, token_S: Array, position_S: Array, uniform_KS: Tensor
    ) -> tuple[Array, Array]:
        n, k = len(token_S), len(uniform_KS)
        width, read = self._width(n), self._read(int(position_S.max()) + k)
        # Rows beyond those that run write where nobody reads.
        self._token_S[:width] = torch.from_numpy(np.pad(token_S, (0, width - n))).to(self._token_S.device)
        self._position_S[:width] = torch.from_numpy(np.pad(position_S, (0, width - n))).to(self._token_S.device)
        self._uniform_KS[:k, :n] = uniform_KS.to(self._token_S.device)
        self._at.zero_()
        step = self._step_of(model, width, read, sampling)
        for _ in range(k):
            step()
        return self._token_KS[:k, :n].cpu().numpy(), self._logp_KS[:k, :n].cpu().numpy()

    def _width(self, n: int) -> int:
        width = self.n_slots
        while n <= width // NARROWER:
            width //= NARROWER
        return width

    def _read(self, longest: int) -> int:
        return min(self.cache.capacity, longest + -longest % READ)

    def _step_of(self, model: CausalModel, width: int, read: int, sampling: SamplingConfig) -> Callable[[], None]:
        def step() -> None:
            self._step(model, width, read, sampling)

        if not self._is_recorded:
            return step
        key = width, read, replace(sampling, max_new_tokens=1)  # how long answers are changes no step
        if key not in self._graphs:
            self._graphs[key] = self._record(step)
            if len(self._graphs) > MOST_GRAPHS:
                self._graphs.popitem(last=False)
        self._graphs.move_to_end(key)
        return self._graphs[key].replay

    def _step(self, model: CausalModel, width: int, read: int, sampling: SamplingConfig) -> None:
        token_S, position_S = self._token_S[:width], self._position_S[:width]
        # Without autocast's own cache, whose copies a graph would not make again.
        with torch.autocast(model.device.type, torch.bfloat16, enabled=self._is_half, cache_enabled=False):
            layout = self.cache.step(position_S, read)
            logits_SV = model.logits(token_S, position_S, self._slot_S[:width], layout)
        uniform_S = self._uniform_KS.index_select(0, self._at)[0, :width]
        drawn_S, logp_S = draw(logits_SV, uniform_S, sampling)
        self._token_KS[:, :width].index_copy_(0, self._at, drawn_S[None])
        self._logp_KS[:, :width].index_copy_(0, self._at, logp_S[None])
        token_S.copy_(drawn_S)
        position_S.add_(1).clamp_(max=self._highest)
        self._at.add_(1).clamp_(max=STEPS - 1)

    def _record(self, step: Callable[[], None]) -> torch.cuda.CUDAGraph:
        """The step as a graph; what it reads is afterwards as it was."""
        state = self._token_S, self._position_S, self._at
        before = [x.clone() for x in state]
        aside = torch.cuda.Stream(self._device)
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(WARM_UPS):
                step()
        torch.cuda.current_stream().wait_stream(aside)
        for x, value in zip(state, before, strict=True):
            x.copy_(value)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, stream=aside):
            step()
        return graph


def asks_the_host(model: CausalModel) -> bool:
    """Whether a step may depend on what the host reads from the device, which no graph can do.

    Rotations that grow with the longest position do; of kinds that we have not looked at, who knows.
    """
    config = model.hf.config.to_dict()
    rope: dict[str, object] = next((config[k] for k in ("rope_parameters", "rope_scaling") if config.get(k)), {})
    kind = str(rope.get("rope_type", rope.get("type", "")))
    return "dynamic" in kind or config["model_type"] not in PLAIN_HEADS


_rooms: "weakref.WeakKeyDictionary[CausalModel, Room]" = weakref.WeakKeyDictionary()


def room_of(model: CausalModel, *, slots: int, capacity: int, last: int, is_half: bool) -> Room:
    """The model's room if it is large enough, or a new one in its place."""
    room = _rooms[model] if model in _rooms else None
    if room is None or not room.serves(model, slots=slots, capacity=capacity, last=last, is_half=is_half):
        _rooms.pop(model, None)
        whole = capacity + -capacity % READ
        room = _rooms[model] = Room(model, slots=slots, capacity=whole, last=last, is_half=is_half)
    return room
