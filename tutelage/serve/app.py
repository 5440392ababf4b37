"""The routes: models, chat completions whole or as a stream, thumbs. Each checks, calls one function, and answers.

A browser is no client here: a request that a page sent (it carries an Origin), or that names another host than this
one, is refused, so that no web site can talk to a model on this machine.
"""

import asyncio
import contextlib
import hmac
import json
import threading
import time
import uuid
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any, TypeVar

import anyio
from fastapi import FastAPI, Request, Response
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, StreamingResponse

from tutelage.engine.scheduler import Running
from tutelage.errors import TutelageError
from tutelage.serve import wire
from tutelage.serve.config import LOOPBACK, ServeConfig
from tutelage.serve.memory import Memory
from tutelage.serve.voice import Asked, Spelling, Voice
from tutelage.serve.wire import ChatRequest, FeedbackRequest
from tutelage.types import Completion

M = TypeVar("M", bound=BaseModel)


class Refusal(Exception):
    """A request that is not served: its status and why."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status, self.why = status, why


class Gone(Exception):
    """Nobody listens any more."""


class Desk:
    """What every request shares: the model, the memory, and how many may wait."""

    def __init__(self, config: ServeConfig, voice: Voice, memory: Memory | None) -> None:
        self.config, self.voice, self.memory = config, voice, memory
        self.started = int(time.time())
        self.n_here = 0  # requests in work or waiting; touched by the event loop alone
        self.tokenisers = threading.Semaphore(2)  # of threads: one that hangs keeps its place, whoever gave up on it
        self.speakers = anyio.CapacityLimiter(config.waiting)

    @contextlib.contextmanager
    def place(self) -> Iterator[None]:
        """One of those who are here."""
        self.n_here += 1
        try:
            yield
        finally:
            self.n_here -= 1

    def check(self, request: Request) -> None:
        """Raises Refusal for who may not ask."""
        headers = request.headers
        if "origin" in headers or ("sec-fetch-site" in headers and headers["sec-fetch-site"] != "none"):
            raise Refusal(403, "this server speaks with programs, not with pages of a browser.")
        host = (request.url.hostname or "").strip("[]")
        if self.config.is_local and host not in LOOPBACK:
            raise Refusal(403, f"this server is at {self.config.host}, and was asked as {host[:80]!r}.")
        if self.config.key:
            kind, _, given = (headers["authorization"] if "authorization" in headers else "").partition(" ")
            if kind.lower() != "bearer" or not hmac.compare_digest(given.encode(), self.config.key.encode()):
                raise Refusal(401, "this server needs its key: Authorization: Bearer ….")

    async def read(self, request: Request, shape: type[M]) -> M:
        """The body of a request, checked. What is too long is refused before it is read whole."""
        kind = request.headers["content-type"] if "content-type" in request.headers else ""
        if kind.partition(";")[0].strip().lower() != "application/json":
            raise Refusal(415, "the body must be JSON: Content-Type: application/json.")
        body, most = b"", self.config.max_body_kb << 10
        async for part in request.stream():
            body += part
            if len(body) > most:
                raise Refusal(413, f"the body is longer than {self.config.max_body_kb} KiB.")
        try:
            return shape.model_validate_json(body)
        except ValidationError as e:
            first = e.errors(include_url=False, include_input=False)[0]
            where = ".".join(str(part) for part in first["loc"]) or "the body"
            raise Refusal(400, f"{where}: {first['msg']}.") from e

    async def understand(self, given: ChatRequest) -> Asked:
        """Raises Refusal for what cannot be served, and when the prompt does not become tokens in time."""
        voice, config = self.voice, self.config
        if given.model not in (voice.name, voice.version):
            raise Refusal(404, f"there is no model {given.model[:80]!r} here; this is {voice.name!r}.")
        wanted = given.wanted_tokens
        if wanted is not None and wanted > config.max_tokens:
            raise Refusal(400, f"max_tokens = {wanted}, but this server writes at most {config.max_tokens}.")
        if given.n > config.max_n:
            raise Refusal(400, f"n = {given.n}, but this server gives at most {config.max_n} answers to a request.")

        def understood() -> Asked | None:
            if not self.tokenisers.acquire(timeout=config.tokenise_s):
                return None
            try:
                return voice.understand(
                    [line.message() for line in given.messages],
                    n=given.n,
                    most=wanted or config.max_tokens,
                    temperature=1.0 if given.temperature is None else given.temperature,
                    top_p=given.top_p or 1.0,
                    seed=given.seed,
                )
            finally:
                self.tokenisers.release()

        with anyio.move_on_after(config.tokenise_s):
            asked = await anyio.to_thread.run_sync(understood, abandon_on_cancel=True)
            if asked is not None:
                return asked
        raise Refusal(503, f"the prompt did not become tokens within {config.tokenise_s:g} s. Shorten it.")

    def speak(self, asked: Asked, gone: threading.Event, step: Any = None) -> list[Completion]:
        """The answers, remembered where there is a store. Raises Gone when nobody listens any more."""

        def heard(running: Sequence[Running]) -> None:
            if gone.is_set():
                raise Gone
            if step:
                step(running)

        written = self.voice.speak(asked, heard)
        if self.memory:
            self.memory.keep(asked, written)
        return written


def create_app(config: ServeConfig, voice: Voice, memory: Memory | None = None) -> FastAPI:
    app = FastAPI(title="tutelage serve", docs_url=None, redoc_url=None, openapi_url=None)
    desk = Desk(config, voice, memory)

    @app.get("/health")
    async def health() -> dict[str, bool]:
        return {"ok": True}

    @app.get("/v1/models")
    async def models(request: Request) -> dict[str, Any]:
        desk.check(request)
        row = {"id": voice.name, "object": "model", "created": desk.started, "owned_by": "tutelage"}
        return {"object": "list", "data": [{**row, "version": voice.version}]}

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        desk.check(request)
        given = await desk.read(request, ChatRequest)
        if desk.n_here >= config.waiting:
            raise Refusal(429, f"{desk.n_here} requests wait already. Come back in a second.")
        with desk.place():
            asked = await desk.understand(given)
            if not given.stream:
                return JSONResponse(await _whole(desk, asked))
        events = _events(desk, asked, given)
        return StreamingResponse(events, media_type="text/event-stream", headers={"cache-control": "no-cache"})

    @app.post("/v1/feedback")
    async def feedback(request: Request) -> dict[str, Any]:
        desk.check(request)
        given = await desk.read(request, FeedbackRequest)
        if memory is None:
            raise Refusal(404, "nothing is kept here: start the server with --store.")
        stored = await anyio.to_thread.run_sync(memory.thumb, given)
        return {"object": "feedback", "seq": stored.seq, "model": voice.version}

    _errors(app)
    return app


async def _whole(desk: Desk, asked: Asked) -> dict[str, Any]:
    gone = threading.Event()
    try:
        written = await anyio.to_thread.run_sync(desk.speak, asked, gone, limiter=desk.speakers, abandon_on_cancel=True)
    except asyncio.CancelledError:
        gone.set()
        raise
    tokens = sum(len(c.token_ids or ()) for c in written)
    answers = [(c.text, c.finish_reason or "stop", c.id) for c in written]
    number = uuid.uuid4().hex
    return wire.completion(number, int(time.time()), desk.voice.version, answers, len(asked.prompt_ids), tokens)


async def _events(desk: Desk, asked: Asked, given: ChatRequest) -> AsyncIterator[str]:
    """Server-sent events: who speaks, then words as they come, then why each answer ended."""
    loop, came, gone = asyncio.get_running_loop(), asyncio.Queue[list[tuple[int, str]] | None](), threading.Event()
    number, created, n = uuid.uuid4().hex, int(time.time()), len(asked.seeds)
    spelling = Spelling(desk.voice.chat, n)

    def event(i: int, delta: dict[str, str], *more: Any) -> str:
        return _data(wire.piece(number, created, desk.voice.version, i, delta, *more))

    def step(running: Sequence[Running]) -> None:
        words = [(r.i_sample, spelling.grown(r.i_sample, r.token_ids)) for r in running]
        loop.call_soon_threadsafe(came.put_nowait, words)

    def spoken() -> list[Completion]:
        try:
            return desk.speak(asked, gone, step)
        finally:
            loop.call_soon_threadsafe(came.put_nowait, None)

    with desk.place():
        work = asyncio.ensure_future(anyio.to_thread.run_sync(spoken, limiter=desk.speakers, abandon_on_cancel=True))
        try:
            for i in range(n):
                yield event(i, {"role": "assistant", "content": ""})
            while (words := await came.get()) is not None:
                for i, new in words:
                    if new:
                        yield event(i, {"content": new})
            written = await work
            for i, c in enumerate(written):
                if last := spelling.rest(i, c.text):
                    yield event(i, {"content": last})
                yield event(i, {}, c.finish_reason, c.id)
            if given.stream_options == {"include_usage": True}:
                tokens = sum(len(c.token_ids or ()) for c in written)
                total = wire.completion(number, created, desk.voice.version, [], len(asked.prompt_ids), tokens)
                yield _data({**total, "object": "chat.completion.chunk"})
            yield "data: [DONE]\n\n"
        except TutelageError as e:
            yield _data(wire.error(str(e), "server_error"))
        finally:
            gone.set()
            work.cancel()


def _data(value: dict[str, Any]) -> str:
    return f"data: {json.dumps(value)}\n\n"


def _errors(app: FastAPI) -> None:
    @app.exception_handler(Refusal)
    async def refused(request: Request, e: Refusal) -> Response:
        kind = "invalid_request_error" if e.status < 500 and e.status != 429 else "server_error"
        headers = {"Retry-After": "1"} if e.status in (429, 503) else None
        return JSONResponse(wire.error(e.why, kind), status_code=e.status, headers=headers)

    @app.exception_handler(TutelageError)
    async def ours(request: Request, e: TutelageError) -> Response:
        return JSONResponse(wire.error(str(e), "invalid_request_error"), status_code=400)

    @app.exception_handler(HTTPException)
    async def plain(request: Request, e: HTTPException) -> Response:
        return JSONResponse(wire.error(str(e.detail), "invalid_request_error"), status_code=e.status_code)
