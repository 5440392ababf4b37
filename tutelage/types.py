"""The nouns at rest: what lies on disk or crosses a process. Frozen, JSON in and JSON out, no torch.

Ids are derived from content (`digest`), so that the same material stored twice is one row and a run repeated with the
same seeds names its completions alike.
"""

import hashlib
import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Role = Literal["system", "user", "assistant"]
Stage = Literal["base", "pretrain", "sft", "reward", "ppo", "rloo", "external"]
LabelerKind = Literal["human", "model", "simulated", "import"]
FinishReason = Literal["stop", "length"]
Origin = Literal["model", "human", "edited", "import"]
Split = Literal["train", "valid", "test"]


def digest(*parts: Any) -> str:
    """The first 20 hex digits of the SHA-256 of the parts as JSON: a stable id."""
    text = json.dumps(parts, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:20]


class Fact(BaseModel):
    """A frozen record that refuses unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Message(Fact):
    """One turn of a chat. Example: `{"role": "user", "content": "Is the pool open today?"}`."""

    role: Role
    content: str


class Prompt(Fact):
    """What a completion answers: a chat that ends with the user's turn.

    Example: `{"messages": [{"role": "user", "content": "Hi, can I move my booking?"}], "source": "demo"}`.
    """

    messages: tuple[Message, ...] = Field(min_length=1)
    source: str = "import"

    @model_validator(mode="after")
    def _ends_with_the_user(self) -> "Prompt":
        if self.messages[-1].role != "user":
            raise ValueError(f"a prompt ends with the user's turn, but this one ends with {self.messages[-1].role!r}")
        return self

    @property
    def id(self) -> str:
        return digest("prompt", [m.model_dump() for m in self.messages])

    @property
    def text(self) -> str:
        """The conversation as plain lines, for reading and for hashing the split."""
        return "\n".join(f"{m.role}: {m.content}" for m in self.messages)


class Completion(Fact):
    """One answer to a prompt.

    `token_ids` are what the sampler wrote: nothing is ever re-tokenised on the way to training.
    Example: `{"prompt_id": "3f…", "text": "Of course. Which day suits you?", "model_version": "sft-91…", …}`.
    """

    prompt_id: str
    text: str
    origin: Origin = "model"
    model_version: str | None = None  # which weights wrote it; None for people and imports
    token_ids: tuple[int, ...] | None = None  # the completion's tokens, the end token included when it was written
    logp: tuple[float, ...] | None = None  # nats, of each token, under the weights that wrote it
    finish_reason: FinishReason | None = None
    temperature: float | None = None
    seed: int | None = None
    sample: int = 0  # which of the K samples of the prompt
    parent: str | None = None  # the completion that this one corrects

    @property
    def id(self) -> str:
        return digest("completion", self.prompt_id, self.text, self.model_version, self.seed, self.sample, self.parent)


class RankedItem(Fact):
    """One completion and its tier: 1 is best, equal tiers are ties."""

    completion_id: str
    tier: int = Field(ge=1)


def _check_tiers(items: tuple[RankedItem, ...]) -> None:
    """Raises ValueError unless each completion stands once and the tiers run 1..m without gaps."""
    ids = [i.completion_id for i in items]
    if len(set(ids)) != len(ids):
        raise ValueError("a completion stands twice in this ranking; rank each once")
    tiers = sorted({i.tier for i in items})
    if tiers != list(range(1, len(tiers) + 1)):
        raise ValueError(f"tiers {tiers} have a gap; number them 1..{len(tiers)} (equal tiers are ties)")


class Ranking(Fact):
    """An order with ties over 2 to 9 completions of one prompt. Tiers run 1..m without gaps.

    Example: `{"kind": "ranking", "items": [{"completion_id": "a…", "tier": 1}, {"completion_id": "b…", "tier": 1}]}`.
    """

    kind: Literal["ranking"] = "ranking"
    items: tuple[RankedItem, ...] = Field(min_length=2, max_length=9)
    none_acceptable: bool = False
    strength: int | None = Field(default=None, ge=0, le=3)  # of a comparison of two: how much better
    margin: float | None = None  # the same as imported data state it, in their own unit
    aspect: str = Field(default="overall", min_length=1)  # what was compared

    @model_validator(mode="after")
    def _tiers_are_whole(self) -> "Ranking":
        _check_tiers(self.items)
        return self


class Adjudication(Fact):
    """A reviewer's decision between rankings of the same completions that contradict each other. They all stay.

    Example: `{"kind": "adjudication", "items": […], "decided": ["event:a…", "event:b…"], "rationale": "B is false."}`.
    """

    kind: Literal["adjudication"] = "adjudication"
    items: tuple[RankedItem, ...] = Field(min_length=2, max_length=9)
    decided: tuple[str, ...] = Field(min_length=2)  # ids of the judgements that it decides between
    rationale: str = Field(min_length=1)

    @model_validator(mode="after")
    def _tiers_are_whole(self) -> "Adjudication":
        _check_tiers(self.items)
        return self


class Rating(Fact):
    """A grade of one completion on a named aspect. Example: `{"aspect": "helpful", "value": 6}` (1 to 7)."""

    kind: Literal["rating"] = "rating"
    completion_id: str
    aspect: str = Field(min_length=1)
    value: float


class DemonstrationGiven(Fact):
    """A person's own ideal answer to a prompt, stored as a completion of origin `human`."""

    kind: Literal["demonstration"] = "demonstration"
    completion_id: str


class DemonstrationProposed(Fact):
    """A person's own ideal answer that waits for a reviewer: it trains nothing itself.

    Accepted, it is followed by the reviewer's demonstration, whose key names this event: `store/candidates.py`.
    """

    kind: Literal["proposal"] = "proposal"
    completion_id: str


class CorrectionGiven(Fact):
    """An edited completion: the new one is better than the old one (a pair), and is a demonstration."""

    kind: Literal["correction"] = "correction"
    completion_id: str
    corrected_id: str


class Critique(Fact):
    """What is wrong or right, in words, about the whole completion or a span of its characters."""

    kind: Literal["critique"] = "critique"
    completion_id: str
    text: str = Field(min_length=1)
    span: tuple[int, int] | None = None


class Thumb(Fact):
    """Up (+1) or down (-1), with reasons."""

    kind: Literal["thumb"] = "thumb"
    completion_id: str
    value: Literal[-1, 1]
    reasons: tuple[str, ...] = ()


class Flag(Fact):
    """Something wrong with a prompt or a completion. Example: `{"category": "private data", "completion_id": "a…"}`."""

    kind: Literal["flag"] = "flag"
    category: str = Field(min_length=1)
    completion_id: str | None = None
    note: str = ""


class Skip(Fact):
    """The task was shown and not answered, and why."""

    kind: Literal["skip"] = "skip"
    reason: str = Field(min_length=1)


Judgement = Annotated[
    Ranking
    | Adjudication
    | Rating
    | DemonstrationGiven
    | DemonstrationProposed
    | CorrectionGiven
    | Critique
    | Thumb
    | Flag
    | Skip,
    Field(discriminator="kind"),
]


class Feedback(Fact):
    """One judgement by one labeler: who, about what, when, how long, and what was shown in which order.

    `idempotency_key` is made by the client: the same key and body sent twice are one event; another body is refused.
    """

    labeler: str  # the pseudonym
    prompt_id: str
    judgement: Judgement
    idempotency_key: str = Field(min_length=1)
    source: str = ""  # the collection that it belongs to; empty: the prompt's
    shown: tuple[str, ...] = ()  # completion ids in the order in which they were presented
    active_ms: int = Field(default=0, ge=0)
    client_at: str | None = None  # ISO 8601, the labeler's clock
    guideline: str | None = None  # id of the guideline version that was in force
    supersedes: int | None = None  # seq of the event that this one replaces


class StoredFeedback(Fact):
    """Feedback as the store holds it: numbered, stamped and chained."""

    seq: int  # 1, 2, 3, … in the order of commits
    at: str  # ISO 8601 UTC, the server's clock
    hash: str  # of this event and of the one before it
    feedback: Feedback


class Labeler(Fact):
    """A pseudonym. The account behind it, if any, is kept apart and is never exported."""

    pseudonym: str = Field(min_length=1)
    kind: LabelerKind


class ModelVersion(Fact):
    """Weights with a name, and where they came from: the chain from people's judgement to a model."""

    id: str
    stage: Stage
    weights_sha: str
    parent: str | None = None
    snapshot: str | None = None  # hash of the feedback snapshot that it was trained on
    reward_model: str | None = None  # weights hash of the reward model that it was trained against
    path: str = ""


class RankedGroup(Fact):
    """One ranking made whole for training: the prompt, its completions and their tiers, and whose judgement it was.

    Example: `{"prompt": {…}, "texts": ["Sure.", "No."], "tiers": [1, 2], "labeler": "sim-01", "source": "round-1", …}`.
    """

    prompt: Prompt
    texts: tuple[str, ...]
    tiers: tuple[int, ...]
    labeler: str = ""
    source: str = ""
    margin: float | None = None  # how much better the winner is, where the data say so (pairs only)
    event: str = ""  # id of the judgement, for lineage
    aspect: str = "overall"  # what was compared: one head of a reward model
    none_acceptable: bool = False
    models: tuple[str | None, ...] = ()  # which model version wrote each text; empty: not known
    positions: tuple[int, ...] = ()  # the place, from 1, at which each text was presented; empty: not known
    seconds: float | None = None  # of work on the answer
    guideline: str = ""  # id of the guideline version that was in force
    policy: str = ""  # how the task was chosen; empty: not known
    selection_probability: float | None = None  # with which it was chosen among tasks of its kind
    decides: tuple[str, ...] = ()  # ids of the judgements between which this one decides: a reviewer's

    @model_validator(mode="after")
    def _is_a_ranking(self) -> "RankedGroup":
        if len(self.texts) != len(self.tiers):
            raise ValueError(f"{len(self.texts)} texts, but {len(self.tiers)} tiers; give each text its tier")
        if len(self.texts) < 2:
            raise ValueError("a ranking of one completion compares nothing; give 2 to 9")
        tiers = sorted(set(self.tiers))
        if tiers != list(range(1, len(tiers) + 1)):
            raise ValueError(f"tiers {tiers} have a gap; number them 1..{len(tiers)} (equal tiers are ties)")
        return self


class Demonstration(Fact):
    """One ideal answer made whole for training. Example: `{"prompt": {…}, "text": "Of course. Which day?"}`."""

    prompt: Prompt
    text: str
    labeler: str = ""
    source: str = ""
