"""A run directory and what every stage needs of it: recipe, store, metrics, training states, and the record of stages.

A stage is done when its folder is published; nothing else says so. Training states of a stage that is under way lie in
`work/` and go when it is done.
"""

import ctypes
import gc
import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tutelage import config
from tutelage.errors import ConfigError
from tutelage.log import MetricsLog, Progress, say
from tutelage.model.causal import CausalModel
from tutelage.model.chat import Chat
from tutelage.model.checkpoint import latest_state, save_state
from tutelage.model.device import AUTO
from tutelage.model.load import load_causal
from tutelage.native.memory import arena
from tutelage.publish import RunLock, disk_errors, is_published, write_json
from tutelage.rounds.profile import PROFILE
from tutelage.rounds.recipe import Recipe, resolved
from tutelage.store.db import Store, open_store

CONFIG, STATE = "config.toml", "state.json"


@dataclass(slots=True)
class Run:
    """A run directory that this process owns."""

    folder: Path
    recipe: Recipe
    store: Store
    patient: bool = False  # waits for people's labels instead of ending

    def is_done(self, folder: Path) -> bool:
        return is_published(folder)

    def open_causal(self, source: str | Path) -> tuple[CausalModel, Chat]:
        """A language model on the run's device, as `load_causal` opens it."""
        return load_causal(str(source), device=self.recipe.run.device)

    @contextmanager
    def stage(self, folder: Path, what: str) -> Iterator["Stage"]:
        """Opens the stage whose result will be `folder`; on success its working files go and the record is written."""
        name = str(folder.relative_to(self.folder))
        say(f"{name}: {what}")
        start = time.monotonic()
        self._record(name, {"state": "running", "what": what})
        work = self.folder / "work" / name
        work.mkdir(parents=True, exist_ok=True)
        try:
            yield Stage(name, folder, work, self.recipe.run.tensorboard)
        finally:
            give_back_memory()
        shutil.rmtree(work, ignore_errors=True)
        self._record(name, {"state": "done", "what": what, "seconds": round(time.monotonic() - start, 1)})

    def waiting(self, name: str, have: int, needed: int) -> None:
        """Records that the run goes on only when people have judged more."""
        self._record(name, {"state": "waiting", "what": f"waiting for labels: {have} of {needed}"})

    def _record(self, name: str, entry: Mapping[str, Any]) -> None:
        state = read_state(self.folder)
        state["stages"][name] = dict(entry)
        write_json(self.folder / STATE, state)


def give_back_memory() -> None:
    """Returns what a stage's models held. glibc keeps freed blocks for itself, and stages would add up to gigabytes."""
    gc.collect()
    arena.give_back()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)


@dataclass(slots=True)
class Stage:
    """A stage under way."""

    name: str
    folder: Path
    work: Path
    tensorboard: bool

    def resume(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """The newest training state that is whole."""
        return latest_state(self.work / "state")

    def save(self, step: int, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        save_state(self.work / "state", step, tensors, facts)

    def metrics(
        self, total: int, *, at: int = 0, shown: tuple[str, ...] = ("loss",)
    ) -> Callable[[int, dict[str, float]], None]:
        """A log function: writes every row, and redraws the live line with the figures in `shown`."""
        log = MetricsLog(self.work / "metrics.jsonl", resume_at=at, tensorboard=self.tensorboard)
        progress = Progress(self.name, total)
        progress.done = at

        def write(step: int, row: dict[str, float]) -> None:
            log.write(step, row)
            figures = {k: row[k] for k in shown if k in row}
            progress.advance(step + 1 - progress.done, tokens=int(row["tokens"]) if "tokens" in row else 0, **figures)

        return write

    def keep_metrics(self, aside: Path) -> None:
        """Copies the metrics, and the profile if there is one, into the folder that is being published."""
        for path in (*self.work.glob("*.jsonl"), *self.work.glob(PROFILE)):
            shutil.copy(path, aside / path.name)


@contextmanager
def open_run(recipe: Recipe | None, folder: Path, *, patient: bool = False) -> Iterator[Run]:
    """Starts or resumes a run directory.

    recipe  None takes the one that the directory was started with
    Raises RunInUseError when another process has it, and ConfigError when the recipe differs from the directory's.
    """
    with disk_errors(str(folder)):
        folder.mkdir(parents=True, exist_ok=True)
    with RunLock(folder):
        settled = _settle(recipe, folder)
        torch.set_num_threads(settled.run.threads)
        with open_store(folder / "store.db") as store:
            yield Run(folder, settled, store, patient)


def _settle(recipe: Recipe | None, folder: Path) -> Recipe:
    path = folder / CONFIG
    if path.exists():
        stored = config.load(Recipe, path)
        if stored.run.device == AUTO:  # started by a version that knew the processor alone
            stored = replace(stored, run=replace(stored.run, device="cpu"))
        stored = resolved(stored)
        if recipe is not None:
            wanted = resolved(_with_pins(recipe, stored))
            stored = replace(stored, run=replace(stored.run, profile=wanted.run.profile))  # changes no result
            if wanted != stored:
                keys = ", ".join(_differences(config.to_table(stored), config.to_table(wanted)))
                raise ConfigError(
                    f"{folder} was started with other settings ({keys}). A run cannot change under way: choose a new "
                    f"--out, or leave the settings as they are in {path}."
                )
        return stored
    if recipe is None:
        raise ConfigError(f"{folder}: there is no {CONFIG}, so no run was started here. Give a recipe.")
    leftovers = [p.name for p in folder.iterdir() if not p.name.startswith(".")]
    if leftovers:
        raise ConfigError(
            f"{folder} holds {leftovers[0]!r} but no {CONFIG}: it is not a run directory. Choose an empty or new --out."
        )
    settled = resolved(recipe)
    aside = path.with_suffix(".partial")
    with disk_errors(str(path)):
        aside.write_text(config.to_toml(settled), encoding="utf-8")
        aside.replace(path)
    write_json(folder / STATE, {"stages": {}})
    return settled


def _with_pins(recipe: Recipe, stored: Recipe) -> Recipe:
    """What a recipe leaves to the machine is what the directory has settled on."""
    threads = recipe.run.threads or stored.run.threads
    precision = stored.run.precision if recipe.run.precision == "auto" else recipe.run.precision
    device = stored.run.device if recipe.run.device == AUTO else recipe.run.device
    return replace(recipe, run=replace(recipe.run, threads=threads, precision=precision, device=device))


def _differences(a: Mapping[str, Any], b: Mapping[str, Any], prefix: str = "") -> list[str]:
    found = []
    for key in sorted({*a, *b}):
        left, right = a[key] if key in a else None, b[key] if key in b else None
        if isinstance(left, Mapping) and isinstance(right, Mapping):
            found += _differences(left, right, f"{prefix}{key}.")
        elif left != right:
            found.append(f"{prefix}{key}: {left} there, {right} now")
    return found


def read_state(folder: Path) -> dict[str, Any]:
    """The record of stages, as `tutelage status` shows it."""
    path = folder / STATE
    state: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"stages": {}}
    return state
