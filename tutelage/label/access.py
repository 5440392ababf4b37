"""Who may do what: every route says whom it is for, and nothing is reached without passing here.

A route that says nothing is a mistake that ends the start of the app. Whatever a person may not see is not found (404);
what she may see but not do is forbidden (403).
"""

import hmac
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, get_args
from urllib.parse import urlsplit

from fastapi import APIRouter, Depends, FastAPI, Request
from starlette.routing import Route

from tutelage.label.config import LabelConfig
from tutelage.label.keys import Keys
from tutelage.label.lane import beside_the_loop, quickly
from tutelage.label.limits import RateLimit
from tutelage.store.access import Scope, look_up_token
from tutelage.store.accounts import Account
from tutelage.store.db import Store
from tutelage.store.projects import Project, Role, projects
from tutelage.store.visits import Visit, visit

Needs = frozenset[str]
ROLES: tuple[Role, ...] = get_args(Role)

PUBLIC: Needs = frozenset({"anyone"})
SIGNED_IN: Needs = frozenset({"signed-in"})
OWNER: Needs = frozenset({"owner"})
STAFF: Needs = frozenset({"owner", "lead"})
REVIEWERS: Needs = frozenset({"owner", "lead", "reviewer"})
MEMBERS: Needs = frozenset(ROLES)
TOKEN_READ: Needs = frozenset({"token:read", "token:write"})
TOKEN_WRITE: Needs = frozenset({"token:write"})

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


class Refused(Exception):
    """A request that is not served: its status, and what to tell the person."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status, self.why = status, why


class MustSignIn(Exception):
    """A page that is for somebody; the person has not said who she is."""


@dataclass(frozen=True, slots=True)
class App:
    """What every request needs."""

    store: Store
    config: LabelConfig
    keys: Keys
    sign_ins: RateLimit
    api_calls: RateLimit
    chat_turns: RateLimit = field(default_factory=lambda: RateLimit(20, 3.0))  # each is a call that somebody pays
    stopping: threading.Event = field(default_factory=threading.Event)  # set while the server stops

    @property
    def cookie(self) -> str:
        return "__Host-tutelage" if self.config.is_secure else "tutelage"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks, and for what. A route that is for members has an account, a project and a role."""

    app: App
    request: Request
    session: str = ""
    account_or_none: Account | None = None
    project_or_none: Project | None = None
    role: Role | None = None
    scope: Scope | None = None

    @property
    def store(self) -> Store:
        return self.app.store

    @property
    def account(self) -> Account:
        assert self.account_or_none is not None, "only routes that need a session ask for its account"
        return self.account_or_none

    @property
    def project(self) -> Project:
        assert self.project_or_none is not None, "only routes below a project ask for it"
        return self.project_or_none

    @property
    def labeler(self) -> str:
        return self.account.pseudonym

    @property
    def form_mark(self) -> str:
        return self.app.keys.form_mark(self.session) if self.session else ""

    def path(self, rest: str = "") -> str:
        """The address of something in this project."""
        return f"/p/{self.project.slug}/{rest}"


Handler = Callable[..., Any]
Method = Literal["GET", "POST", "PUT", "DELETE"]


class Routes:
    """The routes of one file of pages, each with whom it is for."""

    def __init__(self) -> None:
        self.listed: list[tuple[Method, str, Needs, Handler]] = []

    def on(self, method: Method, path: str, needs: Needs, *, is_quick: bool = False) -> Callable[[Handler], Handler]:
        """is_quick  a few looks at the store and an answer in JSON: it waits for nothing that takes long"""

        def listed(handler: Handler) -> Handler:
            self.listed.append((method, path, needs, beside_the_loop(handler) if is_quick else handler))
            return handler

        return listed

    def mount(self, router: APIRouter) -> dict[tuple[str, str], Needs]:
        """Adds them; whom each method and path is for."""
        for method, path, needs, handler in self.listed:
            router.add_api_route(
                path,
                handler,
                methods=[method],
                dependencies=[Depends(_guard(needs))],
                openapi_extra={"x-needs": sorted(needs)},
                include_in_schema=path.startswith("/api/"),
                response_model=None,
            )
        return {(method, path): needs for method, path, needs, _ in self.listed}


def check_every_route(app: FastAPI) -> None:
    """Raises AssertionError for a route that was not registered with whom it is for."""
    for route in app.routes:
        if isinstance(route, Route):
            for method in (route.methods or set()) - {"HEAD"}:
                assert (method, route.path) in app.state.needs, f"{method} {route.path} says nothing of whom it is for"


def _guard(needs: Needs) -> Callable[[Request], Any]:
    is_api = any(n.startswith("token:") for n in needs)

    async def guard(request: Request) -> None:
        app: App = request.app.state.label
        mark = await _form_mark(request) if request.method not in SAFE_METHODS and not is_api else ""
        identify = _by_token if is_api else _by_session
        try:
            request.state.caller = await quickly(identify, app, request, needs, mark)
        except BaseException:
            await request.close()  # the files of a form that is not served
            raise

    return guard


async def caller(request: Request) -> Caller:
    """The caller of a route, for its handler. The guard has put it there."""
    found: Caller = request.state.caller
    return found


async def _form_mark(request: Request) -> str:
    if "x-form-mark" in request.headers:
        return request.headers["x-form-mark"]
    kind = request.headers["content-type"] if "content-type" in request.headers else ""
    if kind.startswith(("application/x-www-form-urlencoded", "multipart/form-data")):
        form = await request.form()
        return str(form["form_mark"]) if "form_mark" in form else ""
    return ""


def _by_session(app: App, request: Request, needs: Needs, mark: str) -> Caller:
    cookies, params = request.cookies, request.path_params
    token = cookies[app.cookie] if app.cookie in cookies else ""
    found = visit(app.store, token, params["slug"] if "slug" in params else None)
    account = found.account
    who = Caller(app, request, token if account else "", account)
    if request.method not in SAFE_METHODS:
        _check_origin(app, request)
        if account is not None and not hmac.compare_digest(mark.encode(), who.form_mark.encode()):
            raise Refused(403, "This form is from another session. Go back, reload the page, and send it again.")
    if needs == PUBLIC:
        return who
    if account is None:
        raise MustSignIn
    if needs == SIGNED_IN:
        return who
    if "slug" not in params:  # of the installation
        if not account.is_owner:
            raise Refused(403, "Only an owner of this installation can do this.")
        return Caller(app, request, token, account, None, "owner")
    return _in_project(app, request, needs, who, found)


def _in_project(app: App, request: Request, needs: Needs, who: Caller, seen: Visit) -> Caller:
    project = seen.project
    if project is None:
        raise Refused(404, "There is no such project.")
    found = ("owner", "active") if who.account.is_owner else seen.role
    if found is None or found[1] == "removed":
        raise Refused(404, "There is no such project.")
    role, state = found
    if state == "paused":
        raise Refused(403, "Your work in this project is paused. Your answers are kept; ask the project's lead.")
    if role not in needs:
        raise Refused(403, "Your role in this project does not allow this.")
    assert role in ROLES, f"{role!r} is no role"
    return Caller(app, request, who.session, who.account, project, role)


def _check_origin(app: App, request: Request) -> None:
    """Refuses what another site sends. Browsers say where a request comes from; programs use the API and a token."""
    site = request.headers["sec-fetch-site"] if "sec-fetch-site" in request.headers else ""
    origin = request.headers["origin"] if "origin" in request.headers else ""
    if site:
        is_ours = site in ("same-origin", "none")
    else:
        is_ours = bool(origin) and urlsplit(origin).netloc == (
            request.headers["host"] if "host" in request.headers else ""
        )
    if not is_ours:
        raise Refused(403, "This request came from another site and was refused.")


def _by_token(app: App, request: Request, needs: Needs, mark: str) -> Caller:
    head = request.headers["authorization"] if "authorization" in request.headers else ""
    kind, _, given = head.partition(" ")
    if kind.lower() != "bearer" or not given:
        raise Refused(401, "This address needs an API token: Authorization: Bearer tut_….")
    app.api_calls.take(given[:16])
    found = look_up_token(app.store, given)
    if found is None:
        raise Refused(401, "This token is unknown, was revoked, or has run out. Ask the project's owner for a new one.")
    project_id, scope = found
    if f"token:{scope}" not in needs:
        raise Refused(403, "This token may only read.")
    project = next(p for p in projects(app.store) if p.id == project_id)
    if "slug" in request.path_params and request.path_params["slug"] != project.slug:
        raise Refused(404, "There is no such project.")
    return Caller(app, request, project_or_none=project, scope=scope)
