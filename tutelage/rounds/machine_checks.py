"""Is this machine fit for a run: versions, threads, memory, disk, database. Knows no model and no recipe."""

import os
import re
import shutil
import sqlite3
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path

import torch

from tutelage.errors import DiskError
from tutelage.model.device import AUTO, find_device, has_fast_bf16
from tutelage.publish import disk_errors
from tutelage.rounds.files import prompt_of
from tutelage.rounds.findings import Check, attempt
from tutelage.store.db import WAL_FLOOR, open_store
from tutelage.store.prompts import add_prompts, get_prompts

MIN_DISK_GB, MIN_MEMORY_GB, FAIR_MEMORY_GB = 2.0, 2.0, 4.0
MIN_WRITE_MB_S = 20.0  # below, checkpoints hold a run up
N_WRITTEN_MB = 16
TOLD = ("torch", "transformers")  # libraries whose version is told


def machine_checks(folder: Path) -> list[Check]:
    """Everything about the machine, and about the disk that holds `folder`."""
    return [
        *attempt("Python", lambda: [python()]),
        *attempt("libraries", lambda: [libraries()]),
        *attempt("threads", lambda: [threads()]),
        *attempt("memory", lambda: [memory()]),
        *attempt("device", device),
        *attempt("disk", lambda: [disk(folder)]),
        *attempt("write speed", lambda: [write_speed(folder)]),
        *attempt("SQLite", lambda: [sqlite(), store()]),
    ]


def python() -> Check:
    """An older one than is needed could not have read this file."""
    return Check("Python", "ok", ".".join(map(str, sys.version_info[:3])))


def libraries() -> Check:
    """Installed versions against the ranges that tutelage asks for."""
    try:
        asked = metadata.requires("tutelage") or []
    except metadata.PackageNotFoundError:
        found = ", ".join(f"{name} {_version_of(name)}" for name in TOLD)
        what = f"{found}; tutelage itself is not installed, so nothing says which versions it needs"
        return Check("libraries", "warn", what, "run `pip install -e .` in the checkout")
    told, wrong = [], []
    for line in asked:
        if ";" in line:  # of an extra
            continue
        name = re.split(r"[^\w.-]", line, maxsplit=1)[0]
        found = _version_of(name)
        told += [f"{name} {found}"] if name in TOLD else []
        wrong += [] if found and is_within(found, line[len(name) :]) else [f"{name} {found or 'is missing'} ({line})"]
    if wrong:
        return Check("libraries", "bad", "; ".join(wrong), "run `pip install -e .` in the checkout")
    return Check("libraries", "ok", ", ".join(told))


def _version_of(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def is_within(version: str, ranges: str) -> bool:
    """Whether `2.13.0+cpu` lies within `<3,>=2.6`. Only the numbers before the first letter count."""

    def numbers(text: str) -> list[int]:
        return [int(n) for n in re.findall(r"\d+", re.split(r"[+a-z]", text)[0])]

    found = numbers(version)
    for sign, bound in re.findall(r"(<=|>=|<|>|==)\s*([\d.]+)", ranges):
        width = max(len(found), len(numbers(bound)))
        a, b = (n + [0] * (width - len(n)) for n in (found, numbers(bound)))
        if not {"<": a < b, "<=": a <= b, ">": a > b, ">=": a >= b, "==": a == b}[sign]:
            return False
    return True


def threads() -> Check:
    """More threads than cores that are free make each wait for the others: passes become many times slower."""
    cores, n_threads, load = available_cores(), torch.get_num_threads(), os.getloadavg()[0]
    what = f"{n_threads} threads, {cores:g} cores to run on, load {load:.1f}"
    if n_threads > cores:
        todo = f"set run.threads = {max(1, int(cores))} in the recipe, and OMP_NUM_THREADS to the same"
        return Check("threads", "warn", f"{what}: more threads than cores collapse", todo)
    if load > cores:
        return Check("threads", "warn", f"{what}: others keep the cores busy", "wait, or set a smaller run.threads")
    return Check("threads", "ok", what)


def available_cores() -> float:
    """Cores that this process may use: those it is bound to, or fewer where a container sets a quota."""
    cores, quota = float(len(os.sched_getaffinity(0))), Path("/sys/fs/cgroup/cpu.max")
    if quota.is_file():
        share, period = quota.read_text(encoding="ascii").split()
        if share != "max":
            cores = min(cores, int(share) / int(period))
    return cores


def memory() -> Check:
    free = available_memory_gb()
    what = f"{free:.1f} GB free"
    if free < FAIR_MEMORY_GB:
        todo = "end other programs, or use a smaller model, microbatch_tokens and engine.slots"
        return Check("memory", "bad" if free < MIN_MEMORY_GB else "warn", what, todo)
    return Check("memory", "ok", what)


def available_memory_gb() -> float:
    """What is free, or what a container's limit leaves, where that is less."""
    found = re.search(r"MemAvailable:\s*(\d+)", Path("/proc/meminfo").read_text(encoding="ascii"))
    free = int(found[1]) * 1024 if found else os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.is_file() and used.is_file() and (most := limit.read_text(encoding="ascii").strip()) != "max":
        free = min(free, int(most) - int(used.read_text(encoding="ascii")))
    return float(free) / 1e9


def device() -> list[Check]:
    """What run.device = auto and run.precision = auto mean here."""
    found = find_device(AUTO)
    name = "the processor" if found.type == "cpu" else torch.cuda.get_device_name(found)
    checks = [Check("device", "ok", f"{name}: run.device = auto means {found.type!r}")]
    if has_fast_bf16(found):
        return [*checks, Check("bf16", "ok", f"{name} has it: run.precision = auto uses it")]
    return [*checks, Check("bf16", "ok", f"{name} has no instructions for it: run.precision = auto means fp32")]


def disk(folder: Path) -> Check:
    free = shutil.disk_usage(folder).free / 1e9
    what = f"{free:.1f} GB free at {folder}"
    if free < MIN_DISK_GB:
        return Check("disk", "bad", f"{what}; a run needs {MIN_DISK_GB:g} GB", "free some, or run on another disk")
    return Check("disk", "ok", what)


def write_speed(folder: Path) -> Check:
    """How fast a file reaches the disk, as checkpoints must."""
    if not os.access(folder, os.W_OK):
        raise DiskError(f"{folder} cannot be written by this user, so no run can begin here. Change to another folder.")
    piece = os.urandom(1 << 20)
    with disk_errors(str(folder)), tempfile.TemporaryFile(dir=folder) as f:
        start = time.monotonic()
        for _ in range(N_WRITTEN_MB):
            f.write(piece)
        f.flush()
        os.fsync(f.fileno())
        speed = N_WRITTEN_MB / max(time.monotonic() - start, 1e-9)
    if speed < MIN_WRITE_MB_S:
        todo = "use a faster disk, or save less often (save_every)"
        return Check("write speed", "warn", f"{speed:.0f} MB/s at {folder}", todo)
    return Check("write speed", "ok", f"{speed:.0f} MB/s at {folder}")


def sqlite() -> Check:
    if sqlite3.sqlite_version_info < WAL_FLOOR:
        return Check("SQLite", "ok", f"{sqlite3.sqlite_version}: one connection a process, which suffices")
    return Check("SQLite", "ok", f"{sqlite3.sqlite_version}: several connections at once")


def store() -> Check:
    """A store is made, written and read in a temporary folder."""
    with tempfile.TemporaryDirectory() as folder, open_store(Path(folder) / "store.db") as opened:
        add_prompts(opened, [prompt_of("Is the pool open today?")])
        n = len(get_prompts(opened))
    if n != 1:
        return Check("store", "bad", f"one prompt was written and {n} were read", "report this: it is a bug")
    return Check("store", "ok", "made, written and read")
