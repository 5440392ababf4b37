"""Builds the app: middleware, routes, what an error looks like.

`create_app` knows every page; no page knows another.
"""

import functools
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, RedirectResponse
from starlette.routing import BaseRoute, Mount
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tutelage.errors import BusyError, ConflictError, DiskError, TutelageError
from tutelage.label.access import App, Caller, MustSignIn, Needs, Refused, check_every_route
from tutelage.label.config import LabelConfig
from tutelage.label.keys import Keys
from tutelage.label.limits import BodyLimit, RateLimit, TooMany
from tutelage.label.pages import ROUTES
from tutelage.label.render import HERE, page
from tutelage.label.worker import Worker
from tutelage.store.accounts import OWNER_LINK, has_owner, set_setting, token_hash
from tutelage.store.db import Store

SMALL = 1 << 20  # bytes of an ordinary body
UPLOADS = ("/tasks/upload", "/api/v1/tasks", "/api/v1/candidates")

CSP = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "font-src 'self'",
        "connect-src 'self'",
        "form-action 'self'",
        "frame-ancestors 'none'",
        "base-uri 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types default",
    )
)
HEADERS = {
    "Content-Security-Policy": CSP,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=(), payment=(), usb=()",
}


def create_app(config: LabelConfig, store: Store) -> FastAPI:
    """The app over an open store. Its secrets are made in `config.data` when they are not there."""
    label = App(store, config, Keys(config.data), RateLimit(10, 6.0), RateLimit(600, 0.02))

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        worker = Worker(label)
        worker.start()
        try:
            yield
        finally:
            worker.stop()

    app = FastAPI(title="tutelage", docs_url=None, redoc_url=None, openapi_url=None, lifespan=life)
    made, needs = _routes()
    app.state.label, app.state.needs = label, dict(needs)
    app.router.routes.extend(made)
    check_every_route(app)
    app.router.routes.append(Mount("/static", StaticFiles(directory=HERE / "static"), name="static"))
    app.add_middleware(BodyLimit, most=SMALL, uploads=config.max_upload_mb << 20, upload_paths=UPLOADS)
    app.add_middleware(Headers, is_secure=config.is_secure)  # the outermost: on refusals, too
    _errors(app)
    return app


@functools.cache
def _routes() -> tuple[list[BaseRoute], dict[tuple[str, str], Needs]]:
    """Every route, and whom it is for: the same for each app, since what they need is the request's own app's."""
    router, needs = APIRouter(), dict[tuple[str, str], Needs]()
    for routes in ROUTES:
        needs |= routes.mount(router)
    return router.routes, needs


def owner_link(label: App) -> str | None:
    """A fresh one-time link for the first owner; None once there is one. An older link no longer works."""
    if has_owner(label.store):
        return None
    token = secrets.token_urlsafe(24)
    set_setting(label.store, OWNER_LINK, token_hash(token))
    return f"{label.config.address}/setup?token={token}"


def safe_headers(is_secure: bool) -> dict[str, str]:
    return {**HEADERS, **({"Strict-Transport-Security": "max-age=31536000"} if is_secure else {})}


class Headers:
    """Puts the headers that keep pages safe on every answer, errors included."""

    def __init__(self, app: ASGIApp, *, is_secure: bool) -> None:
        self.app = app
        self._fixed = [(k.lower().encode(), v.encode()) for k, v in safe_headers(is_secure).items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        # Static files are asked for again, and answered 304 while they are the same.
        keep = b"no-cache" if scope["path"].startswith("/static/") else b"no-store"

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *self._fixed, (b"cache-control", keep)]
            await send(message)

        await self.app(scope, receive, with_headers)


def _wants_json(request: Request) -> bool:
    accept = request.headers["accept"] if "accept" in request.headers else ""
    return request.url.path.startswith("/api/") or "application/json" in accept


def _say(request: Request, status: int, why: str, headers: dict[str, str] | None = None) -> Response:
    if _wants_json(request):
        return JSONResponse({"error": why}, status_code=status, headers=headers)
    who = getattr(request.state, "caller", None) or Caller(request.app.state.label, request)
    response = page(who, "error.html", status=status, why=why, code=status)
    response.headers.update(headers or {})
    return response


def _errors(app: FastAPI) -> None:
    """One clear message for whatever a person can cause; what is ours is logged by the server and answered 500."""

    @app.exception_handler(MustSignIn)
    async def sign_in(request: Request, _: MustSignIn) -> Response:
        if _wants_json(request) or request.method != "GET":
            return _say(request, 401, "You are not signed in, or were signed out. Sign in and try again.")
        return RedirectResponse("/sign-in", status_code=303)

    @app.exception_handler(Refused)
    async def refused(request: Request, e: Refused) -> Response:
        return _say(request, e.status, e.why)

    @app.exception_handler(TooMany)
    async def too_many(request: Request, e: TooMany) -> Response:
        return _say(
            request, 429, f"Too many attempts. Try again in {e.seconds} seconds.", {"Retry-After": str(e.seconds)}
        )

    @app.exception_handler(TutelageError)
    async def ours(request: Request, e: TutelageError) -> Response:
        # What passes by itself or by the operator's hand is 503: the browser keeps the answer and sends it again.
        status = 409 if isinstance(e, ConflictError) else 503 if isinstance(e, BusyError | DiskError) else 422
        return _say(request, status, str(e))

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, e: RequestValidationError) -> Response:
        first = e.errors()[0]
        where = ".".join(str(part) for part in first["loc"][1:]) or "the request"
        return _say(request, 422, f"{where}: {first['msg']}.")

    @app.exception_handler(HTTPException)
    async def plain(request: Request, e: HTTPException) -> Response:
        why = {404: "There is nothing here.", 405: "This address does not take that."}
        return _say(request, e.status_code, why[e.status_code] if e.status_code in why else str(e.detail))

    @app.exception_handler(Exception)
    async def crashed(request: Request, _: Exception) -> Response:
        # Answered outside of `Headers`; the error itself goes on to the server's log.
        response = _say(request, 500, "Something went wrong here. The server's log says what; try again.")
        response.headers.update(safe_headers(request.app.state.label.config.is_secure))
        response.headers["Cache-Control"] = "no-store"
        return response
