"""Opening, sharing and migrating a store."""

import multiprocessing
import sqlite3
import threading
import time
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from tutelage.errors import StoreError
from tutelage.store import desk_schema, schema
from tutelage.store.db import WAL_FLOOR, Store, open_store


def test_the_migrations_make_the_tables_of_schema(store):
    with store.read() as conn:
        differences = compare_metadata(MigrationContext.configure(conn), desk_schema.metadata)
    assert differences == []


def test_a_store_is_what_it_was_when_opened_again(where, lay_desk):
    with open_store(where) as store:
        desk = lay_desk(store)
    with open_store(where) as store, store.read() as conn:
        assert conn.scalar(sa.select(sa.func.count()).select_from(schema.prompt)) == len(desk.prompts)


def test_a_store_of_a_newer_version_is_refused(where):
    with open_store(where) as store, store.write() as conn:
        conn.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(StoreError, match="schema 9999"):
        open_store(where)


def test_a_failed_transaction_leaves_nothing(store):
    with pytest.raises(ZeroDivisionError), store.write() as conn:
        conn.execute(sa.insert(schema.account).values(email="a@b", state="active"))
        raise ZeroDivisionError
    with store.read() as conn:
        assert conn.scalar(sa.select(sa.func.count()).select_from(schema.account)) == 0


def test_writers_in_threads_never_see_the_same_state(store):
    # Each adds one to the greatest id that it read: two that interleaved would collide or lose one.
    def add() -> None:
        for _ in range(20):
            with store.write() as conn:
                n = conn.scalar(sa.select(sa.func.max(schema.account.c.id))) or 0
                conn.execute(sa.insert(schema.account).values(id=n + 1, email=f"{n + 1}", state="active"))

    threads = [threading.Thread(target=add) for _ in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    with store.read() as conn:
        assert conn.scalar(sa.select(sa.func.max(schema.account.c.id))) == 160


def test_a_transaction_inside_another_is_a_mistake_of_ours(store):
    with store.write(), pytest.raises(AssertionError, match="pass its conn on"), store.read():
        pass


@pytest.mark.parametrize("verb", ["UPDATE event SET at = 'x'", "DELETE FROM event", "UPDATE prompt SET source = 'x'",
                                  "DELETE FROM completion", "UPDATE ranking_entry SET tier = 1", "DELETE FROM labeler",
                                  "UPDATE labeler SET kind = 'model'"])  # fmt: skip
def test_a_fact_is_neither_updated_nor_deleted(desk, verb):
    from tutelage.store.feedback import record

    record(desk.store, desk.ranking("k", 1, 2))
    with pytest.raises(sa.exc.DatabaseError, match="append-only"), desk.store.write() as conn:
        conn.execute(sa.text(verb))


def test_every_fact_table_has_its_triggers(store):
    names = {f"{table}_no_{verb}" for table in (*schema.FACTS, "labeler") for verb in ("update", "delete")}
    query = {
        "sqlite": "SELECT name FROM sqlite_master WHERE type = 'trigger'",
        "postgresql": "SELECT tgname FROM pg_trigger WHERE NOT tgisinternal",
    }
    with store.read() as conn:
        assert names <= set(conn.scalars(sa.text(query[conn.dialect.name])))


def test_the_link_to_an_account_can_be_cut(store):
    from tutelage.store.people import add_account, add_labeler
    from tutelage.types import Labeler

    add_labeler(store, Labeler(pseudonym="p", kind="human"), add_account(store, "A@b"))
    with store.write() as conn:
        conn.execute(sa.text("UPDATE labeler SET account_id = NULL"))


def test_sqlite_replace_does_not_get_round_the_triggers(tmp_path, lay_desk):
    with open_store(tmp_path / "s.db") as store:
        lay_desk(store)
        change = "INSERT OR REPLACE INTO prompt SELECT n, id, messages, 'x', norm_sha FROM prompt WHERE n = 1"
        with pytest.raises(sa.exc.DatabaseError, match="append-only"), store.write() as conn:
            conn.execute(sa.text(change))


def test_sqlite_is_durable_and_alone_where_the_library_is_old(tmp_path):
    with open_store(tmp_path / "s.db") as store:
        with store.read() as conn:
            pragmas = {
                p: conn.exec_driver_sql(f"PRAGMA {p}").scalar() for p in ("journal_mode", "synchronous", "foreign_keys")
            }
        assert pragmas == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}
        assert (store._gate is not None) == (sqlite3.sqlite_version_info < WAL_FLOOR)


def test_a_writer_takes_the_lock_before_it_reads(tmp_path):
    # A deferred transaction that reads first and then writes fails at once when another has written meanwhile.
    with open_store(tmp_path / "s.db") as store:
        said: list[str] = []
        sa.event.listen(store._engine, "before_cursor_execute", lambda *args: said.append(args[2]))
        with store.write() as conn:
            conn.execute(sa.text("SELECT 1"))
        with store.read() as conn:
            conn.execute(sa.text("SELECT 2"))
    assert said == ["BEGIN IMMEDIATE", "SELECT 1", "BEGIN", "SELECT 2"]


def _hold(path: str, ready: "multiprocessing.synchronize.Event") -> None:
    with open_store(path) as store, store.write() as conn:
        conn.execute(sa.insert(schema.account).values(email="other", state="active"))
        ready.set()
        time.sleep(0.5)


def test_a_second_process_waits_for_the_first(where):
    # Not a fork: an open connection must not cross into a child.
    spawn = multiprocessing.get_context("spawn")
    ready = spawn.Event()
    with open_store(where) as store:
        other = spawn.Process(target=_hold, args=(where, ready))
        other.start()
        assert ready.wait(30)
        with store.write() as conn:
            seen = conn.scalar(sa.select(sa.func.count()).select_from(schema.account))
        other.join()
    assert seen == 1


@pytest.mark.parametrize(
    ("where", "says"),
    [
        ("mysql://x/y", "no store"),
        ("/nowhere/at/all/store.db", "folder does not exist"),
        (":memory:", "keeps nothing"),
        ("postgresql+psycopg://nobody@127.0.0.1:1/none", "cannot be used as a store"),
    ],
)
def test_what_cannot_be_opened_is_said_plainly(where, says):
    with pytest.raises(StoreError, match=says):
        open_store(where)


def test_a_password_never_stands_in_a_message():
    with pytest.raises(StoreError) as e:
        open_store("postgresql+psycopg://nobody:canary@127.0.0.1:1/none")
    assert "canary" not in str(e.value)


def test_a_file_of_something_else_is_refused(tmp_path):
    text, other = tmp_path / "notes.txt", tmp_path / "other.db"
    text.write_text("not a database, but long enough to be read as a header " * 20)
    with pytest.raises(StoreError, match="not a database"):
        open_store(text)
    with sqlite3.connect(other) as conn:
        conn.execute("CREATE TABLE recipes (name TEXT)")
    conn.close()
    with pytest.raises(StoreError, match="something else"):
        open_store(other)


def test_the_clock_can_be_set(tmp_path):
    from datetime import UTC, datetime

    with open_store(tmp_path / "s.db", clock=lambda: datetime(2026, 1, 2, tzinfo=UTC)) as store:
        assert store.now() == "2026-01-02T00:00:00.000000+00:00"


def test_a_busy_store_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tutelage.store.db.WAIT_S", 0.1)
    with open_store(tmp_path / "s.db") as one, open_store(tmp_path / "s.db") as two, one.write():
        said: list[str] = []
        thread = threading.Thread(target=lambda: said.append(_try(two)))
        thread.start()
        thread.join()
    assert "busy" in said[0]


def _try(store: Store) -> str:
    try:
        with store.write():
            return "wrote"
    except StoreError as e:
        return str(e)


def test_a_fact_waits_for_the_disk_and_a_lease_need_not(store):
    asked = {"sqlite": "PRAGMA synchronous", "postgresql": "SHOW synchronous_commit"}
    told = {"sqlite": (2, 1), "postgresql": ("on", "off")}  # SQLite: 2 is FULL, 1 is NORMAL
    for durable, i in ((True, 0), (False, 1), (True, 0)):
        with store.write(durable=durable) as conn:
            name = conn.dialect.name
            assert conn.exec_driver_sql(asked[name]).scalar() == told[name][i]
