"""Measuring models outside a run: scores of answers, how well a reward model judges, one policy against another."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tutelage.engine.request import SamplingConfig
from tutelage.errors import DataError
from tutelage.evals.policy import describe
from tutelage.evals.reward_model import Score, evaluate
from tutelage.evals.winrate import win_rate
from tutelage.log import Progress
from tutelage.reward.scorer import Mode, Scorer
from tutelage.rounds.files import read_items, read_prompts
from tutelage.rounds.machines import fitting
from tutelage.rounds.talk import Speaker, answer_all, open_speaker
from tutelage.types import Completion, Demonstration, Prompt, RankedGroup

CHUNK = 256  # texts scored between two redrawings of the live line
Answered = Demonstration | RankedGroup


def score(folder: Path, data: Path) -> dict[str, Any]:
    """A reward model's score of every answer in a file, row by row. What exceeds the window is left out and counted."""
    scorer, found = Scorer.load([folder]), read_items(data)
    usable = [(where, item) for where, item in found.items if not isinstance(item, Prompt)]
    if not usable:
        raise DataError(
            f"{data} holds prompts without answers: there is nothing to score. `tutelage sample` answers them."
        )
    kept = [(where, item) for where, item in usable if fits(scorer, item.prompt, _texts(item))]
    if not kept:
        raise DataError(_all_too_long(data, len(usable)))
    look_up = scored_once(scorer, [(item.prompt, text) for _, item in kept for text in _texts(item)])
    out = [{"where": where, **_scored(item, look_up)} for where, item in kept]
    flat = [s for row in out for s in _scores(row)]
    return {
        "model": str(folder),
        "n": len(flat),
        "mean": sum(flat) / len(flat),
        "lowest": min(flat),
        "highest": max(flat),
        "too_long": len(usable) - len(kept),
        "refused": found.refused,
        "rows": out,
    }


def _texts(item: Answered) -> tuple[str, ...]:
    return item.texts if isinstance(item, RankedGroup) else (item.text,)


def _scored(item: Answered, look_up: Score) -> dict[str, Any]:
    scores = look_up([item.prompt] * len(_texts(item)), _texts(item)).tolist()
    by = {name: value for name, value in (("labeler", item.labeler), ("source", item.source)) if value}
    prompt = [m.model_dump() for m in item.prompt.messages]
    if isinstance(item, Demonstration):
        return {"prompt": prompt, "completion": item.text, "score": scores[0], **by}
    ranked = zip(item.texts, item.tiers, scores, strict=True)
    return {"prompt": prompt, "completions": [{"text": t, "tier": tier, "score": s} for t, tier, s in ranked], **by}


def _scores(row: dict[str, Any]) -> list[float]:
    return [c["score"] for c in row["completions"]] if "completions" in row else [row["score"]]


def fits(scorer: Scorer, prompt: Prompt, texts: Sequence[str]) -> bool:
    """Whether every member of the ensemble can read the whole of each text."""
    try:
        for member in scorer.members:
            for text in texts:
                member.row(prompt, text)
    except DataError:
        return False
    return True


def scored_once(scorer: Scorer, answers: Iterable[tuple[Prompt, str]]) -> Score:
    """A look-up of scores, each text scored once, with a live line.

    A text that stands in two batches would get two scores that differ in the last digit: a tie would look like a win.
    """
    once = list({(p.id, t): (p, t) for p, t in answers}.values())
    progress, known = Progress("scoring", len(once)), dict[tuple[str, str], float]()
    for start in range(0, len(once), CHUNK):
        part = once[start : start + CHUNK]
        scores = scorer([p for p, _ in part], [t for _, t in part]).tolist()
        known |= {(p.id, t): s for (p, t), s in zip(part, scores, strict=True)}
        progress.advance(len(part))

    def look_up(prompts: Sequence[Prompt], texts: Sequence[str]) -> Tensor:
        return torch.tensor([known[p.id, t] for p, t in zip(prompts, texts, strict=True)])

    return look_up


def _all_too_long(data: Path, n: int) -> str:
    return (
        f"{data}: each of the {n} rows is longer than the reward model's window. Give shorter rows, or use a reward "
        f"model with a longer window."
    )


def reward(folders: Sequence[Path], data: Path, *, mode: Mode) -> dict[str, Any]:
    """How well a reward model, or an ensemble of several, orders answers as people did; the same for each source.

    A ranking with a text beyond a member's window is left out and counted as `too_long`.
    """
    scorer, found = Scorer.load(folders, mode=mode), read_items(data)
    groups = [item for _, item in found.items if isinstance(item, RankedGroup)]
    if not groups:
        raise DataError(f"{data} holds no comparison, so there is nothing to agree with. Give rankings or pairs.")
    kept = [g for g in groups if fits(scorer, g.prompt, g.texts)]
    if not kept:
        raise DataError(_all_too_long(data, len(groups)))
    look_up = scored_once(scorer, [(g.prompt, t) for g in kept for t in g.texts])
    sources = sorted({g.source for g in kept if g.source})
    parts = {name: [g for g in kept if g.source == name] for name in sources}
    return evaluate(look_up, kept).to_json() | {
        "by_source": {name: _brief(look_up, part) for name, part in parts.items()},
        "models": [str(f) for f in folders],
        "combine": mode,
        "rankings": len(kept),
        "too_long": len(groups) - len(kept),
        "refused": found.refused,
    }


def _brief(score: Score, groups: Sequence[RankedGroup]) -> dict[str, Any]:
    """The figures that are given for the whole file, for one source of it. Where all are ties there is no accuracy."""
    keys = ("n", "n_ties", "accuracy", "accuracy_low", "accuracy_high", "ece", "longer_wins_accuracy")
    if all(len(set(g.tiers)) == 1 for g in groups):
        n_ties = sum(math.comb(len(g.tiers), 2) for g in groups)
        return dict.fromkeys(keys) | {"n": 0, "n_ties": n_ties}
    figures = evaluate(score, groups).to_json()
    return {key: figures[key] for key in keys}


def policy(
    where: str, against: str, prompts: Path, judge: Path, *, sampling: SamplingConfig, seed: int
) -> dict[str, Any]:
    """How often one policy's answers are judged better than another's, and what the answers of both are like.

    Both answer with the same seeds, so that equal policies tie everywhere. Prompts that leave no room for an answer,
    and answers beyond the judge's window, are left out and counted as `too_long`.
    """
    ours, theirs, scorer = open_speaker(where), open_speaker(against), Scorer.load([judge])
    asked, refused = read_prompts(prompts)
    short = fitting(fitting(asked, ours.chat, sampling.max_new_tokens)[0], theirs.chat, sampling.max_new_tokens)[0]
    pairs = zip(short, *(answer_all(s, short, n=1, sampling=sampling, seed=seed) for s in (ours, theirs)), strict=True)
    judged = [(p, a, b) for p, a, b in pairs if fits(scorer, p, (a.text, b.text))]
    if not judged:
        raise DataError(_all_too_long(prompts, len(short)))
    kept, a, b = [p for p, _, _ in judged], [a for _, a, _ in judged], [b for _, _, b in judged]
    look_up = scored_once(scorer, [(p, c.text) for p, *two in judged for c in two])
    won = win_rate(kept, a, b, lambda ps, cs: look_up(ps, [c.text for c in cs]).tolist(), seed=seed)
    return asdict(won) | {
        "losses": won.losses,
        "judge": str(judge),
        "too_long": len(asked) - len(kept),
        "refused": refused,
        "model": _described(ours, a),
        "against": _described(theirs, b),
    }


def _described(speaker: Speaker, written: Sequence[Completion]) -> dict[str, Any]:
    figures = describe(written, vocabulary=speaker.model.vocabulary)
    return {"name": speaker.source, "version": speaker.version, **figures}
