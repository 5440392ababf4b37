"""Where a run stands, read from its directory without touching it."""

from pathlib import Path
from typing import Any

from tutelage.errors import ConfigError
from tutelage.rounds.run import CONFIG, read_state


def read(folder: Path) -> dict[str, Any]:
    """The record of stages. Raises ConfigError when the folder is no run directory."""
    if not (folder / CONFIG).is_file():
        raise ConfigError(
            f"{folder} holds no {CONFIG}, so it is not a run directory. Start one with "
            f"`tutelage run RECIPE --out {folder}`."
        )
    return read_state(folder)


def describe(state: dict[str, Any]) -> str:
    """One line a stage, for people."""
    lines = []
    for name, entry in state["stages"].items():
        time = f"  {entry['seconds']:.0f} s" if "seconds" in entry else ""
        lines.append(f"{entry['state']:<8} {name}: {entry['what']}{time}")
    return "\n".join(lines) or "nothing has been started yet"
