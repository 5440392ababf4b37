"""Writes a run's report.html: one file, no script, no request. What models and people wrote is escaped."""

import os
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

from tutelage import __version__
from tutelage.publish import ASIDE, disk_errors
from tutelage.report import tables
from tutelage.report.curves import learning_curve, reward_figures, rl_figures, sft_figures
from tutelage.report.gauge import frontier, gauges
from tutelage.report.read import RunFacts, read_run
from tutelage.report.story import KINDS, tell
from tutelage.report.text import clean, duration, number, percent, span

LIBRARIES = ("torch", "transformers", "numpy")


def write_report(folder: Path) -> Path:
    """Reads what the run has published so far and replaces `folder/report.html`; returns its path."""
    path = folder / "report.html"
    page = render(read_run(folder))
    aside = path.with_name(path.name + ASIDE)
    with disk_errors(str(path)):
        aside.write_text(page, encoding="utf-8")
        os.replace(aside, path)
    return path


def render(run: RunFacts) -> str:
    """The page as text."""
    return _template().render(**_views(run))


@cache
def _template() -> Template:
    # `finalize` sees every value before it is escaped: no text reaches the page with its control characters.
    environment = Environment(
        loader=PackageLoader("tutelage.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, finalize=_clean,
    )  # fmt: skip
    environment.filters |= {"percent": percent, "number": number, "duration": duration}
    environment.globals |= {"span": span, "kinds": KINDS}
    return environment.get_template("report.html")


def _clean(value: Any) -> Any:
    return clean(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _views(run: RunFacts) -> dict[str, Any]:
    win_rows = tables.wins(run)
    measured = run.measured[-1].figures if run.measured else None
    return {
        "run": run,
        "story": tell(run),
        "wins": win_rows + tables.best_of_wins(run),
        "wins_chart": tables.wins_chart(win_rows),
        "judge": measured["judge"] if measured else "",
        "n_prompts": measured["prompts"] if measured else 0,
        "behaviour": tables.behaviour(run),
        "samples": tables.samples(run),
        "along": tables.along(run),
        "gauges": gauges(run),
        "frontier": frontier(run),
        "rewards": tables.reward_parts(run),
        "curves": [(r.i, found) for r in run.rounds if (found := learning_curve(r.curve))],
        "rl_figures": rl_figures(run),
        "profiles": tables.profiles(run),
        "other_figures": sft_figures(run) + reward_figures(run),
        "alarms": tables.alarms(run),
        "has_rl": any(r.rl for r in run.rounds),
        "lineage": tables.lineage(run),
        "longest_s": max((s.seconds or 0.0 for s in run.stages), default=0.0) or 1.0,
        "made_with": {"tutelage": __version__} | {name: version(name) for name in LIBRARIES},
    }
