"""Opens the store and hands out transactions. Knows engines, locks and migrations; knows nothing of what is stored.

SQLite before 3.51.3 can corrupt a WAL when two connections write or checkpoint at the same instant. On such a library
each process keeps one connection, and each transaction holds a lock on a file beside the database as well, so that two
processes never touch the WAL at once. On a newer one, connections are pooled and SQLite's own locks suffice.
"""

import contextlib
import fcntl
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine
from sqlalchemy.pool import ConnectionPoolEntry, StaticPool

from tutelage.errors import BusyError, DiskError, StoreError

WAIT_S = 30.0  # for the write lock, before the caller is told that the store is busy
BATCH = 500  # rows a statement or transaction: a labeler never waits long behind an import
WAL_FLOOR = (3, 51, 3)  # the first SQLite whose WAL bears several connections
WRITER_KEY = 0x7475_7465_6C61_6765  # PostgreSQL's advisory lock of the one writer: "tutelage" in hex
MIGRATIONS = Path(__file__).parent / "migrations"


@dataclass(frozen=True, slots=True)
class Added:
    """What a bulk insert did: rows that were new, and rows that were there already."""

    new: int = 0
    known: int = 0

    def __add__(self, other: "Added") -> "Added":
        return Added(self.new + other.new, self.known + other.known)


def utc_now() -> datetime:
    return datetime.now(UTC)


T = TypeVar("T")


def chunks(items: Iterable[T], size: int = BATCH) -> Iterator[list[T]]:
    """Lists of at most `size`, so that no statement outgrows the database's limits."""
    chunk: list[T] = []
    for item in items:
        chunk.append(item)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


class Gate:
    """One transaction at a time, over all threads and processes. The lock on the file dies with its holder."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab")
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def hold(self) -> Iterator[None]:
        until = time.monotonic() + WAIT_S
        if not self._lock.acquire(timeout=WAIT_S):
            raise BusyError(
                f"{self._file.name}: another thread kept the store busy for {WAIT_S:.0f} s. Try again later."
            )
        try:
            self._lock_file(until)
            try:
                yield
            finally:
                fcntl.flock(self._file, fcntl.LOCK_UN)
        finally:
            self._lock.release()

    def _lock_file(self, until: float) -> None:
        while True:
            try:
                return fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > until:
                    raise BusyError(
                        f"{self._file.name}: another process kept the store busy for {WAIT_S:.0f} s. Try again later."
                    ) from None
                time.sleep(0.001)

    def close(self) -> None:
        self._file.close()


class Store:
    """An open store. `with store.write() as conn` is one transaction, committed on a clean exit; `read()` sees one
    state throughout.

    Safe to share between threads. A transaction is never opened inside another of the same thread: pass `conn` on.
    """

    def __init__(self, engine: Engine, where: str, *, gate: Gate | None, clock: Callable[[], datetime]) -> None:
        self.where = where
        self._engine = engine
        self._gate = gate
        self._clock = clock
        self._mine = threading.local()

    def seconds(self) -> float:
        """The server's clock as seconds since 1970: what leases and sessions are measured by."""
        return self._clock().timestamp()

    def now(self) -> str:
        """The server's clock as ISO 8601 UTC with microseconds. For reading only: order is by seq."""
        return self._clock().astimezone(UTC).isoformat(timespec="microseconds")

    @contextlib.contextmanager
    def read(self) -> Iterator[Connection]:
        with self._transaction(writes=False) as conn:
            yield conn

    @contextlib.contextmanager
    def write(self, *, durable: bool = True) -> Iterator[Connection]:
        """The one writer: SQLite by BEGIN IMMEDIATE, PostgreSQL by an advisory lock held until the commit.

        durable  wait until the commit is on the disk. Without, a kill loses nothing, but a power cut may lose what was
                 committed after the last durable commit: enough for a lease or a draft, never for a fact
        """
        with self._transaction(writes=True, durable=durable) as conn:
            if conn.dialect.name == "postgresql":
                if not durable:
                    conn.exec_driver_sql("SET LOCAL synchronous_commit = off")
                conn.exec_driver_sql(f"SET LOCAL lock_timeout = '{int(WAIT_S * 1000)}ms'")
                conn.execute(sa.select(sa.func.pg_advisory_xact_lock(WRITER_KEY)))
            yield conn

    @contextlib.contextmanager
    def _transaction(self, *, writes: bool, durable: bool = True) -> Iterator[Connection]:
        assert not getattr(self._mine, "open", False), "a transaction is open in this thread already; pass its conn on"
        self._mine.open = True
        try:
            with (
                self._gate.hold() if self._gate else contextlib.nullcontext(),
                database_errors(self.where),
                self._engine.connect().execution_options(tutelage_writes=writes, tutelage_durable=durable) as conn,
            ):
                if conn.dialect.name == "postgresql" and not writes:
                    conn.execution_options(isolation_level="REPEATABLE READ")  # else each statement sees its own state
                with conn.begin():
                    yield conn
        finally:
            self._mine.open = False

    def close(self) -> None:
        with self._gate.hold() if self._gate else contextlib.nullcontext():
            self._engine.dispose()  # the last connection checkpoints the WAL
        if self._gate:
            self._gate.close()

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


def open_store(where: str | Path, *, clock: Callable[[], datetime] = utc_now) -> Store:
    """Opens the store at a path, a `sqlite:///` URL or a `postgresql+psycopg://` URL, and brings its schema up to date.

    A file that does not exist is made; its folder must exist. Raises StoreError for what cannot be opened, and for a
    store that a newer tutelage has written.
    """
    url = (
        sa.make_url(where)
        if isinstance(where, str) and "://" in where
        else sa.URL.create("sqlite", database=str(where))
    )
    if url.get_backend_name() == "sqlite":
        store = _open_sqlite(url, clock)
    elif url.get_backend_name() == "postgresql":
        shown = url.render_as_string(hide_password=True)
        store = Store(
            sa.create_engine(url.set(drivername="postgresql+psycopg"), pool_pre_ping=True),
            shown,
            gate=None,
            clock=clock,
        )
    else:
        raise StoreError(
            f"{url.get_backend_name()!r} is no store. Give a path, a sqlite:/// or a postgresql+psycopg:// URL."
        )
    try:
        _migrate(store)
    except BaseException:
        store.close()
        raise
    return store


def _open_sqlite(url: sa.URL, clock: Callable[[], datetime]) -> Store:
    if url.database in (None, "", ":memory:"):
        raise StoreError("a store in memory keeps nothing. Give the path of a file.")
    path = Path(url.database).absolute()
    if not path.parent.is_dir():
        raise StoreError(f"{path}: its folder does not exist, so no store can be made there. Make the folder first.")
    alone = sqlite3.sqlite_version_info < WAL_FLOOR
    connect_args: dict[str, Any] = {"timeout": WAIT_S, "check_same_thread": False}
    engine = sa.create_engine(
        url.set(database=str(path)), connect_args=connect_args, **({"poolclass": StaticPool} if alone else {})
    )
    sa.event.listen(engine, "connect", _on_connect)
    sa.event.listen(engine, "begin", _on_begin)
    try:
        gate = Gate(path.with_name(path.name + ".lock")) if alone else None
    except OSError as e:
        raise StoreError(f"{path}: the store's folder cannot be written ({e.strerror}). Choose another place.") from e
    return Store(engine, str(path), gate=gate, clock=clock)


def _on_connect(connection: sqlite3.Connection, record: ConnectionPoolEntry) -> None:
    connection.isolation_level = None  # the driver opens no transaction of its own; _on_begin does
    for pragma in (
        "journal_mode=WAL",
        "synchronous=FULL",
        "foreign_keys=ON",
        f"busy_timeout={int(WAIT_S * 1000)}",
        "secure_delete=ON",  # what was erased is overwritten, not only unlinked
        "recursive_triggers=ON",  # else INSERT OR REPLACE deletes a fact without waking its trigger
    ):
        connection.execute(f"PRAGMA {pragma}")
    record.info["synchronous"] = "FULL"


def _on_begin(conn: Connection) -> None:
    options = conn.get_execution_options()
    if not options.get("tutelage_writes"):
        conn.exec_driver_sql("BEGIN")
        return
    # FULL writes the log to the disk at each commit, with all that earlier commits of NORMAL left in it.
    level = "FULL" if options.get("tutelage_durable") else "NORMAL"
    if conn.info["synchronous"] != level:
        conn.exec_driver_sql(f"PRAGMA synchronous={level}")
        conn.info["synchronous"] = level
    # A deferred transaction that turns to writing fails at once when another writes, whatever the timeout.
    conn.exec_driver_sql("BEGIN IMMEDIATE")


@contextlib.contextmanager
def database_errors(where: str) -> Iterator[None]:
    """Turns what an operator can cause into one clear message. Anything else is ours and goes up as it is."""
    try:
        yield
    except sa.exc.DatabaseError as e:
        text = str(e.orig)
        if "disk is full" in text or "disk I/O error" in text or "No space left" in text:
            raise DiskError(f"{where}: {text}. The transaction was undone. Free space and run the same again.") from e
        if "locked" in text or "lock timeout" in text:
            raise BusyError(f"{where}: another process kept the store busy for {WAIT_S:.0f} s. Try again later.") from e
        if "NUL (0x00)" in text:
            raise StoreError(f"{where}: an id or a name holds a NUL character, which PostgreSQL cannot store.") from e
        if isinstance(e, sa.exc.OperationalError) or "not a database" in text or "malformed" in text:
            raise StoreError(
                f"{where} cannot be used as a store: {text}. Check the path, the server and the rights."
            ) from e
        raise


def _migrate(store: Store) -> None:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    script = ScriptDirectory.from_config(config)
    with store.write() as conn:
        current = MigrationContext.configure(conn).get_current_revision()
        if current == script.get_current_head():
            return
        if current is None and (strangers := sa.inspect(conn).get_table_names()):
            raise StoreError(
                f"{store.where} is the database of something else (its tables: {', '.join(sorted(strangers)[:5])}). "
                f"Give a path of its own to the store."
            )
        if current is not None and current not in {s.revision for s in script.walk_revisions()}:
            raise StoreError(
                f"{store.where} has schema {current}, but this tutelage knows schemas up to "
                f"{script.get_current_head()}: a newer version wrote it. Install that version or a later one."
            )
        config.attributes["connection"] = conn
        command.upgrade(config, "head")


def insert_new(conn: Connection, table: sa.Table, rows: Sequence[dict[str, Any]]) -> Added:
    """Inserts the rows whose `id` is not there yet, in order. The caller holds the write lock: no one comes between."""
    first: dict[str, dict[str, Any]] = {}
    for row in rows:
        first.setdefault(row["id"], row)
    there = set(conn.scalars(sa.select(table.c.id).where(table.c.id.in_(first))))
    new = [row for key, row in first.items() if key not in there]
    if new:
        conn.execute(sa.insert(table), new)
    return Added(len(new), len(rows) - len(new))
