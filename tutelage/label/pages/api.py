"""The JSON API for programs: a token says which project, and whether it may write. `tutelage.client` speaks it.

What a program brings goes through the same intake as a file that a person brings.
"""

import math
import tempfile
from itertools import islice
from typing import Annotated, Any, Literal

from fastapi import Depends, Query, Request
from pydantic import ConfigDict, Field
from starlette.concurrency import run_in_threadpool

from tutelage.exchange import ImportReport, export_file
from tutelage.formats import tasks
from tutelage.formats.fields import read_each
from tutelage.label.access import TOKEN_READ, TOKEN_WRITE, Caller, Refused, Routes, caller
from tutelage.label.card import data_card
from tutelage.label.exports import Ending, Export, chosen_sources, file_made
from tutelage.label.intake import demonstration_rows, take, take_upload, task_rows
from tutelage.label.uploads import FORMATS, Upload, What, drop_upload, plain_name, read_upload, stem
from tutelage.store.candidates import counts
from tutelage.store.choices import choices
from tutelage.store.feedback import events, head
from tutelage.store.sources import counts_by_kind, own_source, sources_of
from tutelage.store.tasks import prioritise, progress
from tutelage.store.whole import whole
from tutelage.types import Fact

routes = Routes()
Who = Annotated[Caller, Depends(caller)]
MOST_ROWS = 1000  # in one request; more come as a file
Source = Annotated[str, Query(max_length=100, description="Name of the collection; it joins every judgement.")]
Strict = Annotated[bool, Query(description="One row that cannot be used refuses all.")]
Dry = Annotated[bool, Query(description="Say what would become of each row, and store nothing.")]


class TaskBatch(Fact):
    """Rows of tasks, as in a file of JSON lines."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "tasks": [
                        {
                            "prompt": "Name a river.",
                            "completions": [{"text": "The Rhine.", "model": "sft-1"}, "Rome."],
                            "overlap": 2,
                            "priority": 0.7,
                        },
                        {"prompt": [{"role": "user", "content": "Why is the sky blue?"}], "kind": "demonstrate"},
                    ]
                }
            ]
        }
    )
    tasks: list[dict[str, Any]] = Field(min_length=1, max_length=MOST_ROWS)


class CandidateBatch(Fact):
    """Demonstrations to be reviewed by people; `labeler` names who or which model wrote one."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"candidates": [{"prompt": "Name a river.", "completion": "The Rhine.", "labeler": "self-instruct-1"}]}
            ]
        }
    )
    candidates: list[dict[str, Any]] = Field(min_length=1, max_length=MOST_ROWS)


class Priorities(Fact):
    """A number for each prompt, by its id: larger is offered earlier, 0 is no opinion."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"priorities": {"3f0c9a5be17d4c2290aa": 0.83}}]})
    priorities: dict[str, float] = Field(min_length=1, max_length=100_000)


@routes.on("GET", "/api/v1/project", TOKEN_READ)
def project(who: Who) -> dict[str, Any]:
    """The project of this token: its name, its settings, the sources of its judgements."""
    return {
        "slug": who.project.slug,
        "name": who.project.name,
        "settings": who.project.settings.model_dump(mode="json"),
        "sources": sources_of(who.store, who.project),
    }


@routes.on("GET", "/api/v1/progress", TOKEN_READ)
def how_far(who: Who) -> dict[str, Any]:
    """Tasks, answers wanted and answers given, by source and kind; judgements and proposals in all."""
    sources = sources_of(who.store, who.project)
    judged: dict[str, int] = {}
    for (_, kind), n in counts_by_kind(who.store, sources).items():
        judged[kind] = judged.setdefault(kind, 0) + n
    return {
        "sources": [
            {"source": p.source, "kind": p.kind, "tasks": p.tasks, "wanted": p.wanted, "answered": p.answered}
            for p in progress(who.store, who.project.id)
        ],
        "judgements": judged,
        "candidates": counts(who.store, who.project.id),
        "head": head(who.store).seq,
    }


def _report(report: ImportReport) -> dict[str, Any]:
    return {
        "taken": report.taken,
        "merged": report.merged,
        "refused": report.refused,
        "examples": [{"where": r.where, "why": r.why, "detail": r.detail} for r in report.examples],
        "dry_run": report.dry_run,
    }


@routes.on("POST", "/api/v1/tasks", TOKEN_WRITE)
def add_tasks(who: Who, given: TaskBatch, source: Source = "api", strict: Strict = False, dry_run: Dry = False) -> Any:
    """Brings up to 1000 tasks. The same again changes nothing. `prompts` are the ids of the prompts, row by row; null
    where a row was refused."""
    found = take(
        who.store, who.project, task_rows(given.tasks),
        what="tasks", source=own_source(who.project, source), name="tasks", dry_run=dry_run, strict=strict,
    )  # fmt: skip
    read = read_each((("", row) for row in given.tasks), tasks.read)
    ids = [item.prompt.id if isinstance(item, tasks.TaskRow) else None for _, item in read]
    return {**_report(found), "prompts": ids}


@routes.on("POST", "/api/v1/candidates", TOKEN_WRITE)
def add_candidates(
    who: Who,
    given: CandidateBatch,
    source: Source = "api",
    by: Annotated[Literal["import", "model"], Query(description="Who wrote them: people elsewhere, or a model.")] = (
        "import"
    ),
    strict: Strict = False,
) -> Any:
    """Brings up to 1000 demonstrations into the review queue, in any form that a file of them may have."""
    found = take(
        who.store, who.project, demonstration_rows(given.candidates),
        what="demonstrations", source=own_source(who.project, source), by=by, name="candidates", strict=strict,
    )  # fmt: skip
    return _report(found)


@routes.on("POST", "/api/v1/tasks/upload", TOKEN_WRITE)
async def upload(
    who: Who,
    request: Request,
    name: Annotated[str, Query(max_length=200, description="The file's name: its ending says how to read it.")],
    what: Annotated[What, Query(description="What the file brings.")] = "tasks",
    format: Annotated[str, Query(max_length=20, description=f"One of {', '.join(FORMATS)}.")] = "auto",
    by: Annotated[Literal["import", "model"], Query(description="Who judged or wrote: people, or a model.")] = "import",
    source: Annotated[str, Query(max_length=100, description="Of all rows; the file's name where it is empty.")] = "",
    strict: Strict = False,
    dry_run: Dry = False,
) -> Any:
    """Brings a whole file, whose bytes are the body: JSON Lines, CSV or Parquet, also with .gz, .xz or .zst behind."""
    if format not in FORMATS:
        raise Refused(422, f"format: {format!r} is none of {', '.join(FORMATS)}.")
    shown = plain_name(name)
    asked = Upload(
        project_id=who.project.id,
        account_id=0,
        what=what,
        format=format,
        source=own_source(who.project, source or stem(shown)),
        by=by,
        name=shown,
    )
    with tempfile.SpooledTemporaryFile(1 << 20) as file:
        async for piece in request.stream():
            file.write(piece)
        file.seek(0)
        return await run_in_threadpool(_take_file, who, file, asked, strict, dry_run)


def _take_file(who: Caller, file: Any, asked: Upload, strict: bool, dry_run: bool) -> dict[str, Any]:
    data = who.app.config.data
    token = read_upload(data, file, asked)
    try:
        return _report(take_upload(who.store, who.project, data, token, asked, dry_run=dry_run, strict=strict))
    finally:
        drop_upload(data, token)


@routes.on("POST", "/api/v1/priorities", TOKEN_WRITE)
def set_priorities(who: Who, given: Priorities) -> dict[str, int]:
    """Sets what is offered earlier: what a reward-model ensemble is least sure of, say. Returns the tasks changed."""
    if any(not math.isfinite(value) for value in given.priorities.values()):
        raise Refused(422, "priorities: a priority is a finite number.")
    return {"changed": prioritise(who.store, who.project.id, given.priorities)}


@routes.on("GET", "/api/v1/labels", TOKEN_READ)
def labels(
    who: Who,
    after_seq: Annotated[int, Query(ge=0, description="The seq of the last event that you have.")] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 200,
) -> dict[str, Any]:
    """Judgements in the order in which they came, with the prompt and the completions that they name. An event that
    replaces an older one says so in `supersedes`. `policy` and `selection_probability` tell how the task was chosen
    among those of its kind; null where it was not handed out here. A `proposal` is a demonstration that waits for a
    reviewer and teaches nothing; accepted, a `demonstration` of hers follows, whose key is `candidate:event:` and the
    proposal's. Ask again with `next_after` while `more` is true."""
    sources = sources_of(who.store, who.project)
    found = list(islice(events(who.store, after_seq=after_seq, sources=sources), limit + 1))
    chosen = choices(who.store, found[:limit])
    told = [
        {
            **one.stored.model_dump(mode="json"),
            **(
                {"policy": how.policy, "selection_probability": how.probability}
                if (how := chosen.get(one.stored.seq))
                else {"policy": None, "selection_probability": None}
            ),
            "prompt": one.prompt.model_dump(mode="json")["messages"],
            "completions": {id: {"text": c.text, "model": c.model_version} for id, c in one.completions.items()},
        }
        for one in whole(who.store, found[:limit])
    ]
    return {"events": told, "next_after": told[-1]["seq"] if told else after_seq, "more": len(found) > limit}


@routes.on("GET", "/api/v1/export/{what}", TOKEN_READ)
def export(
    who: Who,
    what: Export | Literal["card"],
    ending: Ending = "jsonl",
    source: Annotated[list[str] | None, Query(max_length=1000)] = None,
    licence: Annotated[str, Query(max_length=200, description="What the card says of the licence.")] = "",
) -> Any:
    """A file of what people say now, or the card that goes with it. Without `source`: all but those of checks."""
    chosen = chosen_sources(who, source)
    if what == "card":
        return data_card(who.store, who.project, chosen, licence.strip())

    def fill(folder: Any) -> Any:
        export_file(who.store, folder / f"{what}.{ending}", format=what, sources=chosen)
        return folder / f"{what}.{ending}"

    return file_made(who, fill)


@routes.on("GET", "/api/v1/openapi.json", TOKEN_READ)
def description(who: Who, request: Request) -> dict[str, Any]:
    """This API as OpenAPI, made from the code that answers."""
    found: dict[str, Any] = request.app.openapi()
    return found
