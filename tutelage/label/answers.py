"""What a labeler's page sends, checked, and turned into judgements. Cards are numbered as they were presented: the
browser never learns which completion or which model a card is.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from tutelage.errors import DataError
from tutelage.store.assignments import Held
from tutelage.store.projects import Project
from tutelage.types import (
    Completion,
    CorrectionGiven,
    Critique,
    DemonstrationGiven,
    DemonstrationProposed,
    Fact,
    Feedback,
    Flag,
    Judgement,
    RankedItem,
    Ranking,
    Rating,
    Skip,
)

KEY = r"^[A-Za-z0-9-]{8,64}$"
Words = Annotated[str, Field(min_length=1, max_length=20_000)]


class CardFlag(Fact):
    """Something wrong with a card, or with the prompt (card None)."""

    card: int | None = Field(default=None, ge=0, le=8)
    category: str = Field(min_length=1, max_length=40)
    note: str = Field(default="", max_length=2000)


class CardCritique(Fact):
    """Words about a card, or about a span of its characters."""

    card: int = Field(ge=0, le=8)
    text: Words
    span: tuple[int, int] | None = None


class CardText(Fact):
    """A better version of a card."""

    card: int = Field(ge=0, le=8)
    text: Words


class Answer(Fact):
    """One submission. Which fields count depends on the kind of task; the others must be absent."""

    key: str = Field(pattern=KEY)  # made by the browser; the same key sent again is the same answer
    tiers: tuple[int, ...] | None = None  # rank: of each card, 1 is best
    outcome: Literal["left", "right", "tie", "both_bad"] | None = None  # compare
    strength: int | None = Field(default=None, ge=0, le=3)
    text: Words | None = None  # demonstrate, correct
    card: int | None = Field(default=None, ge=0, le=8)  # correct: which card was edited
    none_acceptable: bool = False
    ratings: dict[str, tuple[int | None, ...]] = Field(default_factory=dict)  # by aspect, of each card, 1 to 7
    flags: tuple[CardFlag, ...] = Field(default=(), max_length=40)
    critiques: tuple[CardCritique, ...] = Field(default=(), max_length=40)
    corrections: tuple[CardText, ...] = Field(default=(), max_length=9)  # beside a ranking
    active_ms: int = Field(default=0, ge=0, le=86_400_000)
    client_at: str | None = Field(default=None, max_length=40)


class Skipped(Fact):
    """A task left undone, and why."""

    key: str = Field(pattern=KEY)
    reason: Literal["unclear", "too-long", "not-my-language", "distressing", "broken", "other"]
    note: str = Field(default="", max_length=500)
    active_ms: int = Field(default=0, ge=0, le=86_400_000)


@dataclass(frozen=True, slots=True)
class Made:
    """The judgements of one answer, the main one first, and the texts that its author wrote."""

    feedbacks: list[Feedback]
    written: list[Completion]
    tiers: tuple[int, ...] | None  # of the cards, where they were ranked


def judgements(answer: Answer, held: Held, project: Project, texts: Sequence[str], guideline: str | None) -> Made:
    """Turns an answer into judgements. Raises DataError for what the task did not ask or the cards cannot bear.

    texts  of the cards, in the order of presentation
    """
    kind, written = held.task.kind, list[Completion]()
    tiers: tuple[int, ...] | None = None
    found: list[Judgement] = []
    match kind:
        case "rank":
            tiers = _tiers(answer, held)
            found.append(_ranking(held, tiers, none_acceptable=answer.none_acceptable))
        case "compare":
            tiers = _outcome(answer)
            both_bad = answer.outcome == "both_bad"
            found.append(_ranking(held, tiers, strength=answer.strength, none_acceptable=both_bad))
        case "demonstrate":
            made = Completion(prompt_id=held.task.prompt_id, text=_text(answer), origin="human")
            written.append(made)
            waits = project.settings.review_demonstrations
            found.append((DemonstrationProposed if waits else DemonstrationGiven)(completion_id=made.id))
        case "correct":
            found.append(_corrected(held, texts, answer.card, _text(answer), written))
        case "critique":
            if not answer.critiques:
                raise DataError("There is no critique yet. Write what is right or wrong, or skip the task.")
        case _:
            raise DataError(f"A task to {kind} is not answered here.")
    found += [_corrected(held, texts, c.card, c.text.strip(), written) for c in answer.corrections]
    found += _ratings(answer, held, project) + _flags(answer, held, project) + _critiques(answer, held, texts)
    return Made([_feedback(answer, held, j, i, guideline) for i, j in enumerate(found)], written, tiers)


def _feedback(answer: Answer, held: Held, judgement: Judgement, i: int, guideline: str | None) -> Feedback:
    return Feedback(
        labeler=held.labeler,
        prompt_id=held.task.prompt_id,
        judgement=judgement,
        idempotency_key=answer.key if i == 0 else f"{answer.key}:{i}",
        source=held.task.source,
        shown=tuple(number for card in held.cards for number in card),
        active_ms=answer.active_ms,
        client_at=answer.client_at,
        guideline=guideline,
    )


def skip(given: Skipped, held: Held) -> Feedback:
    """The event of a skipped task."""
    return Feedback(
        labeler=held.labeler,
        prompt_id=held.task.prompt_id,
        judgement=Skip(reason=f"{given.reason}: {given.note}" if given.note else given.reason),
        idempotency_key=given.key,
        source=held.task.source,
        shown=tuple(number for card in held.cards for number in card),
        active_ms=given.active_ms,
    )


def _tiers(answer: Answer, held: Held) -> tuple[int, ...]:
    """A tier for every card that was shown, without gaps: an order that nobody made is never stored."""
    tiers, n = answer.tiers, len(held.cards)
    if tiers is None or len(tiers) != n:
        raise DataError(f"{n} answers were shown, and {len(tiers or ())} have a place. Place each of them.")
    if sorted(set(tiers)) != list(range(1, len(set(tiers)) + 1)):
        raise DataError(f"the places {sorted(set(tiers))} have a gap. Number them 1, 2, 3, …; equal places are ties.")
    return tiers


def _outcome(answer: Answer) -> tuple[int, ...]:
    of = {"left": (1, 2), "right": (2, 1), "tie": (1, 1), "both_bad": (1, 1)}
    if answer.outcome is None:
        raise DataError("Neither side was chosen. Choose left, right, a tie, or both bad.")
    return of[answer.outcome]


def _ranking(
    held: Held, tiers: tuple[int, ...], *, strength: int | None = None, none_acceptable: bool = False
) -> Ranking:
    return Ranking(
        items=tuple(
            RankedItem(completion_id=number, tier=tier)
            for card, tier in zip(held.cards, tiers, strict=True)
            for number in card
        ),
        strength=strength,
        none_acceptable=none_acceptable,
    )


def _text(answer: Answer) -> str:
    text = (answer.text or "").strip()
    if not text:
        raise DataError("There is no text yet. Write one, or skip the task.")
    return _whole(text)


def _whole(text: str) -> str:
    if "\x00" in text:
        raise DataError("The text holds a NUL character. Take it out.")
    return text


def _corrected(
    held: Held, texts: Sequence[str], card: int | None, text: str, written: list[Completion]
) -> CorrectionGiven:
    """A correction of a card; its text joins `written`."""
    old = _card(held, card)
    if not text or text == texts[card or 0].strip():
        raise DataError("The text is as it was: a correction changes something. Edit it, or leave it out.")
    made = Completion(prompt_id=held.task.prompt_id, text=_whole(text), origin="edited", parent=old)
    written.append(made)
    return CorrectionGiven(completion_id=old, corrected_id=made.id)


def _card(held: Held, number: int | None) -> str:
    if number is None or not 0 <= number < len(held.cards):
        raise DataError(f"there is no card {number}; {len(held.cards)} were shown.")
    return held.cards[number][0]


def _ratings(answer: Answer, held: Held, project: Project) -> list[Judgement]:
    found: list[Judgement] = []
    known = {a.key for a in project.settings.aspects}
    for aspect, values in sorted(answer.ratings.items()):
        if aspect not in known:
            raise DataError(f"this project does not rate {aspect!r}. Reload the page.")
        if len(values) != len(held.cards):
            raise DataError(f"{len(held.cards)} answers were shown, and {len(values)} are rated on {aspect!r}.")
        for card, value in zip(held.cards, values, strict=True):
            if value is None:
                continue
            if not 1 <= value <= 7:
                raise DataError(f"{value} is no grade; grades run from 1 to 7.")
            found += [Rating(completion_id=number, aspect=aspect, value=float(value)) for number in card]
    return found


def _flags(answer: Answer, held: Held, project: Project) -> list[Judgement]:
    known = {f.key for f in project.settings.flags}
    for flag in answer.flags:
        if flag.category not in known:
            raise DataError(f"this project has no flag {flag.category!r}. Reload the page.")
    return [
        Flag(category=f.category, completion_id=None if f.card is None else _card(held, f.card), note=f.note)
        for f in answer.flags
    ]


def _critiques(answer: Answer, held: Held, texts: Sequence[str]) -> list[Judgement]:
    found: list[Judgement] = []
    for c in answer.critiques:
        number = _card(held, c.card)
        if c.span is not None and not 0 <= c.span[0] < c.span[1] <= len(texts[c.card]):
            raise DataError(f"the span {c.span} lies outside the answer of {len(texts[c.card])} characters.")
        if not c.text.strip():
            raise DataError("A critique has no words yet. Write what is right or wrong, or leave it out.")
        found.append(Critique(completion_id=number, text=c.text.strip(), span=c.span))
    return found
