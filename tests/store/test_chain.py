"""Whoever edits the file behind the store's back is found out."""

import sqlite3

import pytest

from tutelage.errors import StoreError
from tutelage.store.chain import verify_chain
from tutelage.store.db import open_store
from tutelage.store.feedback import head, record_many
from tutelage.store.snapshot import freeze
from tutelage.types import Rating

TAMPERING = {
    "payload": ("UPDATE event SET payload = replace(payload, 'k3', 'kX') WHERE seq = 3", "event 3: its body"),
    "body": ("UPDATE event SET body_sha = 'x' WHERE seq = 3", "event 3: its hash"),
    "time": ("UPDATE event SET at = '1999' WHERE seq = 3", "event 3: its hash"),
    "hash": ("UPDATE event SET hash = 'x' WHERE seq = 3", "event 3: its hash"),
    "labeler": ("UPDATE event SET labeler = 'sim' WHERE seq = 3", "event 3: its columns"),
    "source": ("UPDATE event SET source = 's9' WHERE seq = 3", "event 3: its columns"),
    "replaced": ("UPDATE event SET supersedes = 1 WHERE seq = 3", "event 3: its columns"),
    "tier": ("UPDATE ranking_entry SET tier = 3 - tier WHERE event = 3", "event 3: its tiers"),
    "grade": ("UPDATE rating SET value = 7 WHERE event = 6", "event 6: its tiers or grades"),
    "no tiers": ("DELETE FROM ranking_entry WHERE event = 3", "event 3: its tiers"),
    "removed": ("DELETE FROM event WHERE seq = 3", "event 3 is missing"),
    "cut off": ("DELETE FROM event WHERE seq = 6", "a snapshot was taken at event 6"),
    "prompt": ("UPDATE prompt SET messages = replace(messages, 'tide', 'tile')", "prompt .* no longer says"),
    "completion": ("UPDATE completion SET text = '\"x\"' WHERE n = 2", "completion .* no longer says"),
}


@pytest.fixture
def path(tmp_path, lay_desk):
    with open_store(tmp_path / "s.db") as store:
        desk = lay_desk(store)
        record_many(store, [desk.ranking(f"k{i}", 1, 2) for i in range(1, 6)])
        record_many(store, [desk.feedback("r", Rating(completion_id=desk.completions[0][0].id, aspect="a", value=1))])
        freeze(store, tmp_path / "snapshot")
        assert verify_chain(store) == head(store)
    return tmp_path / "s.db"


@pytest.mark.parametrize("what", TAMPERING)
def test_tampering_is_found_and_named(path, what):
    statement, says = TAMPERING[what]
    conn = sqlite3.connect(path)
    for (name,) in conn.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
        conn.execute(f"DROP TRIGGER {name}")
    assert conn.execute(statement).rowcount > 0
    conn.commit()
    conn.close()
    with open_store(path) as store, pytest.raises(StoreError, match=says):
        verify_chain(store)


def test_a_log_written_anew_does_not_match_the_snapshot(path):
    conn = sqlite3.connect(path)
    for (name,) in conn.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
        conn.execute(f"DROP TRIGGER {name}")
    conn.execute("UPDATE snapshot SET chain_hash = 'of another log'")
    conn.commit()
    conn.close()
    with open_store(path) as store, pytest.raises(StoreError, match="written anew"):
        verify_chain(store)


def test_an_empty_log_is_sound(store):
    assert verify_chain(store).seq == 0
