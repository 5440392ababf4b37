"""Projects and the people in them: making one, inviting, roles, pausing, removing, erasing; guidelines; settings."""

import difflib
from typing import Annotated, Literal

from fastapi import Depends, Form, Request, Response

from tutelage.label.access import MEMBERS, OWNER, SIGNED_IN, STAFF, Caller, Refused, Routes, caller
from tutelage.label.render import go, page
from tutelage.store.access import issue_token, note, revoke_token, tokens
from tutelage.store.accounts import close_sessions, erase_account, get_account
from tutelage.store.projects import (
    TASK_KINDS,
    MemberRole,
    change_member,
    change_settings,
    create_project,
    guidelines,
    invite,
    members,
    projects,
    publish_guideline,
    roles_of,
)

routes = Routes()
Who = Annotated[Caller, Depends(caller)]
Line = Annotated[str, Form(max_length=200)]
DAY = 86400.0
NUMBERS = ("steps", "overlap", "lease_minutes", "revise_minutes", "random_share", "gold_share", "repeat_share",
           "repeat_after_days", "break_minutes")  # fmt: skip
SWITCHES = ("blur_sensitive", "review_demonstrations")
HOME = {"labeller": "work", "reviewer": "work", "lead": "tasks", "owner": "tasks"}


@routes.on("GET", "/projects", SIGNED_IN)
def all_projects(who: Who) -> Response:
    """What this person takes part in; one project and nothing to choose leads straight there."""
    mine = roles_of(who.store, who.account.id)
    listed = [
        (p, "owner" if who.account.is_owner else mine[p.id][0])
        for p in projects(who.store)
        if who.account.is_owner or (p.id in mine and mine[p.id][1] == "active")
    ]
    if len(listed) == 1 and not who.account.is_owner:
        project, role = listed[0]
        return go(f"/p/{project.slug}/{HOME[role]}")
    return page(who, "projects.html", listed=listed, home=HOME)


@routes.on("POST", "/projects", OWNER)
def new_project(who: Who, name: Line) -> Response:
    made = create_project(who.store, name)
    note(who.store, "project made", project_id=made.id, account_id=who.account.id, slug=made.slug)
    return go(f"/p/{made.slug}/tasks")


async def form_of(request: Request) -> dict[str, str]:
    """All fields of a form, each once."""
    return {k: str(v) for k, v in (await request.form()).items()}


# People.


@routes.on("GET", "/p/{slug}/people", STAFF)
def people(who: Who) -> Response:
    return page(who, "people.html", here="people", members=members(who.store, who.project.id), link=None)


@routes.on("POST", "/p/{slug}/people/invite", STAFF)
def new_invite(who: Who, role: Annotated[MemberRole, Form()], days: Annotated[int, Form(ge=1, le=30)] = 7) -> Response:
    if role == "lead" and who.role != "owner":
        raise Refused(403, "Only an owner invites leads.")
    link = f"{who.app.config.address}/invite/{invite(who.store, who.project.id, role, seconds=days * DAY)}"
    note(who.store, "invited", project_id=who.project.id, account_id=who.account.id, role=role)
    listed = members(who.store, who.project.id)
    return page(who, "people.html", here="people", members=listed, link={"url": link, "role": role, "days": days})


@routes.on("POST", "/p/{slug}/people/{account_id}", STAFF)
def change_person(
    who: Who,
    account_id: int,
    state: Annotated[Literal["active", "paused", "removed"] | None, Form()] = None,
    role: Annotated[MemberRole | None, Form()] = None,
) -> Response:
    """A new state or role. What the person judged stays, whatever happens here."""
    known = {m.account_id: m for m in members(who.store, who.project.id)}
    if account_id not in known:
        raise Refused(404, "That person is not in this project.")
    if (role == "lead" or known[account_id].role == "lead") and who.role != "owner":
        raise Refused(403, "Only an owner changes leads.")
    values = {k: v for k, v in (("state", state), ("role", role)) if v is not None}
    if values:
        change_member(who.store, who.project.id, account_id, **values)
        note(who.store, "member changed", project_id=who.project.id, account_id=who.account.id, of=account_id, **values)
    return go(who.path("people"))


@routes.on("POST", "/p/{slug}/people/{account_id}/erase", OWNER)
def erase(who: Who, account_id: int, pseudonym: Line) -> Response:
    """Forgets who a person was. Her pseudonym must be typed, since nothing brings the link back."""
    known = {m.account_id: m for m in members(who.store, who.project.id)}
    if account_id not in known:
        raise Refused(404, "That person is not in this project.")
    if pseudonym.strip() != known[account_id].pseudonym or get_account(who.store, account_id).is_owner:
        raise Refused(422, "The pseudonym that was typed is not this person's, or the person owns the installation.")
    close_sessions(who.store, account_id)
    erase_account(who.store, account_id)
    note(who.store, "identity erased", project_id=who.project.id, account_id=who.account.id)
    return go(who.path("people"))


# Guidelines.


@routes.on("GET", "/p/{slug}/guidelines", MEMBERS)
def show_guidelines(who: Who, version: int = 0) -> Response:
    """The one in force, or an older one with what changed since."""
    found = guidelines(who.store, who.project.id)
    chosen = next((g for g in found if g.version == version), found[0] if found else None)
    changes = []
    if chosen and found and chosen.version != found[0].version:
        lines = difflib.unified_diff(chosen.text.splitlines(), found[0].text.splitlines(), lineterm="", n=2)
        changes = [line for line in lines if not line.startswith(("---", "+++", "@@"))]
    return page(who, "guidelines.html", here="guidelines", versions=found, chosen=chosen, changes=changes)


@routes.on("POST", "/p/{slug}/guidelines", STAFF)
def new_guideline(who: Who, text: Annotated[str, Form(min_length=1, max_length=100_000)]) -> Response:
    made = publish_guideline(who.store, who.project.id, text.replace("\r\n", "\n").strip())
    note(who.store, "guideline published", project_id=who.project.id, account_id=who.account.id, version=made.version)
    return go(who.path("guidelines"))


# Settings and tokens.


@routes.on("GET", "/p/{slug}/settings", STAFF)
def settings(who: Who) -> Response:
    return _settings(who, token=None)


def _settings(who: Caller, *, token: str | None) -> Response:
    return page(
        who,
        "settings.html",
        here="settings",
        settings=who.project.settings,
        tokens=tokens(who.store, who.project.id),
        token=token,
        now=who.store.seconds(),
    )


@routes.on("POST", "/p/{slug}/settings", STAFF)
def new_settings(who: Who, form: Annotated[dict[str, str], Depends(form_of)]) -> Response:
    """The whole form: numbers by name, lists as lines of `key: label`."""
    values = who.project.settings.model_dump(mode="json")
    for name in ("aspects", "flags"):
        values[name] = [_keyed(line) for line in _field(form, name).splitlines() if line.strip()]
    values["mix"] = {kind: _field(form, f"mix_{kind}") or 0 for kind in TASK_KINDS}
    for name in NUMBERS:
        values[name] = _field(form, name)
    for name in SWITCHES:
        values[name] = name in form
    change_settings(who.store, who.project.id, values, _field(form, "name"))
    note(who.store, "settings changed", project_id=who.project.id, account_id=who.account.id)
    return go(who.path("settings"))


def _field(form: dict[str, str], name: str) -> str:
    if name not in form:
        raise Refused(422, f"The form lacks {name!r}. Reload the page.")
    return form[name]


def _keyed(line: str) -> dict[str, str]:
    key, _, label = line.partition(":")
    return {"key": key.strip(), "label": label.strip() or key.strip()}


@routes.on("POST", "/p/{slug}/tokens", OWNER)
def new_token(
    who: Who, name: Line, scope: Annotated[Literal["read", "write"], Form()], days: Annotated[int, Form(ge=1, le=365)]
) -> Response:
    """Shows the token once, on this page and nowhere else."""
    made = issue_token(who.store, who.project.id, name or "unnamed", scope, seconds=days * DAY)
    note(who.store, "token issued", project_id=who.project.id, account_id=who.account.id, scope=scope)
    return _settings(who, token=made)


@routes.on("POST", "/p/{slug}/tokens/{token_id}/revoke", OWNER)
def end_token(who: Who, token_id: str) -> Response:
    if not revoke_token(who.store, who.project.id, token_id):
        raise Refused(404, "There is no such token.")
    note(who.store, "token revoked", project_id=who.project.id, account_id=who.account.id)
    return go(who.path("settings"))
