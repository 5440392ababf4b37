"""Metrics of a run: JSON Lines always, a live line on the console, TensorBoard when asked for.

Knows no meaning of a number.
"""

import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from tutelage.errors import ConfigError
from tutelage.publish import disk_errors

console = Console(stderr=True, highlight=False, soft_wrap=True)


def say(text: str) -> None:
    """One line for the person at the terminal, on standard error."""
    console.print(text, markup=False)


class MetricsLog:
    """Appends `{"step": 3, "loss": 0.7, …}` rows.

    After a kill, rows from `resume_at` on are dropped: they come again.
    """

    def __init__(self, path: Path, *, resume_at: int = 0, tensorboard: bool = False) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = [row for row in read_metrics(path) if row["step"] < resume_at] if path.exists() else []
        aside = path.with_suffix(".partial")
        with disk_errors(str(path)):
            aside.write_text("".join(_line(row) for row in kept), encoding="utf-8")
            os.replace(aside, path)
        self._board = _open_board(path.parent / "tensorboard") if tensorboard else None

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        with disk_errors(str(self.path)), self.path.open("a", encoding="utf-8") as f:
            f.write(_line({"step": step, **metrics}))
        if self._board:
            for name, value in metrics.items():
                self._board.add_scalar(name, value, step)


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"


def _open_board(folder: Path) -> Any:
    try:
        from tensorboard.summary import Writer
    except ImportError as e:
        raise ConfigError(
            "log.tensorboard = true, but TensorBoard is not installed. Run `pip install tensorboard`, or set it to "
            "false."
        ) from e
    return Writer(str(folder))


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a metrics file. A last line that a kill cut short is left out."""
    with path.open(encoding="utf-8", newline="\n") as f:
        return [json.loads(line) for line in f if line.endswith("\n")]


class Progress:
    """A live line: what is running, how far it is, how fast, how long it will take, and a few figures.

    On a terminal the line is redrawn; in a file or a pipe one line is written every few seconds.
    """

    def __init__(self, what: str, total: int, *, every_s: float = 10.0) -> None:
        self.what, self.total, self.done, self.tokens = what, total, 0, 0
        self._start = self._last = time.monotonic()
        self._is_live = sys.stderr.isatty()
        self._every_s = 0.2 if self._is_live else every_s

    def advance(self, n: int = 1, *, tokens: int = 0, **figures: float) -> None:
        self.done += n
        self.tokens += tokens
        now = time.monotonic()
        if now - self._last < self._every_s and self.done < self.total:
            return
        self._last = now
        text = self.line(now - self._start, figures)
        if self._is_live:
            sys.stderr.write("\r\x1b[2K" + text + ("\n" if self.done >= self.total else ""))
            sys.stderr.flush()
        else:
            say(text)

    def line(self, seconds: float, figures: Mapping[str, float]) -> str:
        left = seconds / self.done * (self.total - self.done) if self.done else 0.0
        parts = [f"  {self.what} {self.done}/{self.total}"]
        if self.tokens:
            parts.append(f"{self.tokens / max(seconds, 1e-9):,.0f} tokens/s")
        parts.append(f"{left:.0f} s left" if self.done < self.total else f"{seconds:.0f} s")
        parts += [f"{name} {value:.3g}" for name, value in figures.items()]
        return "  ".join(parts)
