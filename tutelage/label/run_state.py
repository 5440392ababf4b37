"""Where the run stands whose rounds wait for these labels, read from its directory. Knows JSON files, no training."""

import json
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class StageLine:
    """One stage. Example: `StageLine("round-1/labels", "waiting", "waiting for labels: 120 of 500", None)`."""

    name: str
    state: str  # running, waiting, done
    what: str
    seconds: float | None


def stages(run: Path) -> list[StageLine]:
    """The stages in the order in which they began; nothing where no run was started."""
    path = run / "state.json"
    if not path.is_file():
        return []
    found = json.loads(path.read_text(encoding="utf-8"))["stages"]
    return [
        StageLine(name, entry["state"], entry["what"], entry["seconds"] if "seconds" in entry else None)
        for name, entry in found.items()
    ]


def waiting_for(lines: list[StageLine]) -> tuple[int, int] | None:
    """How many labels are there and how many are needed, while the run waits for them."""
    for line in lines:
        if line.state == "waiting" and line.what.startswith("waiting for labels: "):
            have, _, needed = line.what.removeprefix("waiting for labels: ").partition(" of ")
            return int(have), int(needed)
    return None
