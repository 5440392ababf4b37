"""What lies on the desk: the list, one task with its answers, closing and opening, checks, files that bring more."""

from typing import Annotated, Any, Literal, get_args

from fastapi import Depends, Form, Path, Query, Request, Response
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData, UploadFile

from tutelage.errors import DataError
from tutelage.label.access import STAFF, Caller, Refused, Routes, caller
from tutelage.label.file_jobs import Order, last_job, order, report_of, told
from tutelage.label.intake import take_upload
from tutelage.label.render import go, page
from tutelage.label.uploads import (
    FORMATS,
    Upload,
    What,
    drop_upload,
    find_upload,
    is_large,
    keep_upload,
    plain_name,
    read_kept,
    stem,
)
from tutelage.store import assignments
from tutelage.store.access import note
from tutelage.store.assignments import Held
from tutelage.store.choices import choice_counts
from tutelage.store.completions import get_completions
from tutelage.store.projects import TASK_KINDS, TaskKind
from tutelage.store.prompts import get_prompt, get_prompts
from tutelage.store.sources import own_source
from tutelage.store.tasks import NewTask, Task, add_tasks, close_tasks, get_task, list_tasks, progress
from tutelage.store.tools import Job
from tutelage.types import LabelerKind

routes = Routes()
Who = Annotated[Caller, Depends(caller)]
Number = Annotated[int, Path(ge=1, le=2**31 - 1)]
Token = Annotated[str, Path(pattern=r"^[0-9a-f]{32}$")]
KindFilter = Literal["any", "rank", "compare", "demonstrate", "correct", "critique", "chat"]
Show = Literal["all", "open", "closed", "checks"]
BY: dict[str, LabelerKind] = {"people": "import", "model": "model"}
PER_PAGE = 50


# The list.


@routes.on("GET", "/p/{slug}/tasks", STAFF)
def tasks(
    who: Who,
    before: Annotated[int | None, Query(ge=1, le=2**31 - 1)] = None,
    kind: KindFilter = "any",
    show: Show = "all",
) -> Response:
    """Newest first, a page at a time."""
    wanted: TaskKind | None = None if kind == "any" else kind
    found = list_tasks(who.store, who.project.id, before=before, kind=wanted, show=show, limit=PER_PAGE + 1)
    rows = found[:PER_PAGE]
    prompts = {p.id: p for p in get_prompts(who.store, {t.prompt_id for t, _ in rows})}
    return page(
        who,
        "tasks.html",
        here="tasks",
        rows=[(t, n, prompts[t.prompt_id].messages[-1].content) for t, n in rows],
        more=rows[-1][0].id if len(found) > PER_PAGE else None,
        kind=kind,
        show=show,
        kinds=TASK_KINDS,
        is_first=before is None,
    )


@routes.on("GET", "/p/{slug}/tasks/progress", STAFF)
def how_far(who: Who) -> Response:
    """The part of the list that counts every task: it comes after the rest of the page."""
    return page(
        who,
        "tasks_progress.html",
        here="tasks",
        progress=progress(who.store, who.project.id),
        chosen=choice_counts(who.store, who.project.id),
    )


@routes.on("POST", "/p/{slug}/tasks/state", STAFF)
def change_state(
    who: Who,
    state: Annotated[Literal["open", "closed"], Form()],
    task: Annotated[list[int] | None, Form(max_length=PER_PAGE)] = None,
) -> Response:
    """Closes or opens the tasks that were ticked."""
    if not task:
        raise Refused(422, "No task was ticked. Go back and tick some.")
    if any(not 1 <= n < 2**31 for n in task):
        raise Refused(422, "There is no task of that number.")
    n = close_tasks(who.store, who.project.id, task, state=state)
    note(who.store, f"tasks {state}", project_id=who.project.id, account_id=who.account.id, tasks=n)
    return go(who.path("tasks"))


# Files.


@routes.on("GET", "/p/{slug}/tasks/upload", STAFF)
def upload_form(who: Who) -> Response:
    return _upload_page(who)


def _upload_page(who: Caller, status: int = 200, **values: Any) -> Response:
    shown = {"why": "", "report": None, "token": "", "upload": None, "stored": False, "job": None} | values
    most = who.app.config.max_upload_mb
    return page(who, "tasks_upload.html", status=status, here="tasks", formats=FORMATS, most_mb=most, **shown)


@routes.on("POST", "/p/{slug}/tasks/upload", STAFF)
async def upload(who: Who, request: Request) -> Response:
    """Reads a file and says what would become of each row; nothing is stored yet."""
    form = await request.form(max_files=1, max_fields=20)
    try:
        return await run_in_threadpool(_read, who, form)
    finally:
        await form.close()


def _read(who: Caller, form: FormData) -> Response:
    file = form["file"] if "file" in form else None
    if not isinstance(file, UploadFile) or not file.filename:
        return _upload_page(who, 422, why="No file was chosen. Choose one.")
    what, format, by = (_chosen(form, *known) for known in (
        ("what", get_args(What)), ("format", FORMATS), ("by", tuple(BY)),
    ))  # fmt: skip
    name = plain_name(file.filename)
    named = str(form["source"]).strip() if "source" in form else ""
    data = who.app.config.data
    try:
        asked = Upload(
            project_id=who.project.id,
            account_id=who.account.id,
            what=what,
            format=format,
            source=own_source(who.project, named or stem(name)),
            by=BY[by],
            name=name,
        )
        token = keep_upload(data, file.file, asked)
        if is_large(data, token):
            order(who.app, who.project, Order(token=token, account=who.account.id, step="look"))
            return go(who.path(f"tasks/upload/{token}"))
        read_kept(data, token, asked)
    except DataError as e:
        return _upload_page(who, 422, why=str(e))
    try:
        report = take_upload(who.store, who.project, data, token, asked, dry_run=True)
    except DataError as e:
        drop_upload(data, token)
        return _upload_page(who, 422, why=str(e))
    return _upload_page(who, report=report, token=token, upload=asked)


def _chosen(form: FormData, name: str, known: tuple[str, ...]) -> Any:
    """One of a closed set; the first where the form says nothing."""
    found = str(form[name]) if name in form else known[0]
    if found not in known:
        raise Refused(422, f"{name}: {found[:40]!r} is none of {', '.join(known)}.")
    return found


@routes.on("POST", "/p/{slug}/tasks/upload/{token}/take", STAFF)
def take(who: Who, token: Token, rows: Annotated[Literal["good", "all"], Form()]) -> Response:
    """Stores the rows of a file that was read: the good ones, or all or nothing."""
    asked, data = _own_upload(who, token), who.app.config.data
    if is_large(data, token):
        wanted = Order(token=token, account=who.account.id, step="take", strict=rows == "all")
        order(who.app, who.project, wanted)
        return go(who.path(f"tasks/upload/{token}"))
    try:
        report = take_upload(who.store, who.project, data, token, asked, dry_run=False, strict=rows == "all")
    except DataError as e:
        return _upload_page(who, 422, why=str(e))
    drop_upload(data, token)
    told(who.app, who.project, who.account.id, asked, report)
    return _upload_page(who, report=report, upload=asked, stored=True)


@routes.on("GET", "/p/{slug}/tasks/upload/{token}", STAFF)
def large_upload(who: Who, token: Token) -> Response:
    """A large file on its way: how far it is, then what would become of it, then what became of it."""
    job = _job_of(who, token)
    if job.state == "failed":
        assert job.result is not None, "a job that failed says why"
        return _upload_page(who, why=job.result["error"])
    asked = _own_upload(who, token)
    if job.state != "done":
        return _upload_page(who, job=job, token=token, upload=asked)
    is_taken = job.request["step"] == "take"
    return _upload_page(who, report=report_of(job), token=token, upload=asked, stored=is_taken)


@routes.on("GET", "/p/{slug}/tasks/upload/{token}/progress", STAFF)
def upload_progress(who: Who, token: Token) -> Response:
    """The part that renews itself; once the job has ended, the browser is told to look at the page again."""
    job = _job_of(who, token)
    shown = page(who, "tasks_upload_progress.html", job=job, token=token)
    if job.state in ("done", "failed"):
        shown.headers["HX-Refresh"] = "true"
    return shown


def _job_of(who: Caller, token: str) -> Job:
    job = last_job(who.app, who.project.id, token)
    if job is None or job.request["account"] != who.account.id:
        raise Refused(404, "This file was taken or dropped already, or an hour has passed. Upload it again.")
    return job


@routes.on("POST", "/p/{slug}/tasks/upload/{token}/drop", STAFF)
def drop(who: Who, token: Token) -> Response:
    """Forgets a file that was read."""
    _own_upload(who, token)
    drop_upload(who.app.config.data, token)
    return go(who.path("tasks/upload"))


def _own_upload(who: Caller, token: str) -> Upload:
    found = find_upload(who.app.config.data, who.project.id, who.account.id, token)
    if found is None:
        raise Refused(404, "This file was taken or dropped already, or an hour has passed. Upload it again.")
    return found


# One task.


@routes.on("GET", "/p/{slug}/tasks/{number}", STAFF)
def one_task(who: Who, number: Number) -> Response:
    found = _task(who, number)
    completions = get_completions(who.store, found.completions)
    answers = [_answer(who, held) for held in assignments.answers_to(who.store, found.id)]
    return page(
        who,
        "tasks_one.html",
        here="tasks",
        task=found,
        prompt=get_prompt(who.store, found.prompt_id),
        completions=completions,
        answers=answers,
        can_check=found.kind in ("rank", "compare") and found.gold is None,
    )


def _task(who: Caller, number: int) -> Task:
    found = get_task(who.store, who.project.id, number)
    if found is None:
        raise Refused(404, "There is no such task.")
    return found


def _answer(who: Caller, held: Held) -> dict[str, Any]:
    """Who said what: the place of each completion, and in words what else was said."""
    tier_of: dict[str, int] = {}
    said: list[str] = []
    seconds = 0.0
    for stored in assignments.says_now(who.store, held) if held.state == "answered" else ():
        j, seconds = stored.feedback.judgement, max(seconds, stored.feedback.active_ms / 1000)
        match j.kind:
            case "ranking":
                tier_of = {i.completion_id: i.tier for i in j.items}
                said += ["none is acceptable"] if j.none_acceptable else []
            case "rating":
                said.append(f"{j.aspect} {j.value:g}")
            case "flag":
                said.append(f"flag: {j.category}")
            case "critique":
                said.append(f"“{j.text}”")
            case "demonstration" | "proposal":
                said.append(get_completions(who.store, [j.completion_id])[0].text)
            case "correction":
                said.append(f"corrected: {get_completions(who.store, [j.corrected_id])[0].text}")
            case "skip":
                said.append(j.reason)
    tiers = [tier_of[c] if c in tier_of else None for c in held.task.completions]
    return {"held": held, "tiers": tiers, "said": said, "seconds": seconds}


@routes.on("POST", "/p/{slug}/tasks/{number}/check", STAFF)
def make_check(
    who: Who,
    number: Number,
    tier: Annotated[list[int], Form(min_length=2, max_length=9)],
    practice: Annotated[bool, Form()] = False,
    explanation: Annotated[str, Form(max_length=4000)] = "",
) -> Response:
    """A new task of the same material with a known answer: hidden among the others, or one to learn from."""
    found = _task(who, number)
    completions = tuple(get_completions(who.store, found.completions))
    if found.kind not in ("rank", "compare") or len(tier) != len(completions):
        raise Refused(422, "A check needs a place for each answer of a ranking.")
    if sorted(set(tier)) != list(range(1, len(set(tier)) + 1)):
        raise Refused(422, f"The places {sorted(set(tier))} have a gap. Number them 1, 2, 3, …; equal places are ties.")
    texts = {(c.text.strip(), t) for c, t in zip(completions, tier, strict=True)}
    if len(texts) != len({c.text.strip() for c in completions}):
        raise Refused(422, "The same text stands in two places. Give equal texts the same place.")
    told = explanation.replace("\r\n", "\n").strip()
    if practice and not told:
        raise Refused(422, "A practice task explains its answer. Say why this order is right.")
    made = NewTask(
        kind=found.kind,
        prompt=get_prompt(who.store, found.prompt_id),
        completions=completions,
        source=own_source(who.project, "made", is_check=True),
        gold={"tiers": tier} | ({"explanation": told} if told else {}),
        practice=practice,
    )
    add_tasks(who.store, who.project.id, [made])
    note(who.store, "check made", project_id=who.project.id, account_id=who.account.id, task=number, practice=practice)
    return go(who.path("tasks?show=checks"))
