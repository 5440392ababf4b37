"""The quality page: how far people agree, who can be relied upon, how models stand. The same as JSON."""

from dataclasses import asdict
from typing import Annotated, Any

from fastapi import Depends, Response

from tutelage.label.access import STAFF, Caller, Routes, caller
from tutelage.label.quality import FIGURES, Quality
from tutelage.label.render import page
from tutelage.store.feedback import head

routes = Routes()
Who = Annotated[Caller, Depends(caller)]


def _figures(who: Caller) -> Quality:
    return FIGURES.of(who.store, who.project.id, who.app.config.run)


@routes.on("GET", "/p/{slug}/quality", STAFF)
def quality(who: Who) -> Response:
    found = _figures(who)
    newer = head(who.store).seq - found.seq
    return page(who, "quality.html", here="quality", q=found, newer=newer)


@routes.on("GET", "/p/{slug}/quality.json", STAFF)
def quality_json(who: Who) -> dict[str, Any]:
    """Every figure of the page, with pseudonyms only."""
    return asdict(_figures(who))
