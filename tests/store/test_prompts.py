"""Prompts in, prompts out, and the text by which splits go."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tutelage.errors import StoreError
from tutelage.store.db import Added
from tutelage.store.prompts import add_prompts, get_prompt, get_prompts, norm_sha, normalised
from tutelage.types import Message, Prompt


def ask(text: str, source: str = "a", then: str = "") -> Prompt:
    more = (Message(role="assistant", content="yes"), Message(role="user", content=then)) if then else ()
    return Prompt(messages=(Message(role="user", content=text), *more), source=source)


def test_a_prompt_is_stored_once_and_in_order(store):
    prompts = [ask(f"q{i}") for i in range(1200)]
    assert add_prompts(store, [*prompts, prompts[3]]) == Added(1200, 1)
    assert add_prompts(store, prompts[:5]) == Added(0, 5)
    assert get_prompts(store) == prompts
    assert get_prompts(store, [prompts[9].id, prompts[2].id]) == [prompts[2], prompts[9]]


def test_a_prompt_keeps_the_source_that_brought_it_first(store):
    add_prompts(store, [ask("q", "a"), ask("q", "b"), ask("r", "b")])
    assert get_prompt(store, ask("q").id).source == "a"
    assert get_prompts(store, source="b") == [ask("r", "b")]


@pytest.mark.parametrize("text", ["a NUL \x00 within", "quote ' and \" and \\", "é \u202e 漢字 🙂", "\r\n\t ", ""])
def test_any_text_comes_back_as_it_was(store, text):
    add_prompts(store, [ask(text)])
    assert get_prompts(store) == [ask(text)]


def test_an_unknown_prompt_is_named(store):
    with pytest.raises(StoreError, match="'nope'"):
        get_prompt(store, "nope")


def test_a_source_with_a_nul_is_refused(store):
    with pytest.raises(StoreError, match="NUL"):
        add_prompts(store, [ask("q", "a\x00b")])


def test_spellings_of_one_question_and_turns_of_one_dialogue_share_their_hash():
    # By hand: the ligature opens (NFKC), capitals fall, runs of white space become one space, later turns do not count.
    assert normalised(ask("  \ufb01nd\n MY\u00a0keys ")) == "find my keys"
    assert norm_sha(ask("Find my keys")) == norm_sha(ask("find  my\tkeys", then="and my hat"))
    assert norm_sha(ask("Find my keys")) != norm_sha(ask("Find my key"))


@given(st.text())
def test_normalising_twice_changes_nothing(text):
    once = normalised(ask(text))
    assert normalised(ask(once)) == once
