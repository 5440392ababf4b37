"""Which judgements are a project's own: those of its tasks' sources, and of sources that carry its name.

A source is a word on a judgement and knows no project. What a project brings in by itself is named `slug/…`, so that no
project reads or adds to what is another's.
"""

import sqlalchemy as sa

from tutelage.errors import StoreError
from tutelage.store import desk_schema, schema
from tutelage.store.db import Store
from tutelage.store.projects import Project

CHECKS = "/checks"  # ends the sources of tasks with a known answer: they measure people, and train nothing
MOST = 80  # characters of a name


def own_source(project: Project, name: str, *, is_check: bool = False) -> str:
    """The full name of a source of this project. One that is full already stays as it is."""
    plain = schema.plain("the source", name.strip().removeprefix(f"{project.slug}/").removesuffix(CHECKS))
    if not plain or len(plain) > MOST or not plain.isprintable():
        raise StoreError(f"{name[:MOST]!r} names no source. Give 1 to {MOST} printable characters.")
    return f"{project.slug}/{plain}{CHECKS if is_check else ''}"


def sources_of(store: Store, project: Project) -> list[str]:
    """All sources of this project, by name."""
    event, task = schema.event, desk_schema.task
    named = event.c.source.startswith(f"{project.slug}/", autoescape=True)
    with store.read() as conn:
        found = set(conn.scalars(sa.select(task.c.source).where(task.c.project_id == project.id).distinct()))
        found |= set(conn.scalars(sa.select(event.c.source).where(named).distinct()))
    return sorted(found)


def counts_by_kind(store: Store, sources: list[str]) -> dict[tuple[str, str], int]:
    """How many judgements stand now, by source and kind."""
    event = schema.event
    heir = event.alias("heir")
    query = (
        sa.select(event.c.source, event.c.kind, sa.func.count().label("n"))
        .where(event.c.source.in_(sources), ~sa.exists().where(heir.c.supersedes == event.c.seq))
        .group_by(event.c.source, event.c.kind)
    )
    with store.read() as conn:
        return {(r.source, r.kind): int(r.n) for r in conn.execute(query)}
