"""One file a page or a group of pages. A route reads what came in, calls one function of the store, and answers."""

from tutelage.label.access import Routes
from tutelage.label.pages import account, desk, mine, people, run

# Fixed addresses come before those with a part that varies: the first that fits is taken.
ROUTES: tuple[Routes, ...] = (
    account.routes,
    desk.routes,
    mine.routes,
    people.routes,
    run.routes,
)
