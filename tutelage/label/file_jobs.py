"""Large files as background jobs: looked through first, then taken, with progress. Knows no request.

The steps are those of a small file, which is gone through while its sender waits: `uploads.read_kept` and
`intake.take_upload`. What is there already is merged, so a job that a kill cut off is simply run again.
"""

from dataclasses import asdict
from typing import Any, Literal

from tutelage.errors import DataError
from tutelage.exchange import ImportReport
from tutelage.formats.rows import Refusal
from tutelage.label.access import App
from tutelage.label.intake import take_upload
from tutelage.label.uploads import Upload, find_upload, read_kept
from tutelage.label.worker import Cut, work
from tutelage.store.access import note
from tutelage.store.projects import Project, projects
from tutelage.store.tools import Job, add_job, jobs, report_job
from tutelage.types import Fact

KIND = "file"
TOLD_EVERY = 1000  # rows
RECENT = 200  # jobs of a project among which one's own is looked for


class Order(Fact):
    """What is to be done with a file that was kept."""

    token: str
    account: int
    step: Literal["look", "take"]
    strict: bool = False  # take: all rows or none


def order(app: App, project: Project, asked: Order) -> int:
    """Puts a step into the queue; one that is there already is not done twice. The job's number."""
    before = last_job(app, project.id, asked.token)
    if before is not None and before.state in ("waiting", "running"):
        return before.id
    return add_job(app.store, project.id, KIND, asked.model_dump(mode="json"), 0)


def last_job(app: App, project_id: int, token: str) -> Job | None:
    """The newest job about a file."""
    found = jobs(app.store, project_id, RECENT)
    return next((j for j in found if j.kind == KIND and j.request["token"] == token), None)


def report_of(job: Job) -> ImportReport:
    """What a job that is done found."""
    assert job.result is not None, "a job that is done has its report"
    kept: dict[str, Any] = job.result["report"]
    return ImportReport(**kept | {"examples": tuple(Refusal(**e) for e in kept["examples"])})


@work(KIND, is_local=True)
def file(app: App, job: Job) -> dict[str, object]:
    """One step of one file."""
    asked = Order.model_validate(job.request)
    project = next(p for p in projects(app.store) if p.id == job.project_id)
    upload = find_upload(app.config.data, project.id, asked.account, asked.token)
    if upload is None:
        raise DataError("The file was dropped, or an hour has passed. Bring it again.")
    try:
        report = _go(app, job, asked, project, upload)
    except FileNotFoundError as e:
        raise DataError("The file was dropped meanwhile.") from e
    if asked.step == "take":
        told(app, project, asked.account, upload, report)
    return {"report": asdict(report)}


def _go(app: App, job: Job, asked: Order, project: Project, upload: Upload) -> ImportReport:
    """Reads the file if that is still to be done, and goes through its rows."""
    n_rows = read_kept(app.config.data, asked.token, upload)
    is_dry = asked.step == "look"
    seen, total = 0, n_rows if is_dry else 2 * n_rows
    report_job(app.store, job.id, done=0, total=total)

    def step() -> None:
        nonlocal seen
        seen += 1
        if seen % TOLD_EVERY == 0:
            if app.stopping.is_set():
                raise Cut
            report_job(app.store, job.id, done=min(seen, total))

    report = take_upload(
        app.store,
        project,
        app.config.data,
        asked.token,
        upload,
        dry_run=is_dry,
        strict=asked.strict,
        step=step,
    )
    report_job(app.store, job.id, done=total)
    return report


def told(app: App, project: Project, account: int, upload: Upload, report: ImportReport) -> None:
    """Says in the audit who took what."""
    about = {"what": upload.what, "source": upload.source, "rows": report.n_taken}
    note(app.store, "file taken", project_id=project.id, account_id=account, **about)
