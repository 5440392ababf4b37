"""Project and peer in turns within one run: start both, probe the machine, let each work, and keep what was quiet.

A side is a worker process that speaks `peers/turns.py`. Its rate is useful work divided by seconds. A round is one
turn of every side; a round is dropped when the matrix probe before or after it fell below QUIET of the usual.
"""

import argparse
import json
import os
import shlex
import signal
import statistics
import subprocess
import sys
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import machine
import torch
from peers.turns import END, GO, MARK
from world import World

HERE = Path(__file__).parent
QUIET = 0.9  # of the quiet probe, below which a round does not count
RESULTS = HERE / "results"


# Libraries of both sides: no network, no bars, no thread pools beside the ones that are measured.
OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_VERBOSITY": "error",
    "TRL_EXPERIMENTAL_SILENCE": "1",
    "VLLM_CPU_KVCACHE_SPACE": "2",  # GiB
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
    "PYTHONWARNINGS": "ignore",
}


class SideError(Exception):
    """A worker process ended early; the message is the end of what it wrote."""


@dataclass
class Side:
    """One worker process."""

    name: str
    command: Sequence[str]
    threads: int
    cpus: Sequence[int]
    facts: dict[str, Any] = field(default_factory=dict)
    process: "subprocess.Popen[str] | None" = None
    talk: deque[str] = field(default_factory=lambda: deque(maxlen=40))  # what it printed besides, for an error

    def start(self) -> None:
        """Starts it and waits until it has warmed up."""
        threads = str(self.threads)
        env = {**os.environ, **OFFLINE, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
        env.pop("GOMP_SPINCOUNT", None)  # ours was set by importing tutelage; each side waits as it does by itself
        self.process = subprocess.Popen(
            ["taskset", "-c", ",".join(map(str, self.cpus)), *self.command],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env,
        )  # fmt: skip
        self.facts = self._answer()

    def turn(self) -> dict[str, Any]:
        self._tell(GO)
        return self._answer()

    def close(self) -> dict[str, Any]:
        """Ends it; returns its peak memory."""
        self._tell(END)
        last = self._answer()
        self.kill()
        return last

    def _tell(self, word: str) -> None:
        assert self.process is not None and self.process.stdin is not None
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()

    def _answer(self) -> dict[str, Any]:
        assert self.process is not None and self.process.stdout is not None
        for row in self.process.stdout:
            if row.startswith(MARK):
                return dict(json.loads(row.removeprefix(MARK)))
            self.talk.append(row)
        code = self.process.wait()
        self.kill()
        raise SideError(f"{self.name} ended early, with exit code {code}:\n{''.join(self.talk)}")

    def kill(self) -> None:
        """Leaves nothing behind, wherever the process stands."""
        if self.process is not None:
            self.process.kill()
            with self.process:  # waits, and closes its pipes
                self.process = None


@dataclass
class Spread:
    """A median with the least and the most."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        return cls(statistics.median(values), min(values), max(values))

    def to_json(self) -> dict[str, float]:
        return {name: float(f"{getattr(self, name):.4g}") for name in ("median", "low", "high")}


def take_rounds(
    sides: Sequence[Side], n: int, read_bytes: int = 0
) -> tuple[list[dict[str, dict[str, Any]]], list[dict[str, float]], list[float]]:
    """`n` rounds of every side in turn, and the probes around them, one more than rounds.

    read_bytes  how much memory is read at each probe; the last part of the answer has the rates, in GB/s
    """
    rounds: list[dict[str, dict[str, Any]]] = []
    probes, reads = [machine.probe()], [machine.read_bandwidth(read_bytes)] if read_bytes else []
    for _ in range(n):
        rounds.append({side.name: side.turn() for side in sides})
        probes.append(machine.probe())
        reads += [machine.read_bandwidth(read_bytes)] if read_bytes else []
    return rounds, probes, reads


def quiet_rounds(probes: Sequence[Mapping[str, float]], quiet: Mapping[str, float]) -> list[int]:
    """Rounds with a quiet machine before and after: round i lies between probes i and i + 1."""

    def is_quiet(found: Mapping[str, float]) -> bool:
        return all(found[name] >= QUIET * quiet[name] for name in quiet)

    return [i for i in range(len(probes) - 1) if is_quiet(probes[i]) and is_quiet(probes[i + 1])]


def compare(
    bench: str,
    case: str,
    sides: Sequence[Side],
    *,
    options: argparse.Namespace,
    work: str,
    read_bytes: int = 0,
    **more: Any,
) -> dict[str, Any]:
    """Runs the sides, writes the result as one line to results and standard output, and returns it.

    work        what a turn's answer counts as done, such as `tokens`; rates are in this a second
    read_bytes  how much memory is read, as a limit, around each turn
    more        goes into the line as it is
    The first side is the project; each of the others is a peer, with the ratio to it.
    """
    prepare(options)
    try:
        for side in sides:
            side.start()
        peak = machine.matrix_peak()
        rounds, probes, reads = take_rounds(sides, options.pairs, read_bytes)
        peak = max(peak, machine.matrix_peak())
        ends = {side.name: side.close() for side in sides}
    finally:
        for side in sides:
            side.kill()
    limits = {"peak": peak, "read_gb_s": round(statistics.median(reads), 2) if reads else None}
    return conclude(bench, case, sides, rounds, probes, ends, options=options, work=work, **limits, **more)


def prepare(options: argparse.Namespace) -> None:
    """Holds this process, which takes the probes, to the cores and threads that the sides have.

    Told to end, it ends its workers first, which would disturb what is measured next.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    torch.set_num_threads(options.threads)
    os.sched_setaffinity(0, cpus(options.threads))


def head(bench: str, case: str, options: argparse.Namespace) -> dict[str, Any]:
    """How every line of results begins."""
    command = shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]])
    return {"bench": bench, "case": case, "command": command, **machine.facts(), "threads": options.threads}


def conclude(
    bench: str,
    case: str,
    sides: Sequence[Side],
    rounds: Sequence[Mapping[str, Mapping[str, Any]]],
    probes: Sequence[Mapping[str, float]],
    ends: Mapping[str, Mapping[str, Any]],
    *,
    options: argparse.Namespace,
    work: str,
    **more: Any,
) -> dict[str, Any]:
    """Drops what was not quiet, and writes the line of a comparison."""
    quiet = quiet_probe(probes, options.threads, options.keep or RESULTS)
    kept = quiet_rounds(probes, quiet)
    line = head(bench, case, options) | {
        "probe": {
            "quiet": quiet,
            "best": {k: max(p[k] for p in probes) for k in quiet},
            "median": {k: statistics.median(p[k] for p in probes) for k in quiet},
        },
        "pairs": len(kept),
        "dropped": len(rounds) - len(kept),
        "unit": f"{work}/s",
        "sides": {s.name: {**_side(s, [r[s.name] for r in rounds], kept, work), **ends[s.name]} for s in sides},
        **more,
    }
    if kept:
        line["ratios"] = {s.name: _ratio(rounds, kept, sides[0].name, s.name, work) for s in sides[1:]}
    write(line, options)
    return line


def _rate(turn: Mapping[str, Any], work: str) -> float:
    return float(turn[work]) / float(turn["seconds"])


def _side(side: Side, turns: Sequence[Mapping[str, Any]], kept: Sequence[int], work: str) -> dict[str, Any]:
    """One side's rate over the quiet rounds (over all where none was), what else its turns tell, and its settings."""
    chosen = [turns[i] for i in kept] or list(turns)
    numbers = {k for k, v in chosen[0].items() if isinstance(v, int | float)}
    return {
        "rate": Spread.of([_rate(t, work) for t in chosen]).to_json(),
        **{k: float(f"{statistics.median(t[k] for t in chosen):.5g}") for k in sorted(numbers)},
        "settings": side.facts,
    }


def _ratio(
    rounds: Sequence[Mapping[str, Mapping[str, Any]]], kept: Sequence[int], ours: str, peer: str, work: str
) -> dict[str, float]:
    """Ratio of the medians; its spread is that of the rounds."""
    mine, other = ([_rate(rounds[i][name], work) for i in kept] for name in (ours, peer))
    each = [a / b for a, b in zip(mine, other, strict=True)]
    return Spread(statistics.median(mine) / statistics.median(other), min(each), max(each)).to_json()


def quiet_probe(probes: Sequence[Mapping[str, float]], threads: int, results: Path = RESULTS) -> dict[str, float]:
    """The quiet value: the median of the best probes of this run and of all earlier ones since this machine's start.

    The best of all would be the luckiest moment ever, which hardly any other moment comes near.
    """
    me = machine.facts()
    alike = [
        row["probe"]["best"]
        for row in read_results(results)
        if "probe" in row
        and "boot" in row
        and all(row[k] == me[k] for k in ("boot", "cores", "device"))
        and row["threads"] == threads
    ]
    best = {name: max(p[name] for p in probes) for name in probes[0]}
    return {name: statistics.median([best[name], *(row[name] for row in alike)]) for name in best}


def read_results(folder: Path = RESULTS) -> list[dict[str, Any]]:
    """Every line that was kept, oldest first."""
    return [
        json.loads(row)
        for path in sorted(folder.glob("*.jsonl"))
        for row in path.read_text("utf-8").splitlines()
        if row
    ]


def write(line: Mapping[str, Any], options: argparse.Namespace) -> None:
    """Prints a result, and appends it to what is kept where that was asked for."""
    text = json.dumps(line, ensure_ascii=False)
    print(text, flush=True)
    if options.keep:
        options.keep.mkdir(exist_ok=True)
        with (options.keep / f"{line['bench']}.jsonl").open("a", encoding="utf-8") as f:
            f.write(text + "\n")


def cpus(threads: int) -> list[int]:
    """The first cores that this process was given."""
    mine = sorted(os.sched_getaffinity(0))
    return mine[:threads] if threads <= len(mine) else mine


def arguments(description: str | None, *, pairs: int = 5, threads: int = 2) -> argparse.ArgumentParser:
    """Options that every benchmark has."""
    p = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--size", default="10M", help="shape of the model, see shapes.py")
    p.add_argument("--pairs", type=int, default=pairs, help="turns of each side")
    p.add_argument("--short", action="store_true", help="one turn of each side: does everything run?")
    p.add_argument("--keep", nargs="?", const=RESULTS, type=Path, help="append the result to a file in this folder")
    p.add_argument("--threads", type=int, default=min(threads, len(os.sched_getaffinity(0))))
    p.add_argument("--serve", default="", help=argparse.SUPPRESS)  # this process is our side, with these settings
    for name, where in PEERS.items():
        p.add_argument(f"--{name}-python", default=os.environ.get(where, ""), help=f"its Python (or ${where})")
    return p


PEERS = {"peer": "TUTELAGE_PEER_PYTHON", "ppo": "TUTELAGE_PPO_PYTHON", "vllm": "TUTELAGE_VLLM_PYTHON"}


def settled(options: argparse.Namespace) -> argparse.Namespace:
    """The options with what a short run implies."""
    if options.short:
        options.pairs = 1
    return options


def hide_gpu() -> None:
    """For what a recipe runs on the CPU alone: a peer on a GPU beside it would be compared with something else.

    Holds for this process and for the sides that it starts; to be called before CUDA is first asked for.
    """
    if os.environ.get("CUDA_VISIBLE_DEVICES") != "":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        if Path("/dev/nvidiactl").exists():
            print("recipes train on the CPU: the GPU is hidden from both sides", file=sys.stderr)


def ours(script: str, options: argparse.Namespace, **settings: Any) -> Side:
    """Our side: the same script in a process of its own, told what to do by `settings`."""
    command = [sys.executable, str(HERE / script), "--serve", json.dumps({"threads": options.threads, **settings})]
    return Side("tutelage", command, options.threads, cpus(options.threads))


def peer(name: str, python: str, script: str, options: argparse.Namespace, **settings: Any) -> list[Side]:
    """A peer's side, or none, with a line that says why, when its Python was not given."""
    if not python:
        print(f"{name}: skipped, no Python with it was given (see benchmarks/peers/README.md)", file=sys.stderr)
        return []
    command = [python, str(HERE / "peers" / script), json.dumps({"threads": options.threads, **settings})]
    return [Side(name, command, options.threads, cpus(options.threads))]


# Weights in bf16 have no float32 copy; the trainers' switch leaves the weights float32 and computes in bf16.
BF16_WEIGHTS, SWITCH, FULL = (
    {"dtype": d, "autocast": a} for d, a in (("bfloat16", False), ("float32", True), ("float32", False))
)
TRL_SETTINGS: dict[str, list[dict[str, Any]]] = {
    "fastest": [BF16_WEIGHTS],
    "bf16": [BF16_WEIGHTS, SWITCH],
    "full": [BF16_WEIGHTS, FULL],
    "all": [BF16_WEIGHTS, SWITCH, FULL],
}


def trl(
    trainer: str,
    python: str,
    script: str,
    options: argparse.Namespace,
    world: World,
    *,
    dtype: str,
    autocast: bool,
    **more: Any,
) -> list[Side]:
    """A TRL trainer's side, named by the two settings that decide its speed."""
    name = f"{trainer}, {dtype} weights" + (", bf16 switch" if autocast else "")
    return peer(
        name, python, script, options, model=str(world.policy), reward=str(world.reward), tasks=str(world.tasks),
        dtype=dtype, autocast=autocast, **more,
    )  # fmt: skip
