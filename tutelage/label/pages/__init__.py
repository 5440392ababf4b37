"""One file a page or a group of pages. A route reads what came in, calls one function of the store, and answers."""

from tutelage.label.access import Routes
from tutelage.label.pages import (
    account,
    api,
    chat,
    data,
    desk,
    disagreements,
    mine,
    models,
    people,
    quality,
    review,
    run,
    tasks,
)

# Fixed addresses come before those with a part that varies: the first that fits is taken.
ROUTES: tuple[Routes, ...] = (
    account.routes,
    desk.routes,
    mine.routes,
    people.routes,
    run.routes,
    tasks.routes,
    models.routes,
    chat.routes,
    review.routes,
    disagreements.routes,
    quality.routes,
    data.routes,
    api.routes,
)
