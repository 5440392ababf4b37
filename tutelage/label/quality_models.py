"""How models stand in people's eyes: scores of model versions, and the newest reward model against each person.

Reads a run directory's JSON and nothing else of it.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tutelage.errors import DataError
from tutelage.label.quality_counts import Pair
from tutelage.stats.agreement import Rate
from tutelage.stats.ties import fit_davidson
from tutelage.store.quality_facts import JudgedText

RESAMPLES = 200
PEOPLE = "written by people"


@dataclass(frozen=True, slots=True)
class VersionFigures:
    """One model version by Davidson's model. `beats` is what it would get against the mean version, ties as half."""

    name: str
    n: int  # comparisons with other versions
    score: float  # nats, mean 0
    low: float
    high: float
    beats: float


@dataclass(frozen=True, slots=True)
class RewardCard:
    """How well the newest round's reward model orders held-out pairs, on the whole and as each person did."""

    where: str  # of the run directory: round-2/reward-0
    whole: Rate
    by_labeler: Mapping[str, Rate]


def _name(text: JudgedText) -> str | None:
    if text.model_version is not None:
        return text.model_version
    return PEOPLE if text.origin in ("human", "edited") else None


def version_figures(pairs: Iterable[Pair], texts: Mapping[str, JudgedText]) -> tuple[VersionFigures, ...]:
    """Best first; empty where no two versions were compared. Intervals draw prompts again, with replacement."""
    told = []
    for p in pairs:
        a, b = _name(texts[p.first]), _name(texts[p.second])
        if a is not None and b is not None and a != b:
            told.append((p.prompt_id, a, b, p.sign))
    if not told:
        return ()
    names = sorted({name for _, a, b, _ in told for name in (a, b)})
    number = {name: i for i, name in enumerate(names)}
    cells = sorted({(number[a], number[b], sign) for _, a, b, sign in told})
    cell = {c: i for i, c in enumerate(cells)}
    prompt = {p: i for i, p in enumerate(dict.fromkeys(p for p, *_ in told))}
    counts = np.zeros((len(prompt), len(cells)))
    np.add.at(counts, ([prompt[p] for p, *_ in told], [cell[number[a], number[b], s] for _, a, b, s in told]), 1.0)
    i, j, outcome = (np.array(column) for column in zip(*cells, strict=True))
    whole = fit_davidson(i, j, outcome, n_items=len(names), weight=counts.sum(0), l2=0.01)
    rng, drawn = np.random.default_rng(0), []
    for _ in range(RESAMPLES):
        times = np.bincount(rng.integers(len(prompt), size=len(prompt)), minlength=len(prompt))
        drawn.append(fit_davidson(i, j, outcome, n_items=len(names), weight=times @ counts, l2=0.01).scores)
    low, high = np.quantile(np.array(drawn), [0.025, 0.975], axis=0)
    n = np.bincount(np.concatenate([i, j]), np.tile(counts.sum(0), 2), len(names))
    half = np.exp(whole.scores / 2)
    beats = (half**2 + whole.nu * half / 2) / (half**2 + whole.nu * half + 1)
    rows = zip(names, n, whole.scores, low, high, beats, strict=True)
    found = [VersionFigures(name, int(k), *(float(x) for x in rest)) for name, k, *rest in rows]
    return tuple(sorted(found, key=lambda v: (-v.score, v.name)))


# The reward model.


def newest_reward_card(run: Path) -> RewardCard | None:
    """What the newest round with a measured reward model says of it; None where no round has come so far."""
    rounds = [(int(m[1]), p) for p in run.glob("round-*") if (m := re.fullmatch(r"round-(\d+)", p.name))]
    for _, folder in sorted(rounds, reverse=True):
        path = folder / "reward-0" / "reward.json"
        if path.is_file():
            return _card(path, f"{folder.name}/reward-0")
    return None


def _card(path: Path, where: str) -> RewardCard | None:
    try:
        card = json.loads(path.read_text("utf-8"))["card"]
        if not card:
            return None
        people = {name: _rate(a["accuracy"], a["low"], a["high"], a["n"]) for name, a in card["by_labeler"].items()}
        return RewardCard(
            where, _rate(card["accuracy"], card["accuracy_low"], card["accuracy_high"], card["n"]), people
        )
    except (ValueError, KeyError, TypeError) as e:
        raise DataError(
            f"{path} is not the card of a reward model ({type(e).__name__}: {e}). Was it changed by hand? Restore it."
        ) from e


def _rate(value: float, low: float, high: float, n: int) -> Rate:
    return Rate(float(value), float(low), float(high), int(n))
