"""A round of simulated labelling: groups of completions in, rankings in the store out. Knows no formula of taste.

Everything is drawn from (seed, source, task), so the same call made twice, or again after a kill, sends the same events
with the same idempotency keys and adds nothing.
"""

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from tutelage.errors import ConfigError, DataError
from tutelage.seed import derive
from tutelage.simulate.labeller import LabellerConfig, SimulatedLabeller, calibrate_noise, labellers
from tutelage.stats.agreement import pairwise_agreement
from tutelage.store.db import Store
from tutelage.store.feedback import record_many
from tutelage.store.people import add_labeler
from tutelage.types import Completion, Feedback, Labeler, Prompt, RankedItem, Ranking, digest

MAX_ITEMS = 9  # of one ranking, see types.Ranking


class Gold(Protocol):
    """What the labellers see through their noise; BrandVoice is one."""

    def score_many(self, items: Iterable[tuple[Prompt, str, bool]]) -> list[float]: ...


@dataclass(frozen=True, slots=True)
class CollectReport:
    """What was collected, and how good it is. A rate is None where nothing can be compared."""

    n_rankings: int
    n_skipped: int  # groups with fewer than two different texts
    n_pairs: int  # of different texts, in all rankings
    n_ties: int  # of these pairs
    agreement: float | None  # of two labellers of one group, over pairs of different texts, a tie counted half
    accuracy: (
        float | None
    )  # share of strict pairs in which the winner has the higher gold score; equal gold counts half
    sigma: float  # noise of the labellers, units of gold


@dataclass(frozen=True, slots=True)
class Task:
    """One group as the labellers meet it: each different text once, with its gold score."""

    key: str  # digest of the source, the prompt and the completions
    prompt: Prompt
    completions: tuple[Completion, ...]
    texts: tuple[str, ...]  # different ones, in the order of their first completion
    gold: tuple[float, ...]  # of each text


@dataclass(frozen=True, slots=True)
class Judged:
    """One labeller's answer to one task. Example: the tiers `(1, 2)` say that the first text is the better one."""

    task: Task
    labeller: SimulatedLabeller
    tiers: tuple[int, ...]  # of each text of the task
    shown: tuple[int, ...]  # indices of the texts in the order in which they stood on the screen


def collect(
    store: Store,
    groups: Sequence[tuple[Prompt, Sequence[Completion]]],
    *,
    gold: Gold,
    config: LabellerConfig,
    source: str,
    seed: int,
    overlap: float = 0.2,
    sigma: float | None = None,
) -> CollectReport:
    """Ranks the completions of each group and records the rankings; the store must know the prompts and completions.

    source   names the round, so that two rounds never share a draw
    overlap  share of the groups that a second labeller ranks too, in 0..1: what agreement is measured on
    sigma    noise of the labellers, units of gold; None finds the one that gives `config.agreement` on these groups
    """
    if not 0 <= overlap <= 1 or (overlap and config.n_labelers < 2):
        raise ConfigError(
            f"simulate.overlap = {overlap} with simulate.n_labelers = {config.n_labelers}, but overlap is the share of "
            f"groups that a second labeller ranks. Set it in 0..1, and to 0 where there is one labeller."
        )
    tasks = [task for task in _tasks(groups, gold, source) if len(task.texts) > 1]
    if sigma is None:
        sigma = calibrate_noise([t.gold for t in tasks], config.agreement, config.tie_width, seed) if tasks else 0.0
    people = labellers(config, sigma, seed)
    for person in people:
        add_labeler(store, Labeler(pseudonym=person.pseudonym, kind="simulated"))
    judged = [_judge(task, person, seed) for task in tasks for person in _assigned(task, people, seed, overlap)]
    record_many(store, [_feedback(j, source) for j in judged])
    return _report(judged, n_skipped=len(groups) - len(tasks), sigma=sigma)


def _tasks(groups: Sequence[tuple[Prompt, Sequence[Completion]]], gold: Gold, source: str) -> Iterator[Task]:
    for i_group, (prompt, given) in enumerate(groups):
        completions = tuple({c.id: c for c in given}.values())
        if len(completions) > MAX_ITEMS:
            raise DataError(
                f"group {i_group} (prompt {prompt.id}): {len(completions)} completions, but a ranking holds 2 to "
                f"{MAX_ITEMS}. Split the group."
            )
        first = {c.text: c for c in reversed(completions)}
        texts = tuple(dict.fromkeys(c.text for c in completions))
        scores = gold.score_many((prompt, text, first[text].finish_reason != "length") for text in texts)
        key = digest("simulated", source, prompt.id, [c.id for c in completions])
        yield Task(key, prompt, completions, texts, tuple(scores))


def _assigned(
    task: Task, people: Sequence[SimulatedLabeller], seed: int, overlap: float
) -> tuple[SimulatedLabeller, ...]:
    """One labeller, and for a share of the tasks a second one."""
    rng = random.Random(derive(seed, "assigned", task.key))
    twice = rng.random() < overlap
    return tuple(rng.sample(people, 2 if twice else 1))


def _judge(task: Task, person: SimulatedLabeller, seed: int) -> Judged:
    order = list(range(len(task.texts)))
    random.Random(derive(seed, "shown", person.pseudonym, task.key)).shuffle(order)
    return Judged(task, person, person.rank(task.key, task.gold, order), tuple(order))


def _feedback(judged: Judged, source: str) -> Feedback:
    """The ranking as a person's browser would send it. Completions with one text share its tier and its card."""
    task, person = judged.task, judged.labeller
    tier = dict(zip(task.texts, judged.tiers, strict=True))
    cards = {text: [c.id for c in task.completions if c.text == text] for text in task.texts}
    return Feedback(
        labeler=person.pseudonym,
        prompt_id=task.prompt.id,
        judgement=Ranking(items=tuple(RankedItem(completion_id=c.id, tier=tier[c.text]) for c in task.completions)),
        idempotency_key=digest("simulated", task.key, person.pseudonym, person.seed),
        shown=tuple(i for place in judged.shown for i in cards[task.texts[place]]),
        active_ms=person.active_ms(task.key, len(task.texts)),
        source=source,
    )


def _report(judged: Sequence[Judged], *, n_skipped: int, sigma: float) -> CollectReport:
    """Counts, and the two rates, over pairs of different texts."""
    rights: list[float] = []
    n_pairs = n_ties = 0
    for j in judged:
        better, worse = np.triu_indices(len(j.tiers), k=1)
        tier_sign = np.sign(np.array(j.tiers)[worse] - np.array(j.tiers)[better])
        gold_sign = np.sign(np.array(j.task.gold)[better] - np.array(j.task.gold)[worse])
        n_pairs += len(tier_sign)
        n_ties += int((tier_sign == 0).sum())
        rights += [(1 + t * g) / 2 for t, g in zip(tier_sign, gold_sign, strict=True) if t]
    found = pairwise_agreement(
        (j.labeller.pseudonym, j.task.key, dict(zip(j.task.texts, j.tiers, strict=True))) for j in judged
    )
    return CollectReport(
        n_rankings=len(judged),
        n_skipped=n_skipped,
        n_pairs=n_pairs,
        n_ties=n_ties,
        agreement=found.half.value if found.half else None,
        accuracy=float(np.mean(rights)) if rights else None,
        sigma=sigma,
    )
