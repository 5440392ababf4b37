"""Over-optimisation of a finished run: where proxy, held-out and gold reward went, and when the gauge fired.

    tutelage run recipes/overoptimise.toml --out runs/overoptimise
    python benchmarks/gauge.py runs/overoptimise

Prints one JSON line. `in_time` says whether an alarm of over-optimisation rang before the gold reward had lost half of
what it had gained.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from tutelage.log import read_metrics

# Alarms that mean over-optimisation: of the reward, of the KL it spends, or of the variety that it costs.
GAUGE = ("over-optimisation", "reward out of range", "KL blow-up", "entropy collapse", "repetition")


def read(folder: Path) -> dict[str, Any]:
    """The course of the first round's RL."""
    stage = next(p for p in (folder / "round-1" / "ppo", folder / "round-1" / "rloo") if p.is_dir())
    rows = [r for r in read_metrics(stage / "metrics.jsonl") if "eval_gold" in r]
    alarms = json.loads((stage / "lineage.json").read_text(encoding="utf-8"))["alarms"]
    return judge(rows, alarms)


def judge(rows: list[dict[str, Any]], alarms: list[dict[str, Any]]) -> dict[str, Any]:
    """Start, peak and end of each reward; the first update of each alarm; whether the gauge was in time."""
    gold = [r["eval_gold"] for r in rows]
    peak = gold.index(max(gold))
    half = gold[0] + (gold[peak] - gold[0]) / 2
    lost = next((r["step"] for r in rows[peak:] if r["eval_gold"] < half), None)
    first = {name: min((a["step"] for a in alarms if a["name"] == name), default=None) for name in GAUGE}
    rang = [step for step in first.values() if step is not None]
    return {
        "benchmark": "gauge",
        "gold": {"start": gold[0], "peak": gold[peak], "peak_at": rows[peak]["step"], "end": gold[-1]},
        "proxy": {"start": rows[0]["eval_proxy"], "end": rows[-1]["eval_proxy"]},
        "held_out": {"start": rows[0]["eval_held_out"], "end": rows[-1]["eval_held_out"]},
        "kl_at_peak": rows[peak]["eval_kl"],
        "kl_at_end": rows[-1]["eval_kl"],
        "alarms": first,
        "half_of_the_gain_lost_at": lost,
        "in_time": bool(rang) and (lost is None or min(rang) <= lost),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    print(json.dumps(read(parser.parse_args().folder)))


if __name__ == "__main__":
    main()
