"""A store of each kind for every test, and a desk: two labelers, a few prompts with four completions each."""

import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tutelage.store.completions import add_completions
from tutelage.store.db import Store, open_store
from tutelage.store.people import add_labeler
from tutelage.store.prompts import add_prompts
from tutelage.types import Completion, Feedback, Judgement, Labeler, Message, Prompt, RankedItem, Ranking


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Where an empty store may be made."""
    if request.param == "sqlite":
        yield str(tmp_path / "store.db")
        return
    server: str = request.getfixturevalue("postgres")
    psycopg = pytest.importorskip("psycopg")
    admin = server.replace("+psycopg", "")
    name = f"tutelage_test_{uuid.uuid4().hex}"
    with psycopg.connect(admin, autocommit=True) as conn:
        conn.execute(f"CREATE DATABASE {name}")
    base, _, options = server.partition("?")
    yield base.rsplit("/", 1)[0] + f"/{name}" + (f"?{options}" if options else "")
    with psycopg.connect(admin, autocommit=True) as conn:
        conn.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def store(where: str) -> Iterator[Store]:
    with open_store(where) as store:
        yield store


@dataclass(frozen=True)
class Desk:
    store: Store
    prompts: list[Prompt]
    completions: list[list[Completion]]  # four for each prompt

    def feedback(
        self, key: str, judgement: Judgement, i_prompt: int = 0, labeler: str = "ann", **more: object
    ) -> Feedback:
        prompt_id = self.prompts[i_prompt].id
        return Feedback(labeler=labeler, prompt_id=prompt_id, judgement=judgement, idempotency_key=key, **more)

    def ranking(self, key: str, *tiers: int, i_prompt: int = 0, labeler: str = "ann", **more: object) -> Feedback:
        """A ranking of the first completions of a prompt in these tiers."""
        ids = [c.id for c in self.completions[i_prompt]]
        items = tuple(RankedItem(completion_id=i, tier=t) for i, t in zip(ids, tiers, strict=False))
        return self.feedback(key, Ranking(items=items), i_prompt, labeler, **more)


def lay(store: Store) -> Desk:
    texts = ["What is a tide?", "Why is the sky blue?", "Name a river."]
    prompts = [Prompt(messages=(Message(role="user", content=t),), source=f"s{i}") for i, t in enumerate(texts)]
    completions = [[Completion(prompt_id=p.id, text=f"answer {k}", sample=k) for k in range(4)] for p in prompts]
    add_labeler(store, Labeler(pseudonym="ann", kind="human"))
    add_labeler(store, Labeler(pseudonym="sim", kind="simulated"))
    add_prompts(store, prompts)
    add_completions(store, [c for group in completions for c in group])
    return Desk(store, prompts, completions)


@pytest.fixture
def desk(store: Store) -> Desk:
    return lay(store)


@pytest.fixture
def lay_desk() -> Callable[[Store], Desk]:
    """Lays the same desk in another store."""
    return lay
