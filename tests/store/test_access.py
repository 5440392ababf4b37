"""API tokens and the audit."""

from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from tutelage.errors import StoreError
from tutelage.store.access import audit_trail, issue_token, look_up_token, note, revoke_token, tokens
from tutelage.store.db import open_store
from tutelage.store.projects import create_project


def test_a_token_says_its_project_and_scope_and_nothing_else_does(store):
    a, b = create_project(store, "A"), create_project(store, "B")
    read = issue_token(store, a.id, "loader", "read", seconds=60)
    write = issue_token(store, b.id, "x" * 200, "write", seconds=60)
    assert look_up_token(store, read) == (a.id, "read") and look_up_token(store, write) == (b.id, "write")
    assert read.startswith("tut_") and len(read) > 40
    for odd in ("", "tut_", read[:-1], read + "x", read.upper(), "\x00", "%"):
        assert look_up_token(store, odd) is None
    assert [t.name for t in tokens(store, b.id)] == ["x" * 80]


def test_a_token_is_kept_as_its_hash(store):
    a = create_project(store, "A")
    made = issue_token(store, a.id, "n", "read", seconds=60)
    with store.read() as conn:
        rows = conn.execute(sa.text("select * from token")).all()
    assert len(rows) == 1 and made not in str(rows) and made[4:] not in str(rows)
    (seen,) = tokens(store, a.id)
    assert look_up_token(store, seen.id) is None and look_up_token(store, rows[0].token_hash) is None


def test_a_token_ends_by_time_or_by_hand(where):
    at = [datetime(2026, 1, 5, tzinfo=UTC)]
    with open_store(where, clock=lambda: at[0]) as store:
        a, b = create_project(store, "A"), create_project(store, "B")
        short, long = (issue_token(store, a.id, "n", "read", seconds=s) for s in (60, 6000))
        at[0] += timedelta(seconds=61)
        assert look_up_token(store, short) is None and look_up_token(store, long) is not None
        kept = next(t for t in tokens(store, a.id) if t.expires_at > store.seconds())
        assert not revoke_token(store, b.id, kept.id)  # another project's
        for odd in ("", "%", "_", kept.id[:-1], "\n"):
            assert not revoke_token(store, a.id, odd)
        assert look_up_token(store, long) is not None
        assert revoke_token(store, a.id, kept.id) and look_up_token(store, long) is None
        assert [t.is_revoked for t in tokens(store, a.id) if t.id == kept.id] == [True]


def test_a_name_that_cannot_be_stored_is_refused(store):
    a = create_project(store, "A")
    with pytest.raises(StoreError, match="NUL"):
        issue_token(store, a.id, "a\x00", "read", seconds=60)
    assert tokens(store, a.id) == []


def test_the_audit_is_read_newest_first_page_by_page_and_by_project(store):
    a, b = create_project(store, "A"), create_project(store, "B")
    for i in range(5):
        note(store, f"did {i}", project_id=a.id, account_id=7, n=i, text="é\x00")
    note(store, "elsewhere", project_id=b.id)
    note(store, "installation")
    first = audit_trail(store, a.id, limit=3)
    rest = audit_trail(store, a.id, before=first[-1].id, limit=3)
    assert [e.action for e in first + rest] == [f"did {i}" for i in (4, 3, 2, 1, 0)]
    assert first[0].object == {"n": 4, "text": "é\x00"} and first[0].account_id == 7
    assert [e.action for e in audit_trail(store, b.id)] == ["elsewhere"]
