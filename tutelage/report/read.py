"""A run directory as the page needs it: what is published, and of a stage under way what lies in `work/`."""

import json
import re
import tomllib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tutelage.errors import ConfigError
from tutelage.log import read_metrics
from tutelage.publish import is_published
from tutelage.store.db import Store, open_store
from tutelage.store.feedback import count
from tutelage.store.lineage import Step, model_versions, trace
from tutelage.store.people import labeler_kinds
from tutelage.store.prompts import get_prompts, has_prompts
from tutelage.types import Message, Prompt

Facts = dict[str, Any]  # a JSON object as its writer left it
HARMFUL = "harmless"  # in a source's name: its prompts ask for harm, to see whether the model declines
MOST_LABELERS = 30


@dataclass(frozen=True, slots=True)
class Stage:
    """Example: `Stage("round-1/ppo", "done", "PPO from sft-91…", 412.0)`."""

    name: str
    state: str
    what: str
    seconds: float | None  # None until it is done


@dataclass(frozen=True, slots=True)
class Training:
    """A stage that learns: its metrics so far, and what it says of its result once that is published."""

    rows: tuple[Facts, ...]
    facts: Facts | None


@dataclass(frozen=True, slots=True)
class RewardFacts:
    """A reward model: `name` is its folder (reward-0, reward-held-out, curve-0.5)."""

    name: str
    training: Training
    card: Facts | None


@dataclass(frozen=True, slots=True)
class Round:
    """What a round has left so far; None where it has not come to that."""

    i: int
    labels: Facts | None
    snapshot: Facts | None  # its card
    rewards: tuple[RewardFacts, ...]
    curve: tuple[Facts, ...]
    algorithm: str
    rl: Training | None
    profile: Facts | None  # where the time of its updates went, when the recipe asked
    along: tuple[Facts, ...]  # samples along the way
    alarms: tuple[Facts, ...]
    figures: Facts | None
    samples: tuple[Facts, ...]


@dataclass(frozen=True, slots=True)
class LabelerShare:
    """How much one labeler judged. Example: `LabelerShare("sim-3", "simulated", 212, 0, 212)`."""

    name: str
    kind: str
    rankings: int
    demonstrations: int
    judgements: int


@dataclass(frozen=True, slots=True)
class RunFacts:
    """Everything that the page is made of."""

    name: str
    config: Facts
    config_text: str
    stages: tuple[Stage, ...]
    sft: Training | None
    rounds: tuple[Round, ...]
    summary: Facts | None  # there once the run is finished
    labelers: tuple[LabelerShare, ...]
    n_labelers: dict[str, int]  # by kind
    n_rankings: dict[str, int]  # by kind of labeler
    versions: tuple[Step, ...]
    sensitive: frozenset[str]  # ids of shown prompts whose source is HARMFUL

    @property
    def is_simulated(self) -> bool:
        return bool(self.config["collect"]["labels"] == "simulated")

    @property
    def measured(self) -> list[Round]:
        """Rounds with an evaluation."""
        return [r for r in self.rounds if r.figures is not None]


def read_run(folder: Path) -> RunFacts:
    """Raises ConfigError when the folder is no run directory."""
    path = folder / "config.toml"
    if not path.is_file():
        raise ConfigError(
            f"{folder} holds no config.toml, so it is not a run directory. "
            f"Start one with `tutelage run RECIPE --out {folder}`."
        )
    text = path.read_text(encoding="utf-8")
    settings = tomllib.loads(text)
    rounds = tuple(r for r in _rounds(folder, settings) if _has_begun(r))
    shown = [p for r in rounds for p in _prompts(r)]
    stored = _stored(folder, shown, settings)
    state = _json(folder / "state.json")
    return RunFacts(
        name=folder.resolve().name,
        config=settings,
        config_text=text,
        stages=tuple(sorted((_stage(*item) for item in state["stages"].items()), key=_place)) if state else (),
        sft=_training(folder, "sft"),
        rounds=rounds,
        summary=_json(folder / "summary.json"),
        labelers=stored.labelers[:MOST_LABELERS],
        n_labelers=_by_kind(stored.labelers, lambda one: 1),
        n_rankings=_by_kind(stored.labelers, lambda one: one.rankings),
        versions=stored.versions,
        sensitive=stored.sensitive,
    )


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def _card(snapshot: Path) -> Facts | None:
    found: Facts | None = _json(snapshot / "card.json") if is_published(snapshot) else None
    return found


def _stage(name: str, entry: Facts) -> Stage:
    return Stage(name, entry["state"], entry["what"], entry["seconds"] if "seconds" in entry else None)


# A stage of another name, which is the algorithm's, comes before the evaluation.
FLOW = (
    *("material", "base", "sft", "preference-pretraining", "samples", "labels", "reward", "curve", "learning"),
    *("evaluation", "answers"),
)


def _place(stage: Stage) -> tuple[int, int, str]:
    """The order in which a run goes: state.json lists its stages by name."""
    top, _, rest = stage.name.partition("/")
    i_round = int(top.removeprefix("round-")) if top.startswith("round-") else 10**6 if top == "answers" else 0
    known = [
        k for k, name in enumerate(FLOW) if (rest if i_round and rest and top != "answers" else top).startswith(name)
    ]
    return i_round, known[0] if known else FLOW.index("evaluation") - 1, stage.name


def _rows(folder: Path, name: str, file: str) -> tuple[Facts, ...]:
    """A JSON Lines file of a stage: from its published folder, or as far as it has come."""
    for path in (folder / name / file, folder / "work" / name / file):
        if path.is_file():
            return tuple(read_metrics(path))
    return ()


def _training(folder: Path, name: str) -> Training | None:
    rows, facts = _rows(folder, name, "metrics.jsonl"), _json(folder / name / "lineage.json")
    return Training(rows, facts) if rows or facts else None


def _rounds(folder: Path, settings: Facts) -> Iterator[Round]:
    algorithm = settings["run"]["algorithm"]
    for i in range(1, settings["run"]["rounds"] + 1):
        name = f"round-{i}"
        evaluation = folder / name / "evaluation"
        rl = _training(folder, f"{name}/{algorithm}")
        yield Round(
            i=i,
            labels=_json(folder / name / "labels" / "labels.json"),
            snapshot=_card(folder / "snapshots" / f"{i:04d}"),
            rewards=tuple(_rewards(folder, name)),
            curve=tuple(_json(folder / name / "learning-curve" / "curve.json") or ()),
            algorithm=algorithm,
            rl=rl,
            profile=_json(folder / name / algorithm / "profile.json"),
            along=_rows(folder, f"{name}/{algorithm}", "samples.jsonl"),
            alarms=_alarms(folder, f"{name}/{algorithm}", rl),
            figures=_json(evaluation / "figures.json"),
            samples=tuple(_json(evaluation / "samples.json") or ()),
        )


def _has_begun(r: Round) -> bool:
    return any((r.labels, r.snapshot, r.rewards, r.rl, r.figures))


def _rewards(folder: Path, name: str) -> Iterator[RewardFacts]:
    """The optimised members first, then the held-out model."""
    there = {p.name for top in (folder, folder / "work") for p in (top / name).glob("reward-*") if p.suffix == ""}
    for one in sorted(there, key=lambda n: (n == "reward-held-out", n)):
        training = _training(folder, f"{name}/{one}")
        if training:
            facts = _json(folder / name / one / "reward.json")
            yield RewardFacts(one, training, facts["card"] if facts else None)


def _alarms(folder: Path, name: str, rl: Training | None) -> tuple[Facts, ...]:
    """Of a finished stage those that it published; of one under way those in its newest state."""
    if rl is None or rl.facts is not None:
        return tuple(rl.facts["alarms"]) if rl and rl.facts else ()
    states = sorted((folder / "work" / name / "state").glob("step-*/facts.json"))
    return tuple(_json(states[-1])["alarms"]) if states else ()


def prompt_of(messages: Iterable[Facts]) -> Prompt:
    return Prompt(messages=tuple(Message.model_validate(m) for m in messages))


def prompt_from_text(text: str) -> Prompt | None:
    """The prompt that `Prompt.text` made these lines of; None where they cannot be told apart."""
    parts = re.split(r"^(system|user|assistant): ", text, flags=re.MULTILINE)
    turns = [
        {"role": role, "content": said.removesuffix("\n")} for role, said in zip(parts[1::2], parts[2::2], strict=True)
    ]
    return prompt_of(turns) if turns and turns[-1]["role"] == "user" else None


def _prompts(r: Round) -> Iterator[str]:
    """Ids of the prompts that the page shows."""
    yield from (prompt_of(s["prompt"]).id for s in r.samples)
    yield from (p.id for p in map(prompt_from_text, {s["prompt"] for s in r.along}) if p)


@dataclass(frozen=True, slots=True)
class _Stored:
    labelers: tuple[LabelerShare, ...]  # most judgements first
    versions: tuple[Step, ...]
    sensitive: frozenset[str]


def _stored(folder: Path, shown: list[str], settings: Facts) -> _Stored:
    """What the page needs of store.db, which is not made where it is missing."""
    if not (folder / "store.db").is_file():
        return _Stored((), (), frozenset())
    with open_store(folder / "store.db") as store:
        shares = sorted(
            (_share(store, n, k) for n, k in labeler_kinds(store).items()), key=lambda s: (-s.judgements, s.name)
        )
        harmful = {p.id for p in get_prompts(store, has_prompts(store, shown)) if _is_harmful(p.source, settings)}
        return _Stored(tuple(shares), tuple(_versions(store)), frozenset(harmful))


def _by_kind(labelers: Iterable[LabelerShare], n: Callable[[LabelerShare], int]) -> dict[str, int]:
    """Sums of `n` over the labelers of each kind that have any."""
    found: Counter[str] = Counter()
    for one in labelers:
        found[one.kind] += n(one)
    return dict(+found)


def _is_harmful(source: str, settings: Facts) -> bool:
    """By the source's name, or by that of a file that was read under it: `harmless-base/train.jsonl.gz` is `train`."""
    data = settings["data"]
    paths = [p for kind in ("demonstrations", "prompts", "comparisons") for p in data[kind]]
    named = {Path(p).name.split(".")[0] for p in paths if HARMFUL in p.lower()}
    return HARMFUL in source.lower() or source in named


def _share(store: Store, name: str, kind: str) -> LabelerShare:
    counts = [count(store, kind=k, labelers=[name]) for k in ("ranking", "demonstration", None)]
    return LabelerShare(name, kind, *counts)


def _versions(store: Store) -> Iterator[Step]:
    """Every version once, in the order in which they came, with the labelers behind it."""
    known: dict[str, Step] = {}
    versions = model_versions(store)
    for version in reversed(versions):
        if version.id not in known:
            known |= {step.version.id: step for step in trace(store, version.id).steps}
    yield from (known[v.id] for v in versions)
