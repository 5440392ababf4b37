"""Every benchmark once, briefly: does it run here, and about how fast is it? `make bench` runs this.

Peers whose Python is named take part (peers/README.md); without them only our own rates are shown. One turn a side
proves nothing: figures come from the scripts themselves.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from pairs import HERE, read_results
from report import table

CASES = (
    "decode.py",
    "decode.py --lengths uniform",
    "decode.py --batch 1 --size 60M --threads 1",
    "sft.py",
    "reward.py --k 4",
    "ppo.py",
    "rloo.py",
    "memory.py --settings fastest",
    "neighbour.py",
    "scaling.py --axis batch",
)


def main() -> None:
    failed = []
    with tempfile.TemporaryDirectory() as folder:
        for case in CASES:
            script, *options = case.split()
            start = time.monotonic()
            command = [sys.executable, str(HERE / script), *options, "--short", "--keep", folder]
            done = subprocess.run(command, stdout=subprocess.DEVNULL, check=False)
            failed += [case] if done.returncode else []
            print(
                f"{case}: {'failed' if done.returncode else 'ran'} in {time.monotonic() - start:.0f} s", file=sys.stderr
            )
        rows = read_results(Path(folder))
    lines = []
    for row in rows:
        for name, side in row["sides"].items() if "sides" in row else ():
            speed = f"{side['rate']['median']:,.0f} {row['unit']}" if "rate" in side else ""
            lines.append((row["bench"], row["case"], name, speed, f"{side['peak_gb']:.2f}"))
        for point in row["points"] if "points" in row else ():
            lines.append((row["bench"], f"{row['case']} {point['x']:g}", "tutelage", f"{point['seconds']:.3g} s", ""))
    print(table(("bench", "case", "side", "rate, one turn", "peak GiB"), lines))
    sys.exit(f"failed: {', '.join(failed)}" if failed else 0)


if __name__ == "__main__":
    main()
