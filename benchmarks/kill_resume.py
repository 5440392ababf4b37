"""kill -9 at random moments of a whole run: does the resumed run end with the same weights, byte for byte?

    python benchmarks/kill_resume.py --base MODEL_DIR [--recipe benchmarks/tiny.toml] [--kills 10] [--work DIR]

Runs the recipe once without a break and then once for each kill, killed at a moment drawn uniformly over the time that
the unbroken run took, and started again until it ends. Prints one JSON line: kills, the stage that each one hit, and in
how many runs every weights file has the SHA-256 of the unbroken run.
"""

import argparse
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def weights(folder: Path) -> dict[str, str]:
    """SHA-256 of every published safetensors file of a run."""
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*.safetensors"))
        if "work" not in p.relative_to(folder).parts
    }


def start(recipe: Path, base: str, out: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tutelage", "run", str(recipe), "--out", str(out), "--set", f"base={base}"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def finish(process: subprocess.Popen[bytes]) -> None:
    """Waits for a run; a failure shows what it said."""
    said = process.communicate()[1]
    if process.returncode:
        raise SystemExit(f"the run ended with {process.returncode}:\n{said.decode()[-2000:]}")


def killed_in(out: Path) -> str:
    """The stage that was under way, as the run directory records it."""
    path = out / "state.json"
    if not path.exists():
        return "start"
    running = [n for n, e in json.loads(path.read_text())["stages"].items() if e["state"] == "running"]
    return running[-1] if running else "between stages"


def kill_once(recipe: Path, base: str, out: Path, after_s: float) -> str:
    """Starts a run, kills it with SIGKILL after so many seconds, and runs it to its end.

    Returns the stage that was hit.
    """
    process = start(recipe, base, out)
    time.sleep(after_s)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    hit = killed_in(out)
    finish(start(recipe, base, out))
    return hit


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--base", default="bundled")
    parser.add_argument("--recipe", type=Path, default=Path(__file__).with_name("tiny.toml"))
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, default=None)
    args = parser.parse_args()
    work = args.work or Path(tempfile.mkdtemp(prefix="kill-resume-"))
    began = time.monotonic()
    finish(start(args.recipe, args.base, work / "unbroken"))
    seconds = time.monotonic() - began
    expected = weights(work / "unbroken")
    moments = random.Random(args.seed)
    hits, equal = [], 0
    for k in range(args.kills):
        # One moment from each equal part of the run, so that ten kills reach every stage.
        after = seconds * (k + moments.random()) / args.kills
        hits.append(kill_once(args.recipe, args.base, work / f"killed-{k}", after))
        same = weights(work / f"killed-{k}") == expected
        equal += same
        print(f"kill {k} after {after:.1f} s in {hits[-1]}: {'equal' if same else 'DIFFERENT'}", file=sys.stderr)
    figures = {"kills": args.kills, "equal": equal, "hit": hits, "unbroken_s": round(seconds, 1)}
    print(json.dumps({"benchmark": "kill_resume", **figures}))
    raise SystemExit(0 if equal == args.kills else 1)


if __name__ == "__main__":
    main()
