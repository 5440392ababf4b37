"""Model servers that speak as OpenAI's does: what an owner may enter, the key that goes with it, and one call.

Each becomes a model version of the store when it first answers: what it wrote can be told apart for ever, whatever is
behind the address later. Knows no page and no job.
"""

import hashlib
import os
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_args
from urllib.parse import urlsplit

from tutelage.errors import DataError
from tutelage.label.access import App
from tutelage.label.outgoing import NoAnswer, call_json, resolve
from tutelage.store.lineage import add_model_version
from tutelage.store.tools import Endpoint, add_endpoint
from tutelage.types import Completion, FinishReason, Message, ModelVersion, Prompt, digest

LONGEST = 200_000  # characters of one answer
MOST_TOKENS = 8192
KEY_NAMES = r"TUTELAGE_KEY_[A-Z0-9_]{1,60}|[A-Z0-9_]{1,60}_API_KEY"  # no owner reads the server's other secrets
PREFIX = "endpoint-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How an answer is drawn."""

    temperature: float = 1.0
    max_tokens: int = 512

    def __post_init__(self) -> None:
        if not 0 <= self.temperature <= 2:
            raise DataError(f"temperature {self.temperature:g} lies outside 0 to 2. Choose one between.")
        if not 1 <= self.max_tokens <= MOST_TOKENS:
            raise DataError(f"{self.max_tokens} tokens for an answer: give 1 to {MOST_TOKENS}.")


@dataclass(frozen=True, slots=True)
class Said:
    """What a model answered."""

    text: str
    finish_reason: FinishReason | None
    version: ModelVersion


def keep_endpoint(app: App, project_id: int, *, name: str, url: str, model: str, key: str, key_env: str) -> int:
    """Checks and stores an endpoint. Raises DataError for what cannot be called, or a key that is none."""
    named, at, of = name.strip(), url.strip().rstrip("/"), model.strip()
    at = at.removesuffix("/chat/completions")
    for what, value in (("name", named), ("model", of)):
        if not 1 <= len(value) <= 120 or not value.isprintable():
            raise DataError(f"the {what} needs 1 to 120 printable characters.")
    parts = urlsplit(at)
    if parts.query or parts.fragment or len(at) > 400:
        raise DataError(f"{at[:80]!r}: give the address up to /v1, without a query. A key has a field of its own.")
    resolve(at, private=app.config.private_endpoints)
    if key and key_env:
        raise DataError("a key and the name of a variable were given. Give one of them.")
    if key_env and not re.fullmatch(KEY_NAMES, key_env):
        raise DataError(
            f"{key_env[:80]!r} cannot be used: the variable's name ends in _API_KEY or begins with TUTELAGE_KEY_, so "
            f"that no other secret of the server can be sent away."
        )
    _check_key(key)
    return add_endpoint(
        app.store, project_id, name=named, url=at, model=of,
        key_sealed=app.keys.seal(key) if key else None, key_env=key_env or None,
    )  # fmt: skip


def _check_key(key: str) -> None:
    if len(key) > 400 or any(not "!" <= c <= "~" for c in key):
        raise DataError("the key holds a space or another character that no key has. Copy it again.")


def _key(app: App, endpoint: Endpoint) -> str:
    if endpoint.key_env:
        if endpoint.key_env not in os.environ:
            raise DataError(f"{endpoint.name}: the server has no variable {endpoint.key_env}. Ask its operator.")
        _check_key(os.environ[endpoint.key_env])
        return os.environ[endpoint.key_env]
    if endpoint.key_sealed is None:
        return ""
    found = app.keys.unseal(endpoint.key_sealed)
    if found is None:
        raise DataError(f"{endpoint.name}: its key was sealed by another installation. Remove it and add it again.")
    return found


def version_of(endpoint: Endpoint, reported: str = "") -> ModelVersion:
    """The version that an endpoint's answers are kept under.

    reported  the model that the server says it used: behind an alias, the weights that there were
    """
    model = reported or endpoint.model
    sha = hashlib.sha256(f"{endpoint.url}|{model}".encode()).hexdigest()
    number = PREFIX + digest("endpoint", endpoint.url, model)
    return ModelVersion(id=number, stage="external", weights_sha=sha, path=f"{endpoint.url}#{model}")


def ask(
    app: App, endpoint: Endpoint, messages: Sequence[Message], sampling: Sampling, seed: int, *, timeout_s: float = 120
) -> Said:
    """One answer. Raises NoAnswer when the server gives none, DataError when it may not be called."""
    body = {
        "model": endpoint.model,
        "messages": [m.model_dump() for m in messages],
        "temperature": sampling.temperature,
        "max_tokens": sampling.max_tokens,
        "seed": seed,
    }
    key = _key(app, endpoint)
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    at = resolve(endpoint.url, private=app.config.private_endpoints)
    return _said(endpoint, call_json(at, "/chat/completions", body, headers, timeout_s=timeout_s))


def _said(endpoint: Endpoint, answer: Any) -> Said:
    try:
        choice = answer["choices"][0]
        text, why = choice["message"]["content"], choice["finish_reason"] if "finish_reason" in choice else None
        reported = answer["model"] if "model" in answer else ""
    except (KeyError, IndexError, TypeError) as e:
        raise NoAnswer(f"{endpoint.name} answered, but not as a chat model does. Check its address.", 200) from e
    if not isinstance(text, str):
        raise NoAnswer(f"{endpoint.name} answered without words. Check the model.", 200)
    if len(text) > LONGEST:
        raise NoAnswer(f"{endpoint.name} answered with more than {LONGEST} characters.", 200)
    is_name = isinstance(reported, str) and len(reported) <= 200 and reported.isprintable()
    finish: FinishReason | None = why if why in get_args(FinishReason) else None
    return Said(whole(text), finish, version_of(endpoint, reported if is_name else ""))


def whole(text: str) -> str:
    """The text with halves of characters (JSON can carry them, UTF-8 cannot) replaced by U+FFFD."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def written(app: App, prompt: Prompt, said: Said, sampling: Sampling, seed: int, sample: int) -> Completion:
    """An answer as a completion; the version that wrote it is in the store from now on."""
    add_model_version(app.store, said.version)
    return Completion(
        prompt_id=prompt.id,
        text=said.text,
        model_version=said.version.id,
        finish_reason=said.finish_reason,
        temperature=sampling.temperature,
        seed=seed,
        sample=sample,
    )


def try_out(app: App, endpoint: Endpoint) -> str:
    """Makes one tiny call, and says how it went. What the model wrote is not repeated."""
    began = time.monotonic()
    said = ask(app, endpoint, [Message(role="user", content="Say yes.")], Sampling(max_tokens=8), 1, timeout_s=30)
    return f"{endpoint.name} answered in {time.monotonic() - began:.1f} s, {len(said.text)} characters."
