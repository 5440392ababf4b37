"""The machines that a run hands to its loops: the engine as a sampler, and the reference.

B rollouts, T tokens.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from tutelage.data.batch import Rollouts, TokenBatch, collate
from tutelage.engine.engine import Engine, EngineConfig, Precision
from tutelage.engine.prefix_cache import PrefixCache
from tutelage.engine.request import Request, Sample, SamplingConfig
from tutelage.errors import ConfigError, DataError
from tutelage.model.causal import CausalModel
from tutelage.model.chat import Chat
from tutelage.model.lora import Adapter
from tutelage.seed import derive
from tutelage.stopwatch import OFF, Watch
from tutelage.train.learner import ComputeConfig, infer
from tutelage.types import Completion, Prompt


class EngineSampler:
    """The rollout engine as `train` sees it. It shares the policy's module, so new weights need no copy."""

    def __init__(
        self,
        model: CausalModel,
        chat: Chat,
        sampling: SamplingConfig,
        engine: EngineConfig,
        *,
        seed: int,
        precision: Precision = "fp32",
        watch: Watch = OFF,
    ) -> None:
        if not sampling.is_policy_itself:
            raise ConfigError(
                f"sampling.top_p = {sampling.top_p}, top_k = {sampling.top_k}, temperature = {sampling.temperature}: "
                f"RL learns from the policy's own distribution. Set top_p = 1, top_k = 0 and a temperature above 0."
            )
        self._engine = Engine(
            model, end_id=chat.end_id, window=chat.window, config=engine, precision=precision, watch=watch
        )
        self._watch = watch
        self._chat, self._sampling, self._seed = chat, sampling, seed

    def load(self, version: int) -> None:
        self._engine.version = version

    def sample(self, prompts: Sequence[Prompt], *, n: int, step: int) -> Rollouts:
        with self._watch.phase("sampling"):
            return self._sample(prompts, n, step)

    def _sample(self, prompts: Sequence[Prompt], n: int, step: int) -> Rollouts:
        ids = [self._chat.check_length(p, self._sampling.max_new_tokens) for p in prompts]
        requests = [
            Request(tuple(tokens), tuple(derive(self._seed, "rollout", step, p.id, i, k) for k in range(n)))
            for i, (tokens, p) in enumerate(zip(ids, prompts, strict=True))
        ]
        return rollouts(prompts, requests, self._engine.generate(requests, self._sampling), self._chat)


def rollouts(prompts: Sequence[Prompt], requests: Sequence[Request], samples: Sequence[Sample], chat: Chat) -> Rollouts:
    """Samples as one batch: token ids as they were drawn, log-probabilities beside them."""
    rows, group = [], len(requests[0].seeds)
    for s in samples:
        prompt_ids = requests[s.i_request].prompt_ids
        rows.append(([*prompt_ids, *s.token_ids], [False] * len(prompt_ids) + [True] * len(s.token_ids)))
    batch = collate(rows)
    logp_BT = torch.zeros(batch.token_BT.shape).masked_scatter(
        batch.mask_BT, torch.tensor([x for s in samples for x in s.logp])
    )
    return Rollouts(
        batch,
        logp_BT,
        torch.tensor([s.finish_reason == "stop" for s in samples]),
        tuple(prompts[s.i_request] for s in samples),
        tuple(chat.text(s.token_ids) for s in samples),
        group,
        samples[0].version,
    )


class FrozenReference:
    """A model of its own that is never stepped."""

    def __init__(self, model: CausalModel, *, temperature: float, compute: ComputeConfig, watch: Watch = OFF) -> None:
        self._model, self._temperature, self._compute = model.requires_grad_(False), temperature, compute
        self._watch = watch

    @torch.no_grad()
    def logp(self, batch: TokenBatch, parts: Sequence[Tensor] | None = None) -> Tensor:
        with self._watch.phase("reference"):
            return infer_logp(self._model, batch, temperature=self._temperature, compute=self._compute, parts=parts)


class AdapterReference:
    """The policy with its adapter switched off: no second copy of the weights."""

    def __init__(
        self, model: CausalModel, adapter: Adapter, *, temperature: float, compute: ComputeConfig, watch: Watch = OFF
    ) -> None:
        self._model, self._adapter, self._temperature, self._compute = model, adapter, temperature, compute
        self._watch = watch

    @torch.no_grad()
    def logp(self, batch: TokenBatch, parts: Sequence[Tensor] | None = None) -> Tensor:
        with self._watch.phase("reference"), self._adapter.off():
            return infer_logp(self._model, batch, temperature=self._temperature, compute=self._compute, parts=parts)


@torch.no_grad()
def infer_logp(
    model: CausalModel,
    batch: TokenBatch,
    *,
    temperature: float,
    compute: ComputeConfig,
    parts: Sequence[Tensor] | None = None,
) -> Tensor:
    """Log-probabilities [B, T] of the masked tokens, cut into the same microbatches as the learner's."""

    def forward(part: TokenBatch) -> Tensor:
        return model.logp(part.token_BT, part.length_B, part.mask_BT, temperature=temperature, with_entropy=False)[0]

    return infer(forward, batch, model.device, compute, parts)


def complete(
    model: CausalModel,
    chat: Chat,
    prompts: Sequence[Prompt],
    *,
    n: int,
    sampling: SamplingConfig,
    engine: EngineConfig,
    model_version: str,
    seed: int,
    precision: Precision = "fp32",
    prefixes: PrefixCache | None = None,
    progress: Callable[[int], None] | None = None,
) -> list[Completion]:
    """`n` completions of each prompt as facts: text, token ids, log-probabilities and the version that wrote them.

    prefixes  what earlier calls have kept, for this one and the next
    """
    seeds = [tuple(derive(seed, p.id, k) for k in range(n)) for p in prompts]
    requests = [
        Request(tuple(chat.check_length(p, sampling.max_new_tokens)), s) for p, s in zip(prompts, seeds, strict=True)
    ]
    machine = Engine(
        model, end_id=chat.end_id, window=chat.window, config=engine, precision=precision, prefixes=prefixes
    )
    return [
        Completion(
            prompt_id=prompts[s.i_request].id,
            text=chat.text(s.token_ids),
            model_version=model_version,
            token_ids=s.token_ids,
            logp=s.logp,
            finish_reason=s.finish_reason,
            temperature=sampling.temperature,
            seed=seeds[s.i_request][s.i_sample],
            sample=s.i_sample,
        )
        for s in machine.generate(requests, sampling, progress=progress)
    ]


def fitting(prompts: Sequence[Prompt], chat: Chat, new_tokens: int, *, longest: int = 0) -> tuple[list[Prompt], int]:
    """Prompts that leave room for an answer, and how many do not. Raises DataError when none does.

    longest  prompts of more tokens are left out, too; 0 = no such limit
    """
    room = min(chat.window - new_tokens, longest or chat.window)
    kept = [p for p in prompts if len(chat.prompt_ids(p)) <= room]
    if not kept:
        raise DataError(
            f"none of the {len(prompts)} prompts fits into {room} tokens (window {chat.window}, {new_tokens} of it for "
            f"the answer). Use shorter prompts, a smaller sampling.max_new_tokens, or a model with a longer window."
        )
    return kept, len(prompts) - len(kept)
