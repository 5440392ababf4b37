"""Completions in, completions out."""

import pytest

from tutelage.errors import StoreError
from tutelage.store.completions import add_completions, completions_of, get_completion, get_completions
from tutelage.store.db import Added
from tutelage.types import Completion


def test_every_field_comes_back_exactly(desk):
    whole = Completion(
        prompt_id=desk.prompts[0].id,
        text="NUL \x00 and 🙂",
        origin="edited",
        model_version="sft-1",
        token_ids=(0, 5, 2**31),
        logp=(-0.1, -1e-30, -123.456789012345678),
        finish_reason="length",
        temperature=0.7,
        seed=2**64 - 1,
        sample=3,
        parent=desk.completions[0][0].id,
    )
    assert add_completions(desk.store, [whole]) == Added(1, 0)
    assert get_completion(desk.store, whole.id) == whole


def test_completions_come_in_the_order_asked_for_and_are_stored_once(desk):
    ids = [c.id for c in reversed(desk.completions[1])]
    assert [c.id for c in get_completions(desk.store, [*ids, ids[0]])] == [*ids, ids[0]]
    assert add_completions(desk.store, desk.completions[1]) == Added(0, 4)


def test_completions_of_a_prompt_can_be_those_of_one_model(desk):
    new = Completion(prompt_id=desk.prompts[0].id, text="z", model_version="v2")
    add_completions(desk.store, [new])
    assert completions_of(desk.store, desk.prompts[0].id) == [*desk.completions[0], new]
    assert completions_of(desk.store, desk.prompts[0].id, "v2") == [new]


def test_a_completion_needs_its_prompt_and_its_original(desk):
    mine, other = desk.prompts[0].id, desk.completions[1][0].id
    for wrong, says in (
        (Completion(prompt_id="nope", text="x"), "'nope'"),
        (Completion(prompt_id=mine, text="x", parent="gone"), "'gone'"),
        (Completion(prompt_id=mine, text="x", parent=other), "another prompt"),
    ):
        with pytest.raises(StoreError, match=says):
            add_completions(desk.store, [wrong])
    with pytest.raises(StoreError, match="'nope'"):
        get_completion(desk.store, "nope")
