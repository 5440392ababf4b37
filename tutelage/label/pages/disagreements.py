"""Where people contradict each other: the list, one task laid out for a decision, and its way into the guideline."""

from dataclasses import dataclass
from typing import Annotated, Literal

from fastapi import Depends, Form, Query, Request, Response

from tutelage.errors import ConflictError
from tutelage.label.access import REVIEWERS, STAFF, Caller, Refused, Routes, caller
from tutelage.label.answers import KEY
from tutelage.label.disagreements import (
    LETTERS,
    Conflict,
    cards,
    conflicts,
    critiques_of,
    decided_items,
    example,
    ratings_of,
    reversals,
)
from tutelage.label.quality import FIGURES
from tutelage.label.render import go, page
from tutelage.store.access import note
from tutelage.store.adjudications import decide, seen_by
from tutelage.store.completions import get_completions
from tutelage.store.projects import guideline, publish_guideline
from tutelage.store.prompts import get_prompt, get_prompts
from tutelage.store.tasks import Task, get_task
from tutelage.types import Adjudication, Completion, Prompt

routes = Routes()
Who = Annotated[Caller, Depends(caller)]
PAGE = 30  # tasks


@dataclass(frozen=True, slots=True)
class Opened:
    """One conflict with everything that a reviewer looks at."""

    conflict: Conflict
    task: Task
    prompt: Prompt
    laid: list[list[Completion]]


@routes.on("GET", "/p/{slug}/disagreements", REVIEWERS)
def disagreements(
    who: Who,
    show: Annotated[Literal["open", "decided"], Query()] = "open",
    after: Annotated[str, Query(pattern=r"^(\d{1,4}-\d{1,18})?$")] = "",
) -> Response:
    """Tasks whose rankings contradict each other, the worst first; `after` is the last one of the page before."""
    every = conflicts(FIGURES.facts(who.store, who.project.id))
    wanted = [c for c in every if c.is_open == (show == "open")]
    if after:
        severity, number = (int(part) for part in after.split("-"))
        wanted = [c for c in wanted if c.place > (-severity, number)]
    shown = wanted[:PAGE]
    prompts = {p.id: p.messages[-1].content for p in get_prompts(who.store, {c.prompt_id for c in shown})}
    last = f"{shown[-1].severity}-{shown[-1].task_id}" if len(wanted) > PAGE else ""
    counts = {"open": sum(c.is_open for c in every), "decided": sum(not c.is_open for c in every)}
    return page(
        who,
        "disagreements.html",
        here="disagreements",
        shown=shown,
        prompts=prompts,
        show=show,
        after=last,
        counts=counts,
    )


def _opened(who: Caller, number: int) -> Opened:
    task = get_task(who.store, who.project.id, number)
    every = conflicts(FIGURES.facts(who.store, who.project.id)) if task else []
    found = next((c for c in every if c.task_id == number), None)
    if task is None or found is None:
        raise Refused(
            404, "There is no such disagreement. Perhaps an answer was revised since, and now nobody contradicts."
        )
    laid = cards(get_completions(who.store, task.completions))
    return Opened(found, task, get_prompt(who.store, task.prompt_id), laid)


def _not_her_own(who: Caller, number: int) -> None:
    if who.labeler in seen_by(who.store, number):
        raise Refused(403, "You were given this task to judge, so somebody else decides it.")


@routes.on("GET", "/p/{slug}/disagreements/{number}", REVIEWERS)
def disagreement(who: Who, number: int) -> Response:
    opened = _opened(who, number)
    _not_her_own(who, number)
    split = reversals(opened.conflict, opened.laid)
    decision = opened.conflict.decision
    return page(
        who,
        "disagreement.html",
        here="disagreements",
        conflict=opened.conflict,
        prompt=opened.prompt,
        rows=list(zip(LETTERS, opened.laid, strict=False)),
        split=split,
        disputed={letter for r in split for letter in (r.upper, r.lower)},
        critiques=critiques_of(opened.conflict, opened.laid),
        grades={a.labeler: ratings_of(a) for a in opened.conflict.answers},
        key=who.app.keys.form_mark(f"{who.session}:{number}:{decision.seq if decision else 0}")[:32],
        may_decide=decision is None or decision.labeler == who.labeler,
    )


async def _places(request: Request) -> list[int]:
    """The places of the cards, in the order of their letters. A card without one leaves the list too short."""
    form = await request.form()
    given = [str(form[f"place_{letter}"]) for letter in LETTERS if f"place_{letter}" in form]
    return [int(g) for g in given if g.isascii() and g.isdigit() and 0 < int(g) <= len(LETTERS)]


@routes.on("POST", "/p/{slug}/disagreements/{number}", REVIEWERS)
def decided(
    who: Who,
    number: int,
    places: Annotated[list[int], Depends(_places)],
    rationale: Annotated[str, Form(min_length=1, max_length=5000)],
    mark: Annotated[str, Form(max_length=40)],
    key: Annotated[str, Form(pattern=KEY)],
) -> Response:
    """A reviewer's ranking and her reason, as an event of its own."""
    opened = _opened(who, number)
    _not_her_own(who, number)
    if mark != opened.conflict.mark:
        raise ConflictError("An answer to this task changed while you read. Go back, reload the page, and decide anew.")
    why = " ".join(rationale.split("\x00")).replace("\r\n", "\n").strip()
    if not why:
        raise Refused(422, "There is no reason yet. Go back and say in a sentence why you decide so.")
    judgement = Adjudication(
        items=decided_items(opened.laid, places),
        decided=tuple(a.event for a in opened.conflict.answers),
        rationale=why,
    )
    newest = guideline(who.store, who.project.id)
    decide(who.store, opened.task, who.labeler, judgement, key=key, guideline=newest.id if newest else None)
    note(who.store, "disagreement decided", project_id=who.project.id, account_id=who.account.id, task=number)
    return go(who.path(f"disagreements/{number}"))


# Into the guideline.


@routes.on("GET", "/p/{slug}/disagreements/{number}/example", STAFF)
def propose_example(who: Who, number: int) -> Response:
    """The passage as it would stand in the guideline, to be mended and confirmed."""
    opened = _opened(who, number)
    if opened.conflict.decision is None:
        raise Refused(409, "This task is not decided yet. Decide it first; the decision becomes the example.")
    newest = guideline(who.store, who.project.id)
    text = example(opened.prompt, opened.laid, opened.conflict.decision)
    version = newest.version if newest else 0
    return page(who, "disagreement_example.html", here="disagreements", number=number, text=text, version=version)


@routes.on("POST", "/p/{slug}/disagreements/{number}/example", STAFF)
def add_example(
    who: Who,
    number: int,
    text: Annotated[str, Form(min_length=1, max_length=50_000)],
    version: Annotated[int, Form(ge=0)],
) -> Response:
    """Appends the passage: a new version of the guideline, for answers given from now on."""
    _opened(who, number)
    newest = guideline(who.store, who.project.id)
    if (newest.version if newest else 0) != version:
        raise ConflictError("A newer guideline was published meanwhile. Go back, reload the page, and confirm again.")
    passage = text.replace("\r\n", "\n").replace("\x00", "").strip()
    if not passage:
        raise Refused(422, "The example is empty. Go back and write it.")
    made = publish_guideline(who.store, who.project.id, f"{newest.text}\n\n{passage}" if newest else passage)
    about = {"version": made.version, "task": number}
    note(who.store, "guideline example added", project_id=who.project.id, account_id=who.account.id, **about)
    return go(who.path("guidelines"))
