"""What travels: requests as OpenAI's clients send them, checked, and answers as they expect them. Knows no HTTP."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tutelage.types import FinishReason, Message


class Part(BaseModel):
    """A piece of a message. Only words are understood."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["text"]
    text: str


class Line(BaseModel):
    """One turn as a client sends it. Example: `{"role": "user", "content": "Is the pool open?"}`."""

    model_config = ConfigDict(extra="forbid")

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Part]
    name: str | None = None  # taken and not used: the model sees roles alone

    def message(self) -> Message:
        text = self.content if isinstance(self.content, str) else "".join(p.text for p in self.content)
        return Message(role="system" if self.role == "developer" else self.role, content=text)


class ChatRequest(BaseModel):
    """A request for answers. What would change the answer and is not understood is refused by name."""

    model_config = ConfigDict(extra="forbid")

    model: str = Field(max_length=400)
    messages: Annotated[list[Line], Field(min_length=1, max_length=400)]
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    n: int = Field(default=1, ge=1)
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    stream: bool = False
    stream_options: dict[str, Any] | None = None
    user: str | None = None  # taken and not kept, as are the next two
    metadata: dict[str, Any] | None = None
    store: bool | None = None
    stop: None = None  # these six change nothing only at these values
    presence_penalty: Literal[0] | None = None
    frequency_penalty: Literal[0] | None = None
    logprobs: Literal[False] | None = None
    response_format: None = None
    logit_bias: None = None

    @model_validator(mode="after")
    def _ends_with_the_user(self) -> "ChatRequest":
        if self.messages[-1].role != "user":
            raise ValueError(f"the last message must be the user's, but it is of role {self.messages[-1].role!r}")
        return self

    @property
    def wanted_tokens(self) -> int | None:
        return self.max_completion_tokens if self.max_completion_tokens is not None else self.max_tokens


class FeedbackRequest(BaseModel):
    """A thumb on an answer. Example: `{"completion_id": "3f…", "value": 1, "reasons": ["helpful"]}`."""

    model_config = ConfigDict(extra="forbid")

    completion_id: str = Field(pattern=r"^[0-9a-f]{20}$")
    value: Literal[-1, 1]
    reasons: tuple[Annotated[str, Field(min_length=1, max_length=60)], ...] = Field(default=(), max_length=10)
    key: str | None = Field(default=None, pattern=r"^[A-Za-z0-9-]{8,64}$")  # the same again changes nothing


def error(message: str, kind: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": None, "code": None}}


def completion(
    number: str, created: int, model: str, answers: list[tuple[str, FinishReason, str]], prompt_tokens: int, tokens: int
) -> dict[str, Any]:
    """A whole answer. `answers` are text, why it ended, and the completion's id, which feedback names."""
    return {
        "id": f"chatcmpl-{number}",
        "object": "chat.completion",
        "created": created,
        "model": model,
        "choices": [
            {
                "index": i,
                "message": {"role": "assistant", "content": text},
                "finish_reason": why,
                "logprobs": None,
                "completion_id": completion_id,
            }
            for i, (text, why, completion_id) in enumerate(answers)
        ],
        "usage": {
            "prompt_tokens": prompt_tokens, "completion_tokens": tokens, "total_tokens": prompt_tokens + tokens,
        },
    }  # fmt: skip


def piece(
    number: str,
    created: int,
    model: str,
    i: int,
    delta: dict[str, str],
    why: FinishReason | None = None,
    completion_id: str | None = None,
) -> dict[str, Any]:
    """A piece of a streamed answer; the last one of a choice says why it ended and names the completion."""
    choice: dict[str, Any] = {"index": i, "delta": delta, "finish_reason": why, "logprobs": None}
    if completion_id is not None:
        choice["completion_id"] = completion_id
    return {
        "id": f"chatcmpl-{number}", "object": "chat.completion.chunk", "created": created, "model": model,
        "choices": [choice],
    }  # fmt: skip
