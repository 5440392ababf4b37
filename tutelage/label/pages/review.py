"""The review queue of demonstrations: one proposal at a time, what is pointed out in it, and what to do with it."""

from typing import Annotated, Any, Literal

from fastapi import Depends, Form, Path, Query, Response

from tutelage.label.access import REVIEWERS, Caller, Refused, Routes, caller
from tutelage.label.reader import MAX_TEXT
from tutelage.label.render import go, page
from tutelage.label.review import KINDS, findings, known_texts, pieces
from tutelage.store.access import note
from tutelage.store.candidates import Candidate, Decision, counts, decide, find_candidate, own_pending, pending
from tutelage.store.prompts import get_prompt
from tutelage.store.sources import own_source

routes = Routes()
Who = Annotated[Caller, Depends(caller)]
Number = Annotated[int, Path(ge=1, le=2**31 - 1)]
Text = Annotated[str, Form(max_length=MAX_TEXT)]
REASONS = ("wrong", "repeats another", "personal data", "harmful", "off format", "low quality", "other")
SOURCE = "reviewed"  # of the demonstrations that come of it


@routes.on("GET", "/p/{slug}/review", REVIEWERS)
def queue(who: Who, after: Annotated[int, Query(ge=0, le=2**31 - 1)] = 0) -> Response:
    """The oldest proposal that nobody has decided and somebody else wrote; `after` lays those before it aside."""
    found = pending(who.store, who.project.id, reviewer=who.labeler, after=after, limit=1)
    if not found and after:
        found = pending(who.store, who.project.id, reviewer=who.labeler, limit=1)
    return _page(who, found[0] if found else None)


@routes.on("POST", "/p/{slug}/review/{number}", REVIEWERS)
def decided(
    who: Who,
    number: Number,
    do: Annotated[Literal["accept", "edit", "reject", "check"], Form()],
    text: Text = "",
    reason: Annotated[str, Form(max_length=40)] = "",
    remark: Annotated[str, Form(max_length=1000)] = "",
) -> Response:
    """Accepts, edits or rejects a proposal, and shows the next; `check` looks through an edited text first."""
    found = find_candidate(who.store, who.project.id, number)
    if found is None:
        raise Refused(404, "There is no such proposal.")
    edited = text.replace("\r\n", "\n").strip()
    if do in ("edit", "check") and (not edited or "\x00" in edited):
        raise Refused(422, "The text is empty or holds a NUL character. Write the answer, or reject the proposal.")
    if do == "check":
        if found.state != "pending":
            raise Refused(409, "This proposal waits no more: it was decided, or its author revised it.")
        return _page(who, found, edited)
    if do == "reject" and reason not in REASONS:
        raise Refused(422, f"Say why it is rejected: one of {', '.join(REASONS)}.")
    decision: Decision = "rejected" if do == "reject" else "accepted"
    if do == "edit" and edited != found.text:
        decision = "edited"
    decide(
        who.store,
        who.project.id,
        number,
        decision,
        reviewer=who.labeler,
        source=own_source(who.project, SOURCE),
        text=edited if decision == "edited" else None,
        reason=f"{reason}: {remark.strip()}" if remark.strip() else reason,
    )
    note(who.store, f"demonstration {decision}", project_id=who.project.id, account_id=who.account.id, number=number)
    return go(who.path(f"review?after={number}"))


def _page(who: Caller, found: Candidate | None, edited: str | None = None) -> Response:
    values: dict[str, Any] = {
        "one": found,
        "counts": counts(who.store, who.project.id),
        "own": own_pending(who.store, who.project.id, who.labeler),
        "reasons": REASONS,
    }
    if found is not None:
        prompt = get_prompt(who.store, found.prompt_id)
        text = found.text if edited is None else edited
        # What came by a file was looked through on its way in, all at once; a text from the desk or edited, now.
        pointed = found.findings
        if edited is not None or found.origin == "human":
            pointed = findings(text, prompt, known_texts(who.store, who.project, besides=found.id))
        values |= {
            "prompt": prompt,
            "text": text,
            "edited": edited,
            "findings": [(KINDS[f["kind"]], f["detail"]) for f in pointed],
            "pieces": pieces(text, pointed),
        }
    return page(who, "review.html", here="review", **values)
