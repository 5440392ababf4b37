"""What a labeler is given next. The chance with which a task was chosen is noted, so that what is learnt from chosen
tasks can be weighed against what a blind choice would have shown.

The order: what she holds already; tasks to learn from; now and then an own old task or a check; else one of the mix of
kinds, blindly or by priority. Checks and repeats look like any other task.
"""

import random
from collections.abc import Collection
from typing import Literal

import sqlalchemy as sa
from sqlalchemy import Connection

from tutelage.errors import ConflictError
from tutelage.store import desk_schema, schema
from tutelage.store.assignments import MAX_HELD, Cards, Held, expire, held_by, lease
from tutelage.store.db import Store
from tutelage.store.projects import Project, TaskKind
from tutelage.store.tasks import Task, task_row

task, assignment = desk_schema.task, desk_schema.assignment
DAY = 86400.0


def offer(
    store: Store,
    project: Project,
    labeler: str,
    *,
    have: Collection[str] = (),
    kinds: Collection[TaskKind] | None = None,
    rng: random.Random | None = None,
) -> Held | None:
    """The next task in this labeler's hands, leased; None when there is nothing for her now.

    have   assignments that her page shows or keeps ready: they are not offered again
    kinds  only these; None = the project's mix
    """
    draw = rng or random.Random()
    seconds = project.settings.lease_minutes * 60
    with store.write(durable=False) as conn:
        now = store.seconds()
        expire(conn, now)
        held = held_by(conn, project.id, labeler)
        for one in held:
            if one.id not in have and (kinds is None or one.task.kind in kinds):
                conn.execute(sa.update(assignment).where(assignment.c.id == one.id).values(lease_until=now + seconds))
                return one
        if len(held) >= MAX_HELD:
            raise ConflictError(f"{len(held)} tasks are in your hands already. Answer or skip one first.")
        chosen = _choose(conn, project, labeler, kinds, draw, now)
        if chosen is None:
            return None
        of, policy, probability, repeat = chosen
        cards = shuffled_cards(conn, of, draw)
        return lease(
            conn, of, labeler, cards, now=now, seconds=seconds, policy=policy, probability=probability, repeat=repeat
        )


Choice = tuple[Task, str, float, int]


def _choose(
    conn: Connection,
    project: Project,
    labeler: str,
    kinds: Collection[TaskKind] | None,
    draw: random.Random,
    now: float,
) -> Choice | None:
    settings = project.settings
    weight = {k: w for k, w in settings.mix.items() if w > 0 and (kinds is None or k in kinds)}
    practice = _blind(conn, project.id, labeler, tuple(weight), 2, draw)
    if practice is not None:
        return practice[0], "practice", 1.0, 0
    if draw.random() < settings.repeat_share:
        again = _repeat(conn, project, labeler, draw, now)
        if again is not None:
            return again, "repeat", settings.repeat_share, 1
    if draw.random() < settings.gold_share:
        check = _blind(conn, project.id, labeler, tuple(weight), 1, draw)
        if check is not None:
            return check[0], "check", settings.gold_share * check[1], 0
    while weight:
        kind = draw.choices(list(weight), list(weight.values()))[0]
        found = _of_kind(conn, project, labeler, kind, draw)
        if found is not None:
            return found
        del weight[kind]
    return None


def _of_kind(conn: Connection, project: Project, labeler: str, kind: TaskKind, draw: random.Random) -> Choice | None:
    share = project.settings.random_share
    best = _first(conn, project.id, labeler, kind)
    if best is None:
        return None
    n = _candidates(conn, project.id, labeler, kind)
    if best.priority <= 0:
        found = _blind(conn, project.id, labeler, (kind,), 0, draw)
        return (found[0], "random", 1 / n, 0) if found else None
    if draw.random() >= share:
        return best, "priority", 1 - share + share / n, 0
    found = _blind(conn, project.id, labeler, (kind,), 0, draw)
    assert found is not None, "there was a candidate a moment ago, and writers come one at a time"
    return found[0], "random", share / n + (1 - share if found[0].id == best.id else 0), 0


def _free(project_id: int, labeler: str, kinds: tuple[TaskKind, ...], is_check: int) -> list[sa.ColumnElement[bool]]:
    """Open tasks that somebody is still wanted for, that she has not seen, and whose texts are not her own."""
    # Lists that are made once a query, not a search for each task: a desk may hold a hundred thousand.
    event = schema.event
    seen = sa.select(assignment.c.task_id).where(assignment.c.labeler == labeler, assignment.c.state != "expired")
    own = sa.select(event.c.prompt_id).where(
        event.c.labeler == labeler, event.c.kind.in_(("demonstration", "correction"))
    )
    return [
        task.c.project_id == project_id,
        task.c.state == "open",
        task.c.kind.in_(kinds),
        task.c.is_check == is_check,
        task.c.slots > 0,
        task.c.id.not_in(seen),
        task.c.kind.not_in(("rank", "compare")) | task.c.prompt_id.not_in(own),
    ]


def _candidates(conn: Connection, project_id: int, labeler: str, kind: TaskKind) -> int:
    """How many tasks a blind choice of this kind is among."""
    query = sa.select(sa.func.count()).select_from(task).where(*_free(project_id, labeler, (kind,), 0))
    return int(conn.scalar(query) or 0)


def _first(conn: Connection, project_id: int, labeler: str, kind: TaskKind) -> Task | None:
    """The task of the highest priority; of equals, the newest, which is the order of the index read backwards."""
    query = sa.select(task).where(*_free(project_id, labeler, (kind,), 0))
    row = conn.execute(query.order_by(task.c.priority.desc(), task.c.id.desc()).limit(1)).first()
    return task_row(row) if row else None


def _blind(
    conn: Connection,
    project_id: int,
    labeler: str,
    kinds: tuple[TaskKind, ...],
    is_check: Literal[0, 1, 2],
    draw: random.Random,
) -> tuple[Task, float] | None:
    """The first task behind a random place on the circle of places, which are random themselves: each is as likely."""
    query = sa.select(task).where(*_free(project_id, labeler, kinds, is_check)).order_by(task.c.place).limit(1)
    at = draw.random()
    row = conn.execute(query.where(task.c.place >= at)).first() or conn.execute(query).first()
    return (task_row(row), 1.0) if row else None


def _repeat(conn: Connection, project: Project, labeler: str, draw: random.Random, now: float) -> Task | None:
    """One of her own answers that is old enough, and was not asked again yet."""
    again = assignment.alias("again")
    query = (
        sa.select(task)
        .join(assignment, assignment.c.task_id == task.c.id)
        .where(
            task.c.project_id == project.id,
            task.c.is_check == 0,
            task.c.kind.in_(("rank", "compare")),
            assignment.c.labeler == labeler,
            assignment.c.repeat == 0,
            assignment.c.state == "answered",
            assignment.c.answered_at <= now - project.settings.repeat_after_days * DAY,
            ~sa.exists().where(again.c.task_id == task.c.id, again.c.labeler == labeler, again.c.repeat == 1),
        )
        .order_by(task.c.place)
        .limit(1)
    )
    row = conn.execute(query.where(task.c.place >= draw.random())).first() or conn.execute(query).first()
    return task_row(row) if row else None


def shuffled_cards(conn: Connection, of: Task, draw: random.Random) -> Cards:
    """The completions in random order; those of one text are one card, so that nobody ranks a text against itself."""
    table = schema.completion
    rows = conn.execute(sa.select(table.c.id, table.c.text).where(table.c.id.in_(of.completions)))
    text_of = {row.id: row.text.strip() for row in rows}
    cards: dict[str, list[str]] = {}
    for number in of.completions:
        cards.setdefault(text_of[number], []).append(number)
    made = list(cards.values())
    draw.shuffle(made)
    return made
