"""Model endpoints of a project, and answers that they write live for people to judge."""

import secrets
from typing import Annotated, Any, Literal

from fastapi import Depends, Form, Path, Request, Response
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData, UploadFile

from tutelage.errors import DataError
from tutelage.label.access import OWNER, STAFF, Caller, Refused, Routes, caller
from tutelage.label.endpoints import MOST_TOKENS, Sampling, keep_endpoint, try_out, version_of
from tutelage.label.generate import MOST_PROMPTS, lines_as_prompts, order
from tutelage.label.render import go, page
from tutelage.store.access import note
from tutelage.store.prompts import get_prompts
from tutelage.store.sources import own_source
from tutelage.store.tasks import progress, prompts_of_source
from tutelage.store.tools import Endpoint, endpoints, find_endpoint, find_job, jobs, remove_endpoint, report_job
from tutelage.types import Prompt

routes = Routes()
Who = Annotated[Caller, Depends(caller)]
Line = Annotated[str, Form(max_length=400)]
Number = Annotated[int, Path(ge=1, le=2**31 - 1)]
STOP_ASKING = 286  # htmx: put this into the page, and do not ask again


@routes.on("GET", "/p/{slug}/models", STAFF)
def models(who: Who) -> Response:
    return _models(who)


def _models(who: Caller, *, told: str = "", why: str = "", status: int = 200) -> Response:
    listed = endpoints(who.store, who.project.id)
    sources = {p.source: len(prompts_of_source(who.store, who.project.id, p.source)) for p in _progress(who)}
    return page(
        who,
        "models.html",
        status=status,
        here="models",
        listed=[(e, version_of(e).id, _key_state(e)) for e in listed],
        sources=sources,
        jobs=_jobs(who),
        told=told,
        why=why,
        most_prompts=MOST_PROMPTS,
        most_tokens=MOST_TOKENS,
    )


def _progress(who: Caller) -> list[Any]:
    return progress(who.store, who.project.id)


def _key_state(endpoint: Endpoint) -> str:
    if endpoint.key_env:
        return f"in the variable {endpoint.key_env}"
    return "a key is kept" if endpoint.key_sealed else "none"


# Endpoints.


@routes.on("POST", "/p/{slug}/models", OWNER)
def add(who: Who, name: Line, url: Line, model: Line, key: Line = "", key_env: Line = "") -> Response:
    """Keeps an endpoint. Its key is sealed, and no page shows it again."""
    try:
        number = keep_endpoint(
            who.app, who.project.id, name=name, url=url, model=model, key=key.strip(), key_env=key_env.strip()
        )
    except DataError as e:
        return _models(who, why=str(e), status=422)
    note(who.store, "endpoint added", project_id=who.project.id, account_id=who.account.id, endpoint=number)
    return go(who.path("models"))


@routes.on("POST", "/p/{slug}/models/{number}/remove", OWNER)
def remove(who: Who, number: Number) -> Response:
    """Forgets an endpoint and its key; what it wrote stays."""
    if not remove_endpoint(who.store, who.project.id, number):
        raise Refused(404, "There is no such endpoint.")
    note(who.store, "endpoint removed", project_id=who.project.id, account_id=who.account.id, endpoint=number)
    return go(who.path("models"))


@routes.on("POST", "/p/{slug}/models/{number}/test", OWNER)
def test(who: Who, number: Number) -> Response:
    """One tiny call."""
    found = find_endpoint(who.store, who.project.id, number)
    if found is None:
        raise Refused(404, "There is no such endpoint.")
    who.app.chat_turns.take(who.labeler)
    try:
        return _models(who, told=try_out(who.app, found))
    except DataError as e:
        return _models(who, why=str(e), status=422)


# Generation.


@routes.on("POST", "/p/{slug}/models/generate", STAFF)
async def generate(who: Who, request: Request) -> Response:
    """Puts the job into the queue; the page shows how far it is."""
    form = await request.form(max_files=1, max_fields=60)
    try:
        file = form["file"] if "file" in form else None
        data = await file.read() if isinstance(file, UploadFile) and file.filename else b""
        return await run_in_threadpool(_order, who, form, data)
    finally:
        await form.close()


def _order(who: Caller, form: FormData, data: bytes) -> Response:
    try:
        kind = _text(form, "kind")
        if kind not in ("rank", "compare"):
            raise DataError("choose a ranking or a comparison.")
        number = order(
            who.app,
            who.project,
            _prompts(who, form, data),
            endpoint_ids=[_whole(str(value), "an endpoint") for value in form.getlist("endpoint")],
            n=_whole(_text(form, "n"), "the number of answers"),
            sampling=Sampling(
                temperature=_number(_text(form, "temperature"), "the temperature"),
                max_tokens=_whole(_text(form, "max_tokens"), "the number of tokens"),
            ),
            kind=kind,
            source=own_source(who.project, _text(form, "source") or "generated"),
            nonce=secrets.token_hex(8),
        )
    except DataError as e:
        return _models(who, why=str(e), status=422)
    note(who.store, "generation ordered", project_id=who.project.id, account_id=who.account.id, job=number)
    return go(who.path("models#jobs"))


def _text(form: FormData, name: str) -> str:
    if name not in form:
        raise Refused(422, f"The form lacks {name!r}. Reload the page.")
    return str(form[name]).strip()


def _number(text: str, what: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not -1e9 < value < 1e9:
        raise DataError(f"{what}: {text[:40]!r} is no number.")
    return value


def _whole(text: str, what: str) -> int:
    value = _number(text, what)
    if value != int(value):
        raise DataError(f"{what}: {text[:40]!r} is no whole number.")
    return int(value)


def _prompts(who: Caller, form: FormData, data: bytes) -> list[Prompt]:
    """Prompts of a source, of the box or of a file, whichever was chosen."""
    chosen: Literal["source", "lines"] = "source" if _text(form, "prompts_from") == "source" else "lines"
    if chosen == "source":
        source = _text(form, "prompt_source")
        if data or _text(form, "lines"):
            raise DataError("prompts were given, but those of a source are chosen. Choose the one or the other.")
        ids = prompts_of_source(who.store, who.project.id, source)
        if not ids:
            raise DataError(f"this project has no prompts of the source {source[:80]!r}. Choose another.")
        return get_prompts(who.store, ids)
    try:
        text = data.decode("utf-8-sig") if data else _text(form, "lines")
    except UnicodeDecodeError as e:
        raise DataError("the file is not UTF-8 text. Save it as plain text, one prompt a line.") from e
    found = lines_as_prompts(text, own_source(who.project, "prompts"))
    if not found:
        raise DataError("there is no prompt yet. Write one a line, choose a file, or take those of a source.")
    return found


@routes.on("GET", "/p/{slug}/models/jobs", STAFF)
def job_list(who: Who) -> Response:
    """The part that renews itself while something is at work."""
    found = _jobs(who)
    is_at_work = any(j.state in ("waiting", "running") for j in found)
    return page(who, "models_jobs.html", status=200 if is_at_work else STOP_ASKING, jobs=found)


def _jobs(who: Caller) -> list[Any]:
    return [j for j in jobs(who.store, who.project.id) if j.kind == "generate"]


@routes.on("POST", "/p/{slug}/models/jobs/{number}/again", STAFF)
def again(who: Who, number: Number) -> Response:
    """Takes up a job that failed, or that left prompts out; answers that are there are not paid for again."""
    found = find_job(who.store, who.project.id, number)
    if found is None or found.kind != "generate":
        raise Refused(404, "There is no such job.")
    if found.state not in ("failed", "done"):
        raise Refused(409, "This job is at work already.")
    report_job(who.store, number, state="waiting", result=None)
    note(who.store, "generation taken up", project_id=who.project.id, account_id=who.account.id, job=number)
    return go(who.path("models#jobs"))
