"""Weights of labelers for training: who contradicts everybody counts for nothing."""

import random

import pytest

from tutelage.rounds.reward import reliabilities
from tutelage.types import Message, Prompt, RankedGroup


def group(i, labeler, tiers):
    prompt = Prompt(messages=(Message(role="user", content=f"Question {i}?"),))
    return RankedGroup(prompt=prompt, texts=tuple("abcd"), tiers=tuple(tiers), labeler=labeler)


def test_a_labeler_who_turns_every_order_round_counts_for_nothing_and_the_mean_is_1():
    draw, groups = random.Random(0), []
    for i in range(40):
        order = draw.sample([1, 2, 3, 4], 4)
        groups += [group(i, "ann", order), group(i, "bob", order), group(i, "eve", [5 - t for t in order])]
    weight = reliabilities(groups)
    assert weight["eve"] == 0 and weight["ann"] == pytest.approx(1.5, abs=0.05)
    assert sum(weight.values()) == pytest.approx(3)


def test_where_nobody_judged_the_same_prompt_all_count_alike():
    assert reliabilities([group(0, "ann", [1, 2, 3, 4]), group(1, "bob", [4, 3, 2, 1])]) == {"ann": 1.0, "bob": 1.0}
