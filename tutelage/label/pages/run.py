"""The run that waits for these labels, live: how many are there, how many more, and what it does now."""

from typing import Annotated, Any

from fastapi import Depends, Response

from tutelage.label import run_state
from tutelage.label.access import STAFF, Caller, Routes, caller
from tutelage.label.render import page
from tutelage.store.feedback import count
from tutelage.store.tasks import progress

routes = Routes()
Who = Annotated[Caller, Depends(caller)]


@routes.on("GET", "/p/{slug}/run", STAFF)
def run(who: Who) -> Response:
    return page(who, "run.html", here="run", **_facts(who))


@routes.on("GET", "/p/{slug}/run/live", STAFF)
def live(who: Who) -> Response:
    """The part that renews itself every two seconds."""
    return page(who, "run_live.html", here="run", **_facts(who))


def _facts(who: Caller) -> dict[str, Any]:
    folder = who.app.config.run
    lines = run_state.stages(folder) if folder else []
    wait = run_state.waiting_for(lines)
    source = next((line.name.partition("/")[0] for line in lines if line.state == "waiting"), "")
    have = count(who.store, kind="ranking", sources=[source]) if wait else 0
    return {
        "folder": folder,
        "lines": lines,
        "needed": wait[1] if wait else None,
        "have": have,
        "decisions": count(who.store, kind="adjudication", sources=[source]) if wait else 0,
        "progress": progress(who.store, who.project.id),
    }
