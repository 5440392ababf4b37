"""A model that answers: messages to tokens, tokens to answers, one batch at a time. Knows no HTTP and no store."""

import secrets
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tutelage.engine.engine import Engine, EngineConfig, Precision
from tutelage.engine.prefix_cache import PrefixCache
from tutelage.engine.request import Request, Sample, SamplingConfig
from tutelage.engine.scheduler import Running
from tutelage.errors import DataError
from tutelage.model.causal import CausalModel
from tutelage.model.chat import Chat
from tutelage.seed import derive
from tutelage.types import Completion, Message, Prompt

LETTERS = 64  # characters of a prompt for each token of the window: more can never fit


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that was understood: what is to be drawn from what."""

    prompt: Prompt
    prompt_ids: tuple[int, ...]
    seeds: tuple[int, ...]  # one an answer
    sampling: SamplingConfig


class Voice:
    """An opened model with its name and the name of its weights.

    version    of the weights, where lineage names them; else where they came from
    lineage    what was written down with the weights; None for a model that tutelage did not make
    precision  of its passes
    """

    def __init__(
        self,
        name: str,
        version: str,
        model: CausalModel,
        chat: Chat,
        *,
        lineage: Mapping[str, Any] | None = None,
        precision: Precision = "fp32",
    ) -> None:
        self.name, self.version, self.chat, self.lineage = name, version, chat, lineage
        self._model, self._precision, self._lock = model, precision, threading.Lock()
        self._prefixes = PrefixCache()  # so that a conversation is not computed anew with each turn

    def understand(
        self,
        messages: Sequence[Message],
        *,
        n: int,
        most: int,
        temperature: float,
        top_p: float,
        seed: int | None,
    ) -> Asked:
        """Raises DataError for a conversation that leaves no room for an answer.

        most  tokens of an answer; where the window has less room, the answer ends there and says so
        """
        prompt = Prompt(messages=tuple(messages), source="served")
        letters = sum(len(m.content) for m in messages)
        if letters > LETTERS * self.chat.window:
            raise DataError(f"the conversation has {letters} characters, which never fit the model's window.")
        ids = tuple(self.chat.prompt_ids(prompt))
        room = self.chat.window - len(ids)
        if room < 1:
            raise DataError(
                f"the conversation has {len(ids)} tokens, and the model's window is {self.chat.window}: no room is "
                f"left for an answer. Shorten it."
            )
        root = secrets.randbelow(2**31) if seed is None else seed
        sampling = SamplingConfig(max_new_tokens=min(most, room), temperature=temperature, top_p=top_p)
        return Asked(prompt, ids, tuple(derive(root, "served", prompt.id, k) for k in range(n)), sampling)

    def speak(self, asked: Asked, step: Callable[[Sequence[Running]], None] | None = None) -> list[Completion]:
        """The answers, in order. One request at a time has the model; the others wait."""
        engine = Engine(
            self._model,
            end_id=self.chat.end_id,
            window=self.chat.window,
            config=EngineConfig(slots=len(asked.seeds)),
            precision=self._precision,
            prefixes=self._prefixes,
        )
        with self._lock:
            drawn = engine.generate([Request(asked.prompt_ids, asked.seeds)], asked.sampling, step=step)
        return [self._completion(asked, s) for s in drawn]

    def _completion(self, asked: Asked, s: Sample) -> Completion:
        return Completion(
            prompt_id=asked.prompt.id,
            text=self.chat.text(s.token_ids),
            model_version=self.version,
            token_ids=s.token_ids,
            logp=s.logp,
            finish_reason=s.finish_reason,
            temperature=asked.sampling.temperature,
            seed=asked.seeds[s.i_sample],
            sample=s.i_sample,
        )


class Spelling:
    """The words of answers as they grow. A character that is not whole yet, and a space that may be the last, wait."""

    def __init__(self, chat: Chat, n: int) -> None:
        self._chat, self._said = chat, [""] * n

    def grown(self, i: int, token_ids: Sequence[int]) -> str:
        return self.rest(i, self._chat.text(token_ids)) if not self._is_torn(token_ids) else ""

    def _is_torn(self, token_ids: Sequence[int]) -> bool:
        return self._chat.text(token_ids).endswith("�")

    def rest(self, i: int, text: str) -> str:
        """What is new in the text of an answer."""
        if not text.startswith(self._said[i]):
            return ""
        new = text[len(self._said[i]) :]
        self._said[i] = text
        return new
