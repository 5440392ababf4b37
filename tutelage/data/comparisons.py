"""Rankings as training rows: every completion once, with its tier and the prompt that it answers.

C completions, P prompts (rankings).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tutelage.data.batch import TokenBatch, collate
from tutelage.errors import DataError
from tutelage.store.snapshot import RatedText
from tutelage.types import Prompt, RankedGroup

AnswerRow = tuple[list[int], list[bool]]  # token ids of prompt and answer, and which of them are the answer's
Rendered = Callable[[Prompt, str], AnswerRow]


@dataclass(frozen=True, slots=True)
class RankedRows:
    """One ranking in tokens. Example: answers ([5, 7, 2], [F, T, T]) and ([5, 8, 2], [F, T, T]), tiers (1, 2)."""

    answers: tuple[AnswerRow, ...]
    tiers: tuple[int, ...]
    margin: float  # how much better the winner is, in the data's own unit; 0 where it says nothing
    group: RankedGroup
    weight: float = 1.0  # beside the other rankings: how far its labeler can be relied upon


@dataclass(frozen=True, slots=True)
class ComparisonBatch:
    """Rankings side by side. `group_C` says which ranking a completion belongs to, counted from 0."""

    batch: TokenBatch
    tier_C: Tensor  # int64, 1 is best
    group_C: Tensor  # int64
    margin_P: Tensor  # float32
    aspect_P: tuple[str, ...]
    weight_P: Tensor  # float32, 1 where all count alike

    @property
    def n_prompts(self) -> int:
        return len(self.margin_P)


def ranked_rows(
    groups: Sequence[RankedGroup], render: Rendered, weight_of: Mapping[str, float] | None = None
) -> tuple[list[RankedRows], int]:
    """Rankings whose every text fits the model's window, and how many rankings did not.

    weight_of  by labeler; who is not named, and everybody where it is None, counts 1

    Raises DataError when none is left.
    """
    rows = []
    for group in groups:
        try:
            answers = tuple(render(group.prompt, text) for text in group.texts)
        except DataError:
            continue
        weight = weight_of[group.labeler] if weight_of and group.labeler in weight_of else 1.0
        rows.append(RankedRows(answers, group.tiers, group.margin or 0.0, group, weight))
    if not rows:
        raise DataError(
            f"none of the {len(groups)} rankings can be used: each is longer than the reward model's window, or there "
            f"is none. Collect or import comparisons first, or use a reward model with a longer window."
        )
    return rows, len(groups) - len(rows)


def without_oldest_turns(groups: Sequence[RankedGroup], render: Rendered) -> tuple[list[RankedGroup], int]:
    """Rankings whose prompts have lost as many of their oldest turns as they must to fit the window, and how many did.

    Turns go whole, an instruction of the system stays, and what remains begins with a person's turn. A ranking that
    does not fit even so stays as it is, for `ranked_rows` to count.
    """
    fitting = [_shortened(group, render) for group in groups]
    return fitting, sum(a is not b for a, b in zip(fitting, groups, strict=True))


def _shortened(group: RankedGroup, render: Rendered) -> RankedGroup:
    messages = group.prompt.messages
    first = messages[:1] if messages[0].role == "system" else ()
    starts = [i for i, m in enumerate(messages) if m.role == "user" and i > len(first)]
    for start in (None, *starts):
        prompt = group.prompt
        if start is not None:
            prompt = prompt.model_copy(update={"messages": (*first, *messages[start:])})
        try:
            for text in group.texts:
                render(prompt, text)
        except DataError:
            continue
        return group if start is None else group.model_copy(update={"prompt": prompt})
    return group


def rankings_from_ratings(rated: Sequence[RatedText]) -> list[RankedGroup]:
    """One ranking for each prompt, labeler and aspect with grades of two texts or more: higher is better, equal ties.

    More than 9 texts of one prompt are cut to the first 9.
    """
    found: dict[tuple[str, str, str], dict[str, RatedText]] = {}
    for r in rated:
        found.setdefault((r.prompt.id, r.labeler, r.aspect), {})[r.text] = r
    groups = []
    for grades in found.values():
        part = list(grades.values())[:9]
        if len(part) < 2:
            continue
        order = sorted({r.value for r in part}, reverse=True)
        groups.append(
            RankedGroup(
                prompt=part[0].prompt,
                texts=tuple(r.text for r in part),
                tiers=tuple(order.index(r.value) + 1 for r in part),
                labeler=part[0].labeler,
                source=part[0].source,
                aspect=part[0].aspect,
            )
        )
    return groups


def comparison_batch(rows: Sequence[RankedRows]) -> ComparisonBatch:
    """Every completion of the rankings is one row, so each runs through the model once, however many pairs it is in."""
    return ComparisonBatch(
        collate([answer for r in rows for answer in r.answers]),
        torch.tensor([t for r in rows for t in r.tiers]),
        torch.tensor([i for i, r in enumerate(rows) for _ in r.answers]),
        torch.tensor([r.margin for r in rows]),
        tuple(r.group.aspect for r in rows),
        torch.tensor([r.weight for r in rows]),
    )
