"""Who asks, and where: the account, the project and the role of one request, by one look at the store.

Knows no request and refuses nobody; whoever asks judges what was found.
"""

from dataclasses import dataclass

import sqlalchemy as sa

from tutelage.store import desk_schema
from tutelage.store.accounts import Account, account_row, of_session, token_hash
from tutelage.store.db import Store
from tutelage.store.projects import Project, ProjectSettings

project, member = desk_schema.project, desk_schema.member


@dataclass(frozen=True, slots=True)
class Visit:
    """What is known of a request. Example: a labeller's own desk: `Visit(account, project, ("labeller", "active"))`."""

    account: Account | None = None  # None: nobody is signed in by this token
    project: Project | None = None  # None: none was named, or there is none of this name
    role: tuple[str, str] | None = None  # role and state of the account in the project; None for a stranger


_VISIT = (
    of_session()
    .add_columns(
        project.c.id.label("project_id"),
        project.c.slug.label("project_slug"),
        project.c.name.label("project_name"),
        project.c.settings.label("project_settings"),
        member.c.role.label("member_role"),
        member.c.state.label("member_state"),
    )
    .outerjoin(project, project.c.slug == sa.bindparam("slug"))
    .outerjoin(
        member, (member.c.project_id == project.c.id) & (member.c.account_id == desk_schema.session.c.account_id)
    )
)


def visit(store: Store, token: str, slug: str | None) -> Visit:
    """Whose session this is, and what she is in the project of this address."""
    if not token:
        return Visit()
    wanted = {"token": token_hash(token), "now": store.seconds(), "slug": slug or ""}  # no project is called ""
    with store.read() as conn:
        row = conn.execute(_VISIT, wanted).first()
    if row is None:
        return Visit()
    if row.project_id is None:
        return Visit(account_row(row))
    settings = ProjectSettings.model_validate(row.project_settings)
    found = Project(row.project_id, row.project_slug, row.project_name, settings)
    return Visit(account_row(row), found, (row.member_role, row.member_state) if row.member_role else None)
