"""What a labeler is given next. The chance with which a task was chosen is noted, so that what is learnt from chosen
tasks can be weighed against what a blind choice would have shown.

The order: what she holds already; tasks to learn from; now and then an own old task or a check; else one of the mix of
kinds, blindly or by priority. Checks and repeats look like any other task.
"""

import random
from collections.abc import Collection
from typing import Literal
from weakref import WeakKeyDictionary

import sqlalchemy as sa
from sqlalchemy import Connection

from tutelage.errors import ConflictError
from tutelage.store import desk_schema, schema
from tutelage.store.assignments import MAX_HELD, Cards, Held, expire, held_by, hold_until, lease
from tutelage.store.db import Store
from tutelage.store.projects import Project, TaskKind
from tutelage.store.tasks import Task, task_row

task, assignment = desk_schema.task, desk_schema.assignment
DAY = 86400.0
MANY = 2000  # candidates: so many are counted no more at each choice
COUNTED_S = 5.0  # for which a count of more holds
_COUNTED: WeakKeyDictionary[Store, dict[tuple[int, str], tuple[float, int]]] = WeakKeyDictionary()


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
                hold_until(conn, one.id, now + seconds)
                return one
        if len(held) >= MAX_HELD:
            raise ConflictError(f"{len(held)} tasks are in your hands already. Answer or skip one first.")
        chosen = _choose(store, conn, project, labeler, kinds, draw, now)
        if chosen is None:
            return None
        of, policy, probability, repeat = chosen
        cards = shuffled_cards(conn, of, draw)
        return lease(
            conn, of, labeler, cards, now=now, seconds=seconds, policy=policy, probability=probability, repeat=repeat
        )


Choice = tuple[Task, str, float, int]


def _choose(
    store: Store,
    conn: Connection,
    project: Project,
    labeler: str,
    kinds: Collection[TaskKind] | None,
    draw: random.Random,
    now: float,
) -> Choice | None:
    settings = project.settings
    weight = {k: w for k, w in settings.mix.items() if w > 0 and (kinds is None or k in kinds)}
    has_checks = conn.execute(_ANY_CHECK, {"project": project.id}).first() is not None
    practice = _blind(conn, project.id, labeler, tuple(weight), 2, draw) if has_checks else None
    if practice is not None:
        return practice, "practice", 1.0, 0
    if draw.random() < settings.repeat_share:
        again = _repeat(conn, project, labeler, draw, now)
        if again is not None:
            return again, "repeat", settings.repeat_share, 1
    if draw.random() < settings.gold_share and has_checks:
        check = _blind(conn, project.id, labeler, tuple(weight), 1, draw)
        if check is not None:
            return check, "check", settings.gold_share, 0
    while weight:
        kind = draw.choices(list(weight), list(weight.values()))[0]
        found = _of_kind(store, conn, project, labeler, kind, draw)
        if found is not None:
            return found
        del weight[kind]
    return None


def _of_kind(
    store: Store, conn: Connection, project: Project, labeler: str, kind: TaskKind, draw: random.Random
) -> Choice | None:
    share = project.settings.random_share
    best = _first(conn, project.id, labeler, kind)
    if best is None:
        return None
    n = _candidates(store, conn, project.id, labeler, kind)
    if best.priority > 0 and draw.random() >= share:
        return best, "priority", 1 - share + share / n, 0
    found = _blind(conn, project.id, labeler, (kind,), 0, draw)
    assert found is not None, "there was a candidate a moment ago, and writers come one at a time"
    if best.priority <= 0:
        return found, "random", 1 / n, 0
    return found, "random", share / n + (1 - share if found.id == best.id else 0), 0


def _wanted(
    of: sa.FromClause, kind: sa.ColumnElement[bool], is_check: sa.ColumnElement[bool]
) -> list[sa.ColumnElement[bool]]:
    """Open tasks that somebody is wanted for, in the words of the index that holds them alone."""
    return [
        of.c.project_id == sa.bindparam("project"),
        of.c.state == sa.literal_column("'open'"),
        of.c.slots > sa.literal_column("0"),
        kind,
        is_check,
    ]


def _normal(of: sa.FromClause) -> list[sa.ColumnElement[bool]]:
    return _wanted(of, of.c.kind == sa.bindparam("kind"), of.c.is_check == sa.literal_column("0"))


# The statements stand ready: to put one together takes longer than to run it, and all who work wait meanwhile.

_EVENT = schema.event.c
_MINE = assignment.c.labeler == sa.bindparam("labeler")
_SEEN = [_MINE, assignment.c.state != "expired"]
_OWN = [_EVENT.labeler == sa.bindparam("labeler"), _EVENT.kind.in_(("demonstration", "proposal", "correction"))]
_RANKS = task.c.kind.in_(("rank", "compare"))  # nobody ranks beside a text of her own

_ANY_CHECK = sa.select(task.c.id).where(task.c.project_id == sa.bindparam("project"), task.c.is_check > 0).limit(1)
_NEW_TO_HER = [
    ~sa.exists().where(assignment.c.task_id == task.c.id, *_SEEN),
    ~_RANKS | ~sa.exists().where(_EVENT.prompt_id == task.c.prompt_id, *_OWN),
]
_FROM_THE_FIRST = (
    sa.select(task)
    .where(
        *_wanted(
            task, task.c.kind.in_(sa.bindparam("kinds", expanding=True)), task.c.is_check == sa.bindparam("is_check")
        ),
        *_NEW_TO_HER,
    )
    .order_by(task.c.place)
    .limit(1)
)
_FROM_A_PLACE = _FROM_THE_FIRST.where(task.c.place >= sa.bindparam("at"))
_BEST = (
    sa.select(task)
    .where(*_normal(task), *_NEW_TO_HER)
    .order_by(task.c.priority.desc(), task.c.id.desc())  # of equals the newest: the index read backwards
    .limit(1)
)
# All are counted in the index, and those that a labeler has seen are taken off.
_other = task.alias("other")
_HERS = sa.union(
    sa.select(assignment.c.task_id.label("id")).where(*_SEEN),
    sa.select(_other.c.id)
    .join(schema.event, _EVENT.prompt_id == _other.c.prompt_id)
    .where(_other.c.kind.in_(("rank", "compare")), *_OWN),
).subquery()
_ALL = sa.select(sa.func.count()).select_from(task).where(*_normal(task))
# A join, which SQLite begins with hers, which are few; given a list to look in, it goes through all tasks.
_SEEN_OF_ALL = (
    sa.select(sa.func.count()).select_from(sa.join(_HERS, task, task.c.id == _HERS.c.id)).where(*_normal(task))
)
_SOME = sa.select(sa.func.count()).select_from(sa.select(task.c.id).where(*_normal(task)).limit(MANY).subquery())


def _first(conn: Connection, project_id: int, labeler: str, kind: TaskKind) -> Task | None:
    """The task of the highest priority."""
    row = conn.execute(_BEST, {"project": project_id, "labeler": labeler, "kind": kind}).first()
    return task_row(row) if row else None


def _candidates(store: Store, conn: Connection, project_id: int, labeler: str, kind: TaskKind) -> int:
    """How many tasks a blind choice of this kind is among; there is one at least."""
    wanted = {"project": project_id, "kind": kind}
    n = int(conn.scalar(_SOME, wanted) or 0)
    if n == MANY:
        n = _many(store, conn, project_id, kind)
    return max(1, n - int(conn.scalar(_SEEN_OF_ALL, {**wanted, "labeler": labeler}) or 0))


def _many(store: Store, conn: Connection, project_id: int, kind: TaskKind) -> int:
    """A large count, made anew every few seconds: of a hundred thousand it would hold up all who wait for the store."""
    known, now = _COUNTED.setdefault(store, {}), store.seconds()
    key = (project_id, kind)
    if key not in known or not 0 <= now - known[key][0] < COUNTED_S:
        known[key] = (now, int(conn.scalar(_ALL, {"project": project_id, "kind": kind}) or 0))
    return known[key][1]


def _blind(
    conn: Connection,
    project_id: int,
    labeler: str,
    kinds: tuple[TaskKind, ...],
    is_check: Literal[0, 1, 2],
    draw: random.Random,
) -> Task | None:
    """The first task behind a random place on the circle of places, which are random themselves: each is as likely."""
    wanted = {"project": project_id, "labeler": labeler, "kinds": kinds, "is_check": is_check}
    row = conn.execute(_FROM_A_PLACE, {**wanted, "at": draw.random()}).first()
    row = row or conn.execute(_FROM_THE_FIRST, wanted).first()
    return task_row(row) if row else None


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


_TEXTS = sa.select(schema.completion.c.id, schema.completion.c.text).where(
    schema.completion.c.id.in_(sa.bindparam("ids", expanding=True))
)


def shuffled_cards(conn: Connection, of: Task, draw: random.Random) -> Cards:
    """The completions in random order; those of one text are one card, so that nobody ranks a text against itself."""
    rows = conn.execute(_TEXTS, {"ids": of.completions})
    text_of = {row.id: row.text.strip() for row in rows}
    cards: dict[str, list[str]] = {}
    for number in of.completions:
        cards.setdefault(text_of[number], []).append(number)
    made = list(cards.values())
    draw.shuffle(made)
    return made
