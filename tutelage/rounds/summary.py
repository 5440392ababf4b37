"""What a finished run says of itself: win rates, KL, labels, lineage, memory and time, as one JSON object."""

import json
import resource
from collections.abc import Sequence
from typing import Any

from tutelage.rounds.judge import Contender
from tutelage.rounds.prepare import version_id
from tutelage.rounds.profile import PROFILE
from tutelage.rounds.run import Run, read_state
from tutelage.store.feedback import count
from tutelage.store.lineage import trace
from tutelage.store.people import labelers


def summarise(run: Run, contenders: Sequence[Contender], best: Contender) -> dict[str, Any]:
    """Reads what the stages published; computes nothing anew."""
    rounds = []
    for i in range(1, run.recipe.run.rounds + 1):
        folder = run.folder / f"round-{i}"
        figures = json.loads((folder / "evaluation" / "figures.json").read_text(encoding="utf-8"))
        labels = folder / "labels" / "labels.json"
        rounds.append(
            {
                "round": i,
                "win_rates": figures["win_rates"],
                "kl": figures["kl"],
                "policy": figures["policies"][figures["newest"]],
                "promoted": figures["promoted"],
                "reasons": figures["reasons"],
                "labels": json.loads(labels.read_text(encoding="utf-8")) if labels.exists() else None,
            }
        )
    lineage = trace(run.store, version_id(best.folder))
    stages = read_state(run.folder)["stages"]
    return {
        "best": best.name,
        "best_version": version_id(best.folder),
        "best_folder": str(best.folder.relative_to(run.folder)),
        "judge": figures["judge"],
        "rounds": rounds,
        "policies": {c.name: version_id(c.folder) for c in contenders},
        "rankings": count(run.store, kind="ranking"),
        "labelers": {
            k: sum(1 for person in labelers(run.store) if person.kind == k)
            for k in ("human", "model", "simulated", "import")
        },
        "lineage": [
            {
                "version": s.version.id,
                "snapshot": s.version.snapshot,
                "judgements": {p.labeler: p.judgements for p in s.shares},
            }
            for s in lineage.steps
        ],
        "seconds": sum(s["seconds"] for s in stages.values() if "seconds" in s),
        "peak_memory_gb": peak_memory_gb(run),
    }


def peak_memory_gb(run: Run) -> float:
    """What the process held at most. A profile sets the system's record of it back, and so keeps what stood there."""
    kept = [json.loads(p.read_text(encoding="utf-8")) for p in run.folder.glob(f"round-*/*/{PROFILE}")]
    now = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return float(max(now, *(profile["process_bytes"] / 2**30 for profile in kept))) if kept else now
