"""Tasks whose rankings contradict each other, worst first, and one of them laid out for a reviewer. Pure functions."""

import itertools
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256

from tutelage.errors import DataError
from tutelage.store.quality_facts import Decision, GivenAnswer, QualityFacts
from tutelage.types import Completion, Prompt, RankedItem

LETTERS = "ABCDEFGHI"
LONGEST = 1500  # characters of a text in a guideline's example


@dataclass(frozen=True, slots=True)
class Reversal:
    """Two answers of which some people put the one first, and some the other. Places are letters."""

    upper: str
    lower: str
    upper_first: tuple[str, ...]  # pseudonyms; never fewer than the others
    lower_first: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Conflict:
    """A task that two people or more ranked, at least one pair of answers in opposite orders."""

    task_id: int
    kind: str
    prompt_id: str
    answers: tuple[GivenAnswer, ...]  # by pseudonym
    compared: int  # pairs of people on pairs of answers
    reversed: int
    decision: Decision | None

    @property
    def severity(self) -> int:
        """Thousandths of the comparisons in which two people contradict each other."""
        return round(1000 * self.reversed / self.compared)

    @property
    def place(self) -> tuple[int, int]:
        """Its place in the list: the worst first, and of equals the older task."""
        return -self.severity, self.task_id

    @property
    def is_open(self) -> bool:
        """Not decided, or people have said something else since."""
        return self.decision is None or set(self.decision.decided) != {a.event for a in self.answers}

    @property
    def mark(self) -> str:
        """A fingerprint of what is decided between, so that nobody decides what has changed meanwhile."""
        return sha256("|".join(sorted(a.event for a in self.answers)).encode()).hexdigest()[:20]


def conflicts(facts: QualityFacts) -> list[Conflict]:
    """Every conflict, the worst first. Checks, practice and repeats are no part of it."""
    by_task: defaultdict[int, list[GivenAnswer]] = defaultdict(list)
    for a in facts.answers:
        if a.is_counted and a.tiers:
            by_task[a.task_id].append(a)
    found = []
    for task_id, some in by_task.items():
        compared = reversed_ = 0
        for x, y in itertools.combinations(some, 2):
            for one, other in itertools.combinations(x.tiers.keys() & y.tiers.keys(), 2):
                compared += 1
                reversed_ += (x.tiers[one] - x.tiers[other]) * (y.tiers[one] - y.tiers[other]) < 0
        if reversed_:
            decision = facts.decisions[task_id] if task_id in facts.decisions else None
            own = tuple(sorted(some, key=lambda a: a.labeler))
            found.append(Conflict(task_id, own[0].kind, own[0].prompt_id, own, compared, reversed_, decision))
    return sorted(found, key=lambda c: c.place)


def cards(completions: Iterable[Completion]) -> list[list[Completion]]:
    """The completions of a task in its own order; those of one text are one card, as when they were judged."""
    found: dict[str, list[Completion]] = {}
    for one in completions:
        found.setdefault(one.text.strip(), []).append(one)
    return list(found.values())


def reversals(conflict: Conflict, laid: Sequence[Sequence[Completion]]) -> list[Reversal]:
    """The pairs of cards that people put in opposite orders, the most evenly split first."""
    found = []
    for (i, a), (j, b) in itertools.combinations(enumerate(laid), 2):
        sides: dict[bool, list[str]] = {True: [], False: []}
        for answer in conflict.answers:
            gap = answer.tiers[b[0].id] - answer.tiers[a[0].id]
            if gap:
                sides[gap > 0].append(answer.labeler)
        if sides[True] and sides[False]:
            flipped = len(sides[False]) > len(sides[True])
            upper, lower = (LETTERS[j], LETTERS[i]) if flipped else (LETTERS[i], LETTERS[j])
            found.append(Reversal(upper, lower, tuple(sides[not flipped]), tuple(sides[flipped])))
    return sorted(found, key=lambda r: (-len(r.lower_first), len(r.upper_first), r.upper, r.lower))


def decided_items(laid: Sequence[Sequence[Completion]], places: Sequence[int]) -> tuple[RankedItem, ...]:
    """A reviewer's places of the cards as tiers. Only their order counts: 1, 3, 3 says the same as 1, 2, 2."""
    if len(places) != len(laid):
        raise DataError(f"{len(laid)} answers are to be placed, and {len(places)} have a place. Place each of them.")
    order = sorted(set(places))
    return tuple(
        RankedItem(completion_id=one.id, tier=order.index(place) + 1)
        for card, place in zip(laid, places, strict=True)
        for one in card
    )


def example(prompt: Prompt, laid: Sequence[Sequence[Completion]], decision: Decision) -> str:
    """A decided task as a passage of a guideline, in Markdown. What models and people wrote is quoted."""
    title = " ".join(prompt.messages[-1].content.split())
    order = sorted(laid, key=lambda card: decision.tiers[card[0].id])
    lines = [f"## Example: {title[:77]}{'…' if len(title) > 77 else ''}", ""]
    for message in prompt.messages:
        lines += [f"**{message.role.capitalize()}**", "", _quoted(message.content), ""]
    tiers = [decision.tiers[card[0].id] for card in order]
    for card, tier in zip(order, tiers, strict=True):
        tied = ", tied" if tiers.count(tier) > 1 else ""
        lines += [f"**Place {tier}{tied}**", "", _quoted(card[0].text), ""]
    return "\n".join([*lines, f"**Why:** {' '.join(decision.rationale.split())}", ""])


def _quoted(text: str) -> str:
    cut = text.strip() if len(text.strip()) <= LONGEST else f"{text.strip()[:LONGEST]} […]"
    return "\n".join(f"> {line}" for line in cut.splitlines())


def ratings_of(answer: GivenAnswer) -> Mapping[str, list[tuple[str, int]]]:
    """Grades by completion."""
    found: defaultdict[str, list[tuple[str, int]]] = defaultdict(list)
    for completion, aspect, value in answer.ratings:
        found[completion].append((aspect, int(value)))
    return found


def critiques_of(conflict: Conflict, laid: Sequence[Sequence[Completion]]) -> Mapping[str, list[tuple[str, str]]]:
    """Who wrote what of each card, under its first completion. A critique of one text is one of all its twins."""
    first = {one.id: card[0].id for card in laid for one in card}
    found: defaultdict[str, list[tuple[str, str]]] = defaultdict(list)
    for answer in conflict.answers:
        for completion, words in answer.critiques:
            found[first[completion]].append((answer.labeler, words))
    return found
