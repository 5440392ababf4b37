"""Prompts of an update: every prompt once before any comes again, and the same after a kill."""

from collections import Counter

from tutelage.data.prompt_stream import prompts_of_update
from tutelage.types import Message, Prompt

PROMPTS = [Prompt(messages=(Message(role="user", content=f"question {i}"),)) for i in range(10)]


def _ids(updates, n=4, seed=1):
    return [p.id for u in updates for p in prompts_of_update(PROMPTS, n, u, seed=seed)]


def test_every_prompt_comes_once_before_any_comes_again():
    # 10 prompts, 4 an update: five updates are two epochs.
    assert set(Counter(_ids(range(5))).values()) == {2}
    assert len(set(_ids(range(2)))) == 8


def test_an_update_depends_on_its_number_alone():
    assert _ids([7]) == _ids(range(8))[28:]


def test_epochs_and_seeds_have_other_orders():
    assert _ids(range(5))[:10] != _ids(range(5))[10:]
    assert _ids(range(5)) != _ids(range(5), seed=2)


def test_more_prompts_than_there_are_start_over():
    assert len(_ids([0], n=25)) == 25
