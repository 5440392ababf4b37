"""What can be taken out, of which sources, and how a file on its way out is made and removed."""

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from starlette.background import BackgroundTask
from starlette.responses import FileResponse

from tutelage.label.access import Caller, Refused
from tutelage.store.sources import CHECKS, sources_of

Export = Literal["rankings", "pairs", "hh", "ratings", "demonstrations", "messages", "critiques", "flags", "kto", "log"]
Ending = Literal["jsonl", "csv", "parquet"]
EXPORTS: dict[Export, str] = {
    "rankings": "Rankings with ties",
    "pairs": "Preference pairs (chosen, rejected)",
    "hh": "Pairs as HH transcripts",
    "ratings": "Ratings",
    "demonstrations": "Demonstrations (prompt, completion)",
    "messages": "Demonstrations (chat messages)",
    "critiques": "Critiques",
    "flags": "Flags",
    "kto": "Thumbs (KTO)",
    "log": "The event log, as it is",
}
FOLDER = "exports"


def chosen_sources(who: Caller, wanted: list[str] | None) -> list[str]:
    """Sources of this project and of no other; without a choice, all but those of checks."""
    own = sources_of(who.store, who.project)
    if wanted is None:
        return [name for name in own if not name.endswith(CHECKS)]
    if strange := sorted(set(wanted) - set(own)):
        raise Refused(422, f"{strange[0][:80]!r} is no source of this project.")
    return sorted(set(wanted))


def file_made(who: Caller, fill: Callable[[Path], Path]) -> FileResponse:
    """Sends the file that `fill` makes in a folder of its own, which is removed afterwards, whatever happens."""
    parent = who.app.config.data / FOLDER
    parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=parent))
    try:
        made = fill(folder)
    except BaseException:
        shutil.rmtree(folder)
        raise
    return FileResponse(
        made,
        filename=made.name,
        media_type="application/zip" if made.suffix == ".zip" else "application/octet-stream",
        background=BackgroundTask(shutil.rmtree, folder),
    )
