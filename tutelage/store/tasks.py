"""What is to be judged: a prompt with completions (or without, for demonstrations), offered to so many people.

A check is a task with a known answer (gold) or one to learn from (practice); nobody else's work depends on it.
"""

import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy import Connection

from tutelage.errors import StoreError
from tutelage.store import desk_schema, schema
from tutelage.store.completions import add_completions
from tutelage.store.db import Added, Store, chunks
from tutelage.store.projects import TaskKind
from tutelage.store.prompts import add_prompts
from tutelage.types import Completion, Prompt, digest

task, assignment = desk_schema.task, desk_schema.assignment

CHECK_SLOTS = 1_000_000  # a check never runs out of people
NEEDED = {
    "rank": (2, 9),
    "compare": (2, 2),
    "demonstrate": (0, 0),
    "correct": (1, 9),
    "critique": (1, 9),
    "chat": (0, 0),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class NewTask:
    """What somebody wants judged.

    Example: `NewTask(kind="rank", prompt=prompt, completions=four, source="round-1", overlap=2)`.
    """

    kind: TaskKind
    prompt: Prompt
    completions: tuple[Completion, ...] = ()
    source: str
    overlap: int = 1
    priority: float = 0.0  # larger is offered earlier; 0 = no opinion
    gold: dict[str, Any] | None = None  # {"tiers": [1, 2, …]} of the completions, with an explanation for practice
    practice: bool = False

    @property
    def key(self) -> str:
        ids = [c.id for c in self.completions]
        return digest("task", self.kind, self.source, self.prompt.id, ids, self.gold, self.practice)

    def check(self) -> None:
        """Raises StoreError when it cannot be judged as it stands."""
        least, most = NEEDED[self.kind]
        texts = {c.text.strip() for c in self.completions}
        if not least <= len(self.completions) <= most:
            raise StoreError(
                f"a task to {self.kind} needs {least} to {most} completions, but this one (prompt {self.prompt.id}) "
                f"has {len(self.completions)}. Leave some out, or choose another kind."
            )
        if least == 2 and len(texts) < 2:
            raise StoreError(
                f"all {len(self.completions)} completions of prompt {self.prompt.id} are the same text: there is "
                f"nothing to rank. Leave the task out, or sample with a higher temperature."
            )
        if self.gold is not None and len(self.gold["tiers"] if "tiers" in self.gold else ()) != len(self.completions):
            raise StoreError(f"the known answer of a check gives each completion its tier (prompt {self.prompt.id}).")


@dataclass(frozen=True, slots=True)
class Task:
    """A task as it lies on the desk."""

    id: int
    project_id: int
    kind: TaskKind
    source: str
    prompt_id: str
    completions: tuple[str, ...]  # ids
    slots: int
    overlap: int
    priority: float
    gold: dict[str, Any] | None
    is_practice: bool
    state: Literal["open", "closed"]


def task_row(row: sa.Row[Any]) -> Task:
    return Task(
        id=row.id,
        project_id=row.project_id,
        kind=row.kind,
        source=row.source,
        prompt_id=row.prompt_id,
        completions=tuple(row.completions),
        slots=row.slots,
        overlap=row.overlap,
        priority=row.priority,
        gold=row.gold,
        is_practice=row.practice is not None,
        state=row.state,
    )


def add_tasks(store: Store, project_id: int, tasks: Iterable[NewTask]) -> Added:
    """Stores prompts, completions and tasks, each once. All are checked before any is stored."""
    wanted = list(tasks)
    for one in wanted:
        one.check()
    added = Added()
    for chunk in chunks(wanted):
        add_prompts(store, (t.prompt for t in chunk))
        add_completions(store, (c for t in chunk for c in t.completions))
        with store.write() as conn:
            added += _insert(conn, project_id, chunk, store.now())
    return added


def _insert(conn: Connection, project_id: int, chunk: Sequence[NewTask], at: str) -> Added:
    rows = {t.key: _values(t, project_id, at) for t in chunk}
    there = set(conn.scalars(sa.select(task.c.key).where(task.c.key.in_(rows))))
    new = [row for key, row in rows.items() if key not in there]
    if new:
        conn.execute(sa.insert(task), new)
    return Added(len(new), len(chunk) - len(new))


def _values(t: NewTask, project_id: int, at: str) -> dict[str, Any]:
    is_check = t.gold is not None
    return {
        "key": t.key,
        "project_id": project_id,
        "kind": t.kind,
        "source": schema.plain("the source", t.source),
        "prompt_id": t.prompt.id,
        "completions": [c.id for c in t.completions],
        "slots": CHECK_SLOTS if is_check else t.overlap,
        "overlap": t.overlap,
        "place": secrets.randbelow(2**53) / 2**53,
        "priority": float(t.priority),
        "gold": t.gold,
        "practice": True if t.practice else None,
        "is_check": (2 if t.practice else 1) if is_check else 0,
        "state": "open",
        "created_at": at,
    }


def known_tasks(store: Store, keys: Iterable[str]) -> set[str]:
    """Those of the keys under which a task is there already."""
    found: set[str] = set()
    with store.read() as conn:
        for part in chunks(keys):
            found |= set(conn.scalars(sa.select(task.c.key).where(task.c.key.in_(part))))
    return found


def prompts_of_source(store: Store, project_id: int, source: str) -> list[str]:
    """Ids of the prompts of a project's tasks of this source, in the order in which they came."""
    query = sa.select(task.c.prompt_id).where(
        task.c.project_id == project_id, task.c.source == source, task.c.is_check == 0
    )
    with store.read() as conn:
        return list(dict.fromkeys(conn.scalars(query.order_by(task.c.id))))


def get_task(store: Store, project_id: int, number: int) -> Task | None:
    with store.read() as conn:
        row = conn.execute(sa.select(task).where(task.c.id == number, task.c.project_id == project_id)).first()
    return task_row(row) if row else None


def list_tasks(
    store: Store,
    project_id: int,
    *,
    before: int | None = None,
    kind: TaskKind | None = None,
    show: Literal["all", "open", "closed", "checks"] = "all",
    limit: int = 50,
) -> list[tuple[Task, int]]:
    """Tasks with the number of their answers, newest first. `before` is the id of the last one of the page before."""
    query = sa.select(task).where(task.c.project_id == project_id)
    if before is not None:
        query = query.where(task.c.id < before)
    if kind is not None:
        query = query.where(task.c.kind == kind)
    if show == "checks":
        query = query.where(task.c.is_check > 0)
    elif show != "all":
        query = query.where(task.c.state == show)
    with store.read() as conn:
        rows = [task_row(r) for r in conn.execute(query.order_by(task.c.id.desc()).limit(limit))]
        counts = _answers(conn, [t.id for t in rows])
    return [(t, counts[t.id] if t.id in counts else 0) for t in rows]


def _answers(conn: Connection, ids: Sequence[int]) -> dict[int, int]:
    query = (
        sa.select(assignment.c.task_id, sa.func.count().label("n"))
        .where(assignment.c.task_id.in_(ids), assignment.c.state == "answered")
        .group_by(assignment.c.task_id)
    )
    return {row.task_id: int(row.n) for row in conn.execute(query)}


def close_tasks(store: Store, project_id: int, ids: Iterable[int], *, state: Literal["open", "closed"]) -> int:
    """Closes tasks, or opens them again. Answers in work are still taken."""
    n = 0
    for part in chunks(ids):
        with store.write() as conn:
            n += conn.execute(
                sa.update(task).where(task.c.project_id == project_id, task.c.id.in_(part)).values(state=state)
            ).rowcount
    return n


def prioritise(store: Store, project_id: int, priority_of: dict[str, float]) -> int:
    """Sets the priority of the open tasks of these prompts: what a reward-model ensemble is least sure of, say."""
    n = 0
    for part in chunks(sorted(priority_of.items())):
        with store.write() as conn:
            for prompt_id, value in part:
                n += conn.execute(
                    sa.update(task)
                    .where(task.c.project_id == project_id, task.c.prompt_id == prompt_id, task.c.state == "open")
                    .values(priority=float(value))
                ).rowcount
    return n


@dataclass(frozen=True, slots=True)
class Progress:
    """How far one source's tasks are. Checks do not count."""

    source: str
    kind: TaskKind
    tasks: int
    wanted: int  # answers
    answered: int


def progress(store: Store, project_id: int) -> list[Progress]:
    """By source and kind, in the order in which they came."""
    base = sa.select(task).where(task.c.project_id == project_id, task.c.is_check == 0).subquery()
    totals = sa.select(
        base.c.source, base.c.kind, sa.func.count().label("tasks"), sa.func.sum(base.c.overlap).label("wanted"),
        sa.func.min(base.c.id).label("first"),
    ).group_by(base.c.source, base.c.kind)  # fmt: skip
    done = (
        sa.select(base.c.source, base.c.kind, sa.func.count().label("n"))
        .join(assignment, assignment.c.task_id == base.c.id)
        .where(assignment.c.state == "answered", assignment.c.repeat == 0)
        .group_by(base.c.source, base.c.kind)
    )
    with store.read() as conn:
        answered = {(r.source, r.kind): int(r.n) for r in conn.execute(done)}
        rows = sorted(conn.execute(totals), key=lambda r: r.first)
    return [
        Progress(r.source, r.kind, int(r.tasks), int(r.wanted), answered.setdefault((r.source, r.kind), 0))
        for r in rows
    ]
