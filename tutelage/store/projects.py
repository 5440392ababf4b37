"""Projects: what is asked of whom. Settings, members, invitations, guidelines, API tokens and the audit trail."""

import re
import secrets
from dataclasses import dataclass
from typing import Any, Literal

import sqlalchemy as sa
from pydantic import ConfigDict, Field, ValidationError, model_validator
from sqlalchemy import Connection

from tutelage.errors import StoreError
from tutelage.store import desk_schema, schema
from tutelage.store.accounts import create_within, token_hash
from tutelage.store.db import Store
from tutelage.types import Fact, digest

Role = Literal["owner", "lead", "reviewer", "labeller"]
MemberRole = Literal["lead", "reviewer", "labeller"]  # an owner owns the installation, and is no member
TaskKind = Literal["rank", "compare", "demonstrate", "correct", "critique", "chat"]
TASK_KINDS: tuple[TaskKind, ...] = ("rank", "compare", "demonstrate", "correct", "critique", "chat")


class Aspect(Fact):
    """What completions are graded on, 1 to 7. Example: `{"key": "overall", "label": "Overall quality"}`."""

    key: str = Field(min_length=1, max_length=40, pattern=r"^[a-z][a-z0-9_-]*$")
    label: str = Field(min_length=1, max_length=80)


class FlagKind(Fact):
    """Something that can be wrong with a completion. Example: `{"key": "harmful", "label": "Harmful advice"}`."""

    key: str = Field(min_length=1, max_length=40, pattern=r"^[a-z][a-z0-9 _-]*$")
    label: str = Field(min_length=1, max_length=80)


class ProjectSettings(Fact):
    """How a project asks. Shares are of the tasks that a labeller is given."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    aspects: tuple[Aspect, ...] = (Aspect(key="overall", label="Overall quality"),)
    flags: tuple[FlagKind, ...] = (
        FlagKind(key="instruction", label="Fails to follow the instruction"),
        FlagKind(key="false", label="States something false"),
        FlagKind(key="harmful", label="Harmful advice or content"),
        FlagKind(key="private", label="Contains private data"),
        FlagKind(key="biased", label="Denigrates a group of people"),
        FlagKind(key="off-topic", label="Off topic"),
    )
    steps: Literal["rank", "rate_then_rank", "rank_then_rate"] = "rank"  # of a ranking task
    mix: dict[TaskKind, float] = Field(default_factory=lambda: dict.fromkeys(TASK_KINDS, 1.0))  # weight of each kind
    overlap: int = Field(default=1, ge=1, le=50)  # people who judge one task
    lease_minutes: float = Field(default=30.0, gt=0, le=1440)
    revise_minutes: float = Field(default=1440.0, ge=0)  # how long one's own answers can be revised
    random_share: float = Field(default=0.2, ge=0.2, le=1.0)  # chosen blindly, so that measurement stays unbiased
    gold_share: float = Field(default=0.05, ge=0, le=0.5)  # checks with a known answer
    repeat_share: float = Field(default=0.0, ge=0, le=0.5)  # own old tasks again, unseen as such
    repeat_after_days: float = Field(default=7.0, ge=0)
    review_demonstrations: bool = False  # what people write waits for a reviewer before it is trained on
    blur_sensitive: bool = False  # completions are blurred until a key reveals them
    break_minutes: float = Field(default=50.0, ge=0)  # after so long at work the page suggests a pause; 0 = never

    @model_validator(mode="after")
    def _something_is_asked(self) -> "ProjectSettings":
        if not sum(self.mix.values()) > 0 or min(self.mix.values()) < 0:
            raise ValueError("the mix of tasks needs weights of 0 or more, and one above 0")
        for what, keys in (("aspect", [a.key for a in self.aspects]), ("flag", [f.key for f in self.flags])):
            if len(set(keys)) != len(keys):
                raise ValueError(f"an {what} stands twice; give each its own key")
        return self


@dataclass(frozen=True, slots=True)
class Project:
    id: int
    slug: str
    name: str
    settings: ProjectSettings


@dataclass(frozen=True, slots=True)
class Member:
    """A person in a project, by pseudonym. The address is for owners and leads, who invited it."""

    account_id: int
    pseudonym: str
    email: str
    role: MemberRole
    state: Literal["active", "paused", "removed"]


@dataclass(frozen=True, slots=True)
class Guideline:
    id: str
    version: int
    text: str
    published_at: str


project, member = desk_schema.project, desk_schema.member


def create_project(
    store: Store, name: str, *, slug: str | None = None, settings: ProjectSettings | None = None
) -> Project:
    """A new project; the same slug again is refused."""
    named = slug or re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40]
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,39}", named):
        raise StoreError(f"{name!r} gives no address for a project. Use letters or digits.")
    row = {"slug": named, "name": schema.plain("the name", name.strip()[:200]) or named}
    with store.write() as conn:
        if conn.scalar(sa.select(project.c.id).where(project.c.slug == named)) is not None:
            raise StoreError(f"there is a project at {named!r} already. Choose another name.")
        value = (settings or ProjectSettings()).model_dump(mode="json")
        conn.execute(sa.insert(project).values(**row, settings=value, created_at=store.now()))
    return get_project(store, named)


def get_project(store: Store, slug: str) -> Project:
    found = find_project(store, slug)
    if found is None:
        raise StoreError(f"there is no project {slug!r}.")
    return found


def find_project(store: Store, slug: str) -> Project | None:
    with store.read() as conn:
        row = conn.execute(sa.select(project).where(project.c.slug == slug)).first()
    return _project(row) if row else None


def projects(store: Store) -> list[Project]:
    with store.read() as conn:
        return [_project(row) for row in conn.execute(sa.select(project).order_by(project.c.id))]


def _project(row: sa.Row[Any]) -> Project:
    return Project(row.id, row.slug, row.name, ProjectSettings.model_validate(row.settings))


def change_settings(
    store: Store, project_id: int, settings: dict[str, Any], name: str | None = None
) -> ProjectSettings:
    """Replaces a project's settings. Raises StoreError that names the first one that cannot be."""
    try:
        checked = ProjectSettings.model_validate(settings)
    except ValidationError as e:
        first = e.errors()[0]
        raise StoreError(f"{'.'.join(str(p) for p in first['loc']) or 'settings'}: {first['msg']}.") from e
    values: dict[str, Any] = {"settings": checked.model_dump(mode="json")}
    if name is not None and name.strip():
        values["name"] = schema.plain("the name", name.strip()[:200])
    with store.write() as conn:
        conn.execute(sa.update(project).where(project.c.id == project_id).values(**values))
    return checked


# People.


def roles_of(store: Store, account_id: int) -> dict[int, tuple[str, str]]:
    """Role and state by project, of one account."""
    with store.read() as conn:
        rows = conn.execute(sa.select(member).where(member.c.account_id == account_id))
        return {row.project_id: (row.role, row.state) for row in rows}


def members(store: Store, project_id: int) -> list[Member]:
    query = (
        sa.select(member, schema.account.c.email, schema.labeler.c.pseudonym)
        .join(schema.account, schema.account.c.id == member.c.account_id)
        .join(schema.labeler, schema.labeler.c.account_id == member.c.account_id)
        .where(member.c.project_id == project_id)
        .order_by(member.c.joined_at, member.c.account_id)
    )
    with store.read() as conn:
        return [Member(r.account_id, r.pseudonym, r.email, r.role, r.state) for r in conn.execute(query)]


def change_member(store: Store, project_id: int, account_id: int, **values: str) -> None:
    """Sets role or state of a member; answers stay whatever happens."""
    with store.write() as conn:
        done = conn.execute(
            sa.update(member)
            .where(member.c.project_id == project_id, member.c.account_id == account_id)
            .values(**values)
        )
        if not done.rowcount:
            raise StoreError("that person is not in this project.")


def add_member(store: Store, project_id: int, account_id: int, role: MemberRole) -> None:
    """Takes an account into a project, or changes its role there."""
    with store.write() as conn:
        _join(conn, project_id, account_id, role, store.now())


def _join(conn: Connection, project_id: int, account_id: int, role: str, at: str) -> None:
    key = {"project_id": project_id, "account_id": account_id}
    known = conn.execute(sa.select(member).filter_by(**key)).first()
    if known is None:
        conn.execute(sa.insert(member).values(**key, role=role, state="active", joined_at=at))
    else:
        conn.execute(sa.update(member).filter_by(**key).values(role=role, state="active"))


def invite(store: Store, project_id: int, role: MemberRole, *, seconds: float) -> str:
    """A link's token; whoever opens it first within the time joins in this role."""
    token = secrets.token_urlsafe(24)
    row = {"token_hash": token_hash(token), "project_id": project_id, "role": role}
    with store.write() as conn:
        conn.execute(sa.insert(desk_schema.invite).values(**row, expires_at=store.seconds() + seconds))
    return token


def look_up_invite(store: Store, token: str) -> tuple[int, str] | None:
    """Project and role of an invitation that still holds."""
    table = desk_schema.invite
    query = sa.select(table.c.project_id, table.c.role).where(
        table.c.token_hash == token_hash(token), table.c.used_at.is_(None), table.c.expires_at > store.seconds()
    )
    with store.read() as conn:
        row = conn.execute(query).first()
    return (row.project_id, row.role) if row else None


def accept_invite(
    store: Store,
    token: str,
    *,
    account_id: int | None = None,
    email: str = "",
    password_hash: str | None = None,
    oidc_subject: str | None = None,
) -> int:
    """Joins a project by an invitation, with an account that is there or a new one. Returns the account's number.

    One transaction: an invitation is never used up without its member, nor twice.
    """
    table = desk_schema.invite
    with store.write() as conn:
        row = conn.execute(sa.select(table).where(table.c.token_hash == token_hash(token))).first()
        if row is None or row.used_at is not None or row.expires_at <= store.seconds():
            raise StoreError("this invitation was used already or has run out. Ask for a new one.")
        at = store.now()
        number = account_id or create_within(conn, at, email, password_hash, oidc_subject, False)
        _join(conn, row.project_id, number, row.role, at)
        conn.execute(sa.update(table).where(table.c.token_hash == row.token_hash).values(used_at=at))
    return number


# Guidelines.


def publish_guideline(store: Store, project_id: int, text: str) -> Guideline:
    """A new version of a project's guideline. The same text again is the version that is there."""
    with store.write() as conn:
        found = _guidelines(conn, project_id)
        if found and found[0].text == text:
            return found[0]
        version = found[0].version + 1 if found else 1
        key = digest("guideline", project_id, version, text)
        conn.execute(sa.insert(schema.guideline).values(id=key, version=version, text=text))
        at = store.now()
        row = {"project_id": project_id, "version": version, "guideline_id": key, "published_at": at}
        conn.execute(sa.insert(desk_schema.project_guideline).values(**row))
    return Guideline(key, version, text, at)


def guidelines(store: Store, project_id: int) -> list[Guideline]:
    """All versions, newest first."""
    with store.read() as conn:
        return _guidelines(conn, project_id)


def _guidelines(conn: Connection, project_id: int) -> list[Guideline]:
    table = desk_schema.project_guideline
    query = (
        sa.select(table, schema.guideline.c.text)
        .join(schema.guideline, schema.guideline.c.id == table.c.guideline_id)
        .where(table.c.project_id == project_id)
        .order_by(table.c.version.desc())
    )
    return [Guideline(r.guideline_id, r.version, r.text, r.published_at) for r in conn.execute(query)]


def guideline(store: Store, project_id: int) -> Guideline | None:
    """The one in force."""
    found = guidelines(store, project_id)
    return found[0] if found else None
