"""Pseudonyms and accounts."""

import pytest

from tutelage.errors import StoreError
from tutelage.store.people import add_account, add_labeler, labeler_kinds, labelers
from tutelage.types import Labeler


def test_a_labeler_added_twice_is_one(store):
    for _ in range(2):
        add_labeler(store, Labeler(pseudonym="b", kind="simulated"))
    add_labeler(store, Labeler(pseudonym="a", kind="human"))
    assert [one.pseudonym for one in labelers(store)] == ["a", "b"]
    assert labeler_kinds(store) == {"a": "human", "b": "simulated"}


def test_a_machine_cannot_take_the_name_of_a_person(store):
    add_labeler(store, Labeler(pseudonym="a", kind="human"))
    with pytest.raises(StoreError, match="of kind 'human'"):
        add_labeler(store, Labeler(pseudonym="a", kind="model"))


def test_an_account_is_found_by_its_address_in_any_case(store):
    assert add_account(store, "Ann@Example.org") == add_account(store, " ann@example.org")
    assert add_account(store, "bob@example.org") != add_account(store, "ann@example.org")


def test_an_account_must_be_there(store):
    with pytest.raises(StoreError, match="no account 7"):
        add_labeler(store, Labeler(pseudonym="a", kind="human"), account=7)
