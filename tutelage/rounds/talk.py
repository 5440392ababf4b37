"""Talking to a policy: which weights a name stands for, samples of prompts, and a conversation with its history."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tutelage.engine.engine import EngineConfig, Precision
from tutelage.engine.prefix_cache import PrefixCache
from tutelage.engine.request import SamplingConfig
from tutelage.errors import ConfigError
from tutelage.log import Progress
from tutelage.model.causal import CausalModel
from tutelage.model.chat import Chat
from tutelage.model.checkpoint import LINEAGE, read_lineage
from tutelage.model.device import has_fast_bf16
from tutelage.model.load import load_causal, locate
from tutelage.publish import is_published
from tutelage.rounds.files import user_turn
from tutelage.rounds.machines import complete, fitting
from tutelage.rounds.prepare import version_id
from tutelage.rounds.run import CONFIG
from tutelage.seed import derive
from tutelage.types import Completion, Message, Prompt

CHUNK = 64  # prompts answered between two redrawings of the live line
ALGORITHMS = ("ppo", "rloo")


@dataclass(frozen=True, slots=True)
class Speaker:
    """A policy that has been opened. Example: `Speaker("sft", "runs/quickstart/sft", "sft-0c9a…", model, chat)`."""

    name: str
    source: str
    version: str  # of its weights, where lineage names them
    model: CausalModel
    chat: Chat
    precision: Precision = "fp32"  # of its passes


def is_run(folder: Path) -> bool:
    return (folder / CONFIG).is_file()


def stages(folder: Path) -> dict[str, Path]:
    """The published policies of a run directory, oldest first: `{"base": …, "sft": …, "round-1": …/round-1/ppo}`."""
    found = {name: folder / name for name in ("base", "sft") if is_published(folder / name)}
    i_round = 1
    while (part := folder / f"round-{i_round}").is_dir():
        for policy in (part / algorithm for algorithm in ALGORITHMS):
            if is_published(policy):
                found[part.name] = policy
        i_round += 1
    return found


def resolve(where: str, stage: str = "") -> tuple[str, str]:
    """(name, model source) of a run directory's stage, or of a model as it is given.

    stage  of a run directory; empty takes the best of its summary, or the newest policy where there is no summary
    """
    folder = Path(where)
    if not is_run(folder):
        if stage:
            raise ConfigError(f"{where} is not a run directory, so it has no stage {stage!r}. Leave the stage out.")
        return where, where
    known = stages(folder)
    if not known:
        raise ConfigError(f"{folder}: no policy is published yet. `tutelage status {folder}` shows how far it is.")
    name = stage.lower().replace(" ", "-") or _best(folder, known)
    if name not in known:
        raise ConfigError(f"{folder} has no stage {stage!r}. There are {', '.join(known)}.")
    return name, str(known[name])


def _best(folder: Path, known: Mapping[str, Path]) -> str:
    path = folder / "summary.json"
    if path.is_file():
        best = folder / json.loads(path.read_text(encoding="utf-8"))["best_folder"]
        return next(name for name, found in known.items() if found == best)
    return list(known)[-1]


def open_speaker(where: str, stage: str = "") -> Speaker:
    """Opens the policy that `resolve` finds, to answer on the device and in the precision that are fastest here."""
    name, source = resolve(where, stage)
    model, chat = load_causal(source)
    return Speaker(name, source, _version(source), model, chat, "bf16" if has_fast_bf16(model.device) else "fp32")


def _version(source: str) -> str:
    """The name of the weights where their lineage gives one, else the source itself."""
    folder = Path(locate(source))
    is_named = (folder / LINEAGE).is_file() and {"stage", "weights"} <= read_lineage(folder).keys()
    return version_id(folder) if is_named else source


def answer_all(
    speaker: Speaker, prompts: Sequence[Prompt], *, n: int, sampling: SamplingConfig, seed: int
) -> list[Completion]:
    """`n` answers to each prompt, side by side, with a live line. The same seed gives the same answers."""
    progress, written = Progress(f"{speaker.name} answers", len(prompts)), list[Completion]()
    prefixes = PrefixCache()
    for start in range(0, len(prompts), CHUNK):
        part = prompts[start : start + CHUNK]
        new = _complete(speaker, part, n, sampling, seed, prefixes)
        written += new
        progress.advance(len(part), tokens=sum(len(c.token_ids or ()) for c in new))
    return written


def _complete(
    speaker: Speaker,
    prompts: Sequence[Prompt],
    n: int,
    sampling: SamplingConfig,
    seed: int,
    prefixes: PrefixCache,
) -> list[Completion]:
    return complete(
        speaker.model,
        speaker.chat,
        prompts,
        n=n,
        sampling=sampling,
        engine=EngineConfig(slots=min(CHUNK, n * len(prompts))),
        model_version=speaker.version,
        seed=seed,
        precision=speaker.precision,
        prefixes=prefixes,
    )


def sample(
    where: str, prompts: Sequence[Prompt], *, n: int, sampling: SamplingConfig, seed: int, refused: Mapping[str, int]
) -> dict[str, Any]:
    """Answers of a model to prompts, as rows that `tutelage score` reads, and how they ended.

    refused  rows of the prompts' file that could not be read, by reason: reported as they are
    """
    if n < 1:
        raise ConfigError(f"-n {n}, but a prompt needs at least one answer. Set it to 1 or more.")
    speaker = open_speaker(where)
    kept, n_long = fitting(prompts, speaker.chat, sampling.max_new_tokens)
    written = answer_all(speaker, kept, n=n, sampling=sampling, seed=seed)
    return {
        "model": speaker.source,
        "version": speaker.version,
        "prompts": len(kept),
        "too_long": n_long,
        "refused": dict(refused),
        "n": len(written),
        "mean_tokens": sum(len(c.token_ids or ()) for c in written) / len(written),
        "unfinished": sum(c.finish_reason == "length" for c in written) / len(written),
        "samples": [_row(kept[i // n], c) for i, c in enumerate(written)],
    }


def _row(prompt: Prompt, c: Completion) -> dict[str, Any]:
    return {
        "prompt": [m.model_dump() for m in prompt.messages],
        "completion": c.text,
        "finish_reason": c.finish_reason,
        "tokens": len(c.token_ids or ()),
        "logp": sum(c.logp or ()),  # nats, of the whole answer under the distribution that it was drawn from
        "seed": c.seed,
    }


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer in a conversation."""

    text: str
    is_finished: bool  # False where it was cut at the limit
    n_forgotten: int  # oldest messages that the model no longer sees, since they do not fit its window


class Conversation:
    """A policy and what was said so far. The same seed and the same words give the same answers."""

    def __init__(self, speaker: Speaker, sampling: SamplingConfig, *, seed: int) -> None:
        self.speaker, self._sampling, self._seed = speaker, sampling, seed
        self._prefixes = PrefixCache()
        self.messages: list[Message] = []

    def reset(self) -> None:
        self.messages = []

    def answer(self, text: str) -> Reply:
        """Answers and remembers both turns. Raises DataError when the words alone do not fit; nothing is kept then."""
        seen = [*self.messages, user_turn(text)]
        room = self.speaker.chat.window - self._sampling.max_new_tokens
        while len(seen) > 1 and len(self.speaker.chat.prompt_ids(seen)) > room:
            seen = seen[2:]  # a question goes with its answer
        seed = derive(self._seed, "turn", len(self.messages))
        [c] = _complete(self.speaker, [Prompt(messages=tuple(seen))], 1, self._sampling, seed, self._prefixes)
        n_forgotten = len(self.messages) + 1 - len(seen)
        self.messages += [seen[-1], Message(role="assistant", content=c.text)]
        return Reply(c.text, c.finish_reason == "stop", n_forgotten)


def converse(where: str, stage: str, against: str, sampling: SamplingConfig, *, seed: int) -> dict[str, Conversation]:
    """One conversation, or two that are led side by side, by the name of who speaks.

    against  another stage of the same run directory, or another model where there is no run directory
    """
    speakers = [open_speaker(where, stage)]
    if against:
        speakers.append(open_speaker(where, against) if is_run(Path(where)) else open_speaker(against))
    if len({s.name for s in speakers}) < len(speakers):
        raise ConfigError(f"--against {against!r} is what would speak anyway. Name another stage or model.")
    return {s.name: Conversation(s, sampling, seed=seed) for s in speakers}
