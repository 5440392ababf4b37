"""Accounts, sessions and what an installation keeps about itself, on both databases."""

import re
import threading
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from tutelage.errors import StoreError
from tutelage.store import schema
from tutelage.store.accounts import (
    OWNER_LINK,
    account_by_email,
    account_by_oidc,
    change_account,
    close_session,
    close_sessions,
    create_account,
    create_first_owner,
    erase_account,
    get_account,
    get_setting,
    has_owner,
    open_session,
    session_account,
    set_setting,
    token_hash,
    use_totp_step,
)
from tutelage.store.chain import verify_chain
from tutelage.store.db import open_store
from tutelage.store.feedback import record
from tutelage.store.people import labelers
from tutelage.store.projects import add_member, create_project, members


def test_an_account_has_a_pseudonym_that_says_nothing_of_its_address(store):
    made = [create_account(store, f"anna.{i}@example.org") for i in range(20)]
    assert len({a.pseudonym for a in made}) == 20
    for account in made:
        assert re.fullmatch(r"[a-z]+-[a-z]+-[0-9]{3}", account.pseudonym) and "anna" not in account.pseudonym
    assert {one.pseudonym for one in labelers(store)} == {a.pseudonym for a in made}


def test_an_address_has_one_account_however_it_is_written(store):
    made = create_account(store, " Anna@Example.org ")
    assert made.email == "anna@example.org" and account_by_email(store, "ANNA@example.org ") == made
    with pytest.raises(StoreError, match="has an account already"):
        create_account(store, "anna@EXAMPLE.org")
    assert account_by_email(store, "other@example.org") is None and len(labelers(store)) == 1


def test_an_address_that_cannot_be_stored_is_refused(store):
    with pytest.raises(StoreError, match="NUL"):
        create_account(store, "a\x00@example.org")
    assert labelers(store) == []


def test_of_many_who_take_one_address_at_once_one_gets_it(store):
    start, made, refused = threading.Barrier(6), [], []

    def take():
        start.wait()
        try:
            made.append(create_account(store, "a@example.org").id)
        except StoreError:
            refused.append(1)

    threads = [threading.Thread(target=take) for _ in range(6)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert (len(made), len(refused)) == (1, 5)


def test_of_two_who_open_the_owners_link_at_once_one_owns(store):
    set_setting(store, OWNER_LINK, "h")
    start, made, refused = threading.Barrier(4), [], []

    def take(i):
        start.wait()
        try:
            made.append(create_first_owner(store, "h", f"o{i}@example.org", "p"))
        except StoreError:
            refused.append(1)

    threads = [threading.Thread(target=take, args=(i,)) for i in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert (len(made), len(refused)) == (1, 3) and made[0].is_owner and has_owner(store)
    assert get_setting(store, OWNER_LINK) is None


@pytest.mark.parametrize("given", ["", "x", "H"])
def test_another_link_owns_nothing(store, given):
    set_setting(store, OWNER_LINK, "h")
    with pytest.raises(StoreError, match="used already"):
        create_first_owner(store, given, "o@example.org", "p")
    assert not has_owner(store) and account_by_email(store, "o@example.org") is None


def test_an_owner_is_known(store):
    assert not has_owner(store)
    create_account(store, "a@example.org")
    assert not has_owner(store)
    create_account(store, "o@example.org", is_owner=True)
    assert has_owner(store)


def test_what_is_changed_is_changed_and_nothing_else(store):
    a, b = create_account(store, "a@example.org"), create_account(store, "b@example.org")
    change_account(store, a.id, preferences={"theme": "dark"}, oidc_subject="i|s")
    found = get_account(store, a.id)
    assert found.preferences == {"theme": "dark"} and account_by_oidc(store, "i|s") == found
    assert get_account(store, b.id) == b


def test_a_step_of_a_code_is_used_once_and_never_an_earlier_one(store):
    a, b = create_account(store, "a@example.org"), create_account(store, "b@example.org")
    assert [use_totp_step(store, a.id, s) for s in (10, 10, 9, 11, 11)] == [True, False, False, True, False]
    assert use_totp_step(store, b.id, 10)


def test_a_code_sent_many_times_at_once_is_good_once(store):
    a = create_account(store, "a@example.org")
    start, used = threading.Barrier(8), []

    def use():
        start.wait()
        used.append(use_totp_step(store, a.id, 7))

    threads = [threading.Thread(target=use) for _ in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert sorted(used) == [False] * 7 + [True]


# Sessions.


class Clock:
    at = datetime(2026, 1, 5, tzinfo=UTC)

    def __call__(self):
        return self.at


def test_a_session_runs_out(where):
    clock = Clock()
    with open_store(where, clock=clock) as store:
        a = create_account(store, "a@example.org")
        token = open_session(store, a.id, seconds=60)
        assert session_account(store, token) == a
        clock.at += timedelta(seconds=59)
        assert session_account(store, token) == a
        clock.at += timedelta(seconds=2)
        assert session_account(store, token) is None
        open_session(store, a.id, seconds=60)  # and takes the old ones away
        clock.at -= timedelta(seconds=30)
        assert session_account(store, token) is None


def test_a_session_is_kept_as_its_hash(store):
    token = open_session(store, create_account(store, "a@example.org").id, seconds=60)
    with store.read() as conn:
        rows = conn.execute(sa.text("select * from session")).all()
    assert len(rows) == 1 and rows[0].token_hash == token_hash(token) and token not in str(rows)
    assert session_account(store, token_hash(token)) is None


def test_sessions_are_closed_one_by_one_or_all(store):
    a, b = create_account(store, "a@example.org"), create_account(store, "b@example.org")
    one, two, other = (open_session(store, n, seconds=60) for n in (a.id, a.id, b.id))
    close_session(store, one)
    assert session_account(store, one) is None and session_account(store, two) == a
    close_sessions(store, a.id)
    assert session_account(store, two) is None and session_account(store, other) == b


def test_a_closed_account_has_no_session(store):
    a = create_account(store, "a@example.org")
    token = open_session(store, a.id, seconds=60)
    change_account(store, a.id, state="closed")
    assert session_account(store, token) is None


# Erasing.


def test_who_is_erased_is_no_longer_known_and_her_judgements_stay(store, desk):
    a = create_account(store, "a@example.org", password_hash="h", oidc_subject="i|s")
    project = create_project(store, "P")
    add_member(store, project.id, a.id, "labeller")
    token = open_session(store, a.id, seconds=60)
    record(store, desk.ranking("k", 1, 2, labeler=a.pseudonym))
    before = verify_chain(store)
    assert erase_account(store, a.id) == a.pseudonym
    assert account_by_email(store, "a@example.org") is None and account_by_oidc(store, "i|s") is None
    assert session_account(store, token) is None and members(store, project.id) == []
    with pytest.raises(StoreError, match="no account"):
        get_account(store, a.id)
    with store.read() as conn:
        for table in schema.metadata.sorted_tables:
            for row in conn.execute(sa.select(table)):
                assert "a@example.org" not in str(row) and "i|s" not in str(row), table.name
    assert verify_chain(store) == before and a.pseudonym in {one.pseudonym for one in labelers(store)}


def test_nobody_gets_the_number_or_the_pseudonym_of_an_erased_person(store):
    a = create_account(store, "a@example.org")
    erase_account(store, a.id)
    again = create_account(store, "a@example.org")
    assert again.id != a.id and again.pseudonym != a.pseudonym


def test_who_is_not_there_cannot_be_erased(store):
    a = create_account(store, "a@example.org")
    for number in (a.id, a.id, 99):
        if number == a.id and account_by_email(store, "a@example.org"):
            erase_account(store, number)
            continue
        with pytest.raises(StoreError, match="no account"):
            erase_account(store, number)


def test_an_erased_owner_owns_no_more(store):
    a = create_account(store, "o@example.org", is_owner=True)
    erase_account(store, a.id)
    assert not has_owner(store)


def test_a_setting_is_kept_and_replaced(store):
    assert get_setting(store, "k") is None
    for value in ("x", {"a": [1, None, "\x00"]}, None):
        set_setting(store, "k", value)
        assert get_setting(store, "k") == value
