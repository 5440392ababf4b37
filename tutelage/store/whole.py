"""Judgements made whole: an event with the prompt and the completions that it names, as training and export want it."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from tutelage.store.completions import get_completions
from tutelage.store.db import Store, chunks
from tutelage.store.feedback import completions_named, event_id
from tutelage.store.prompts import get_prompts
from tutelage.types import (
    Adjudication,
    Completion,
    CorrectionGiven,
    Demonstration,
    DemonstrationGiven,
    Prompt,
    RankedGroup,
    Ranking,
    StoredFeedback,
)


@dataclass(frozen=True, slots=True)
class Whole:
    """An event and all that it names."""

    stored: StoredFeedback
    prompt: Prompt
    completions: dict[str, Completion]

    @property
    def source(self) -> str:
        return self.stored.feedback.source or self.prompt.source

    @property
    def labeler(self) -> str:
        return self.stored.feedback.labeler


def whole(store: Store, events: Iterable[StoredFeedback]) -> Iterator[Whole]:
    """Each event made whole, in order, a batch of look-ups at a time."""
    for chunk in chunks(events):
        prompts = {p.id: p for p in get_prompts(store, (s.feedback.prompt_id for s in chunk))}
        ids = dict.fromkeys(i for s in chunk for i in completions_named(s.feedback.judgement))
        found = dict(zip(ids, get_completions(store, ids), strict=True))
        for s in chunk:
            named = completions_named(s.feedback.judgement)
            yield Whole(s, prompts[s.feedback.prompt_id], {i: found[i] for i in named})


def place_of(one: Whole, completion_id: str) -> int | None:
    """The place, from 1, at which a completion was presented; None where that is not known."""
    shown = one.stored.feedback.shown
    return shown.index(completion_id) + 1 if completion_id in shown else None


def ranked(one: Whole) -> list[tuple[Completion, int]]:
    """Completions and tiers of a ranking or a reviewer's decision, or of a correction: the new text above the old one.

    Nothing of any other judgement.
    """
    j = one.stored.feedback.judgement
    if isinstance(j, Ranking | Adjudication):
        return [(one.completions[i.completion_id], i.tier) for i in j.items]
    if isinstance(j, CorrectionGiven):
        return [(one.completions[j.corrected_id], 1), (one.completions[j.completion_id], 2)]
    return []


def ranked_group(one: Whole) -> RankedGroup | None:
    """The judgement as a ranking to train on, if it is one."""
    found, j = ranked(one), one.stored.feedback.judgement
    if not found:
        return None
    given = (j.margin if j.margin is not None else j.strength) if isinstance(j, Ranking) else None
    return RankedGroup(
        prompt=one.prompt,
        texts=tuple(c.text for c, _ in found),
        tiers=tuple(tier for _, tier in found),
        labeler=one.labeler,
        source=one.source,
        margin=None if given is None else float(given),
        event=event_id(one.stored.feedback),
        aspect=j.aspect if isinstance(j, Ranking) else "overall",
    )


def demonstrated(one: Whole) -> Completion | None:
    """The text that a demonstration or a correction gives, if the judgement is one."""
    j = one.stored.feedback.judgement
    if isinstance(j, CorrectionGiven):
        return one.completions[j.corrected_id]
    return one.completions[j.completion_id] if isinstance(j, DemonstrationGiven) else None


def demonstration(one: Whole) -> Demonstration | None:
    """The judgement as a demonstration to train on, if it is one."""
    found = demonstrated(one)
    if found is None:
        return None
    return Demonstration(prompt=one.prompt, text=found.text, labeler=one.labeler, source=one.source)
