"""A labeller's own page: what she did, how far she is, her answers to revise or take back."""

import statistics
from collections import Counter
from typing import Annotated

from fastapi import Depends, Query, Response

from tutelage.label.access import MEMBERS, Caller, Routes, caller
from tutelage.label.render import page
from tutelage.store import assignments
from tutelage.store.assignments import Held
from tutelage.store.candidates import Candidate, review_of
from tutelage.store.feedback import active_times
from tutelage.store.own_work import own_counts, practice_scores, tasks_left
from tutelage.store.prompts import get_prompts

routes = Routes()
Who = Annotated[Caller, Depends(caller)]
PER_PAGE = 20


@routes.on("GET", "/p/{slug}/mine", MEMBERS)
def mine(who: Who, before: Annotated[float | None, Query()] = None) -> Response:
    """Own counts, times and answers, newest first."""
    held = assignments.history(who.store, who.project.id, who.labeler, before=before, limit=PER_PAGE)
    prompts = {p.id: p for p in get_prompts(who.store, {h.task.prompt_id for h in held})}
    reviews = {h.id: _review(who, h) for h in held}
    until = who.store.seconds() - who.project.settings.revise_minutes * 60
    rows = [
        {
            "held": h,
            "prompt": prompts[h.task.prompt_id].messages[-1].content,
            "can_revise": h.answered_at is not None and h.answered_at >= until and _is_open(h, reviews[h.id]),
            "review": reviews[h.id],
        }
        for h in held
    ]
    counts = own_counts(who.store, who.project.id, who.labeler)
    by_kind = Counter[str]()
    for kind, state, n in counts:
        by_kind[kind if state == "answered" else "skipped"] += n
    practised = practice_scores(who.store, who.project.id, who.labeler)
    times = [ms / 1000 for ms in active_times(who.store, who.labeler)]
    return page(
        who,
        "mine.html",
        here="mine",
        rows=rows,
        by_kind=sorted(by_kind.items()),
        total=sum(n for kind, n in by_kind.items() if kind != "skipped"),
        hours=sum(times) / 3600,
        median=statistics.median(times) if times else None,
        left=tasks_left(who.store, who.project.id),
        n_practised=len(practised),
        practice=statistics.fmean(practised) if practised else None,
        more=held[-1].answered_at if len(held) == PER_PAGE else None,
    )


def _review(who: Caller, held: Held) -> Candidate | None:
    """What became of a demonstration that was to be reviewed."""
    is_text = held.task.kind == "demonstrate" and held.state == "answered"
    return review_of(who.store, assignments.answer_key(held)) if is_text else None


def _is_open(held: Held, review: Candidate | None) -> bool:
    """Whether the answer is still its author's alone."""
    return held.state == "answered" and (review is None or review.state == "pending")
