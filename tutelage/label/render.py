"""Pages: Jinja with autoescape, and what every page knows of its reader."""

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.responses import HTMLResponse, RedirectResponse

from tutelage import __version__
from tutelage.label import markup
from tutelage.label.access import Caller

HERE = Path(__file__).parent
_PAGES = Environment(
    loader=FileSystemLoader(HERE / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_PAGES.filters["markdown"] = lambda text, top=3: markup.html(markup.tree(text, top))
_PAGES.filters["percent"] = lambda share: "–" if share is None else f"{share:.0%}"
_PAGES.filters["day"] = lambda at: at[:16].replace("T", " ") if at else ""
_PAGES.globals["version"] = __version__

# What a member sees in the bar, by role: address below the project and name.
LINKS = {
    "work": ("work", "Work"),
    "chat": ("chat", "Chat"),
    "mine": ("mine", "My page"),
    "guidelines": ("guidelines", "Guidelines"),
    "review": ("review", "Review"),
    "disagreements": ("disagreements", "Disagreements"),
    "tasks": ("tasks", "Tasks"),
    "models": ("models", "Models"),
    "quality": ("quality", "Quality"),
    "people": ("people", "People"),
    "run": ("run", "Run"),
    "data": ("data", "Data"),
    "settings": ("settings", "Settings"),
}
BAR = {
    "labeller": ("work", "chat", "mine", "guidelines"),
    "reviewer": ("work", "chat", "mine", "guidelines", "review", "disagreements"),
    "lead": tuple(LINKS),
    "owner": tuple(LINKS),
}


def page(who: Caller, template: str, *, status: int = 200, here: str = "", **values: Any) -> HTMLResponse:
    """A whole page, or the part of one that a template without `base.html` is."""
    project = who.project_or_none
    bar = [LINKS[name] for name in BAR[who.role]] if who.role and project else []
    shown = _PAGES.get_template(template).render(
        who=who,
        account=who.account_or_none,
        project=project,
        role=who.role,
        bar=bar,
        here=here,
        form_mark=who.form_mark,
        theme=_theme(who),
        **values,
    )
    return HTMLResponse(shown, status_code=status)


def _theme(who: Caller) -> str:
    chosen = who.account_or_none.preferences if who.account_or_none else {}
    return chosen["theme"] if "theme" in chosen else "auto"


def go(where: str) -> RedirectResponse:
    """After a form: the browser fetches the next page, and a reload sends nothing twice."""
    return RedirectResponse(where, status_code=303)
