"""Folders that appear whole or not at all, and the lock on a run directory.

A folder is written under a temporary name, each file is flushed to the disk, a manifest with every file's SHA-256 is
written last, and one rename publishes it. Knows nothing of what the files mean.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from tutelage.errors import CorruptError, DiskError, RunInUseError

MANIFEST = "manifest.json"
ASIDE = ".partial"


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of a file, read in pieces."""
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextlib.contextmanager
def disk_errors(what: str) -> Iterator[None]:
    """Turns a full or failing disk into one clear message. A write is never tried again: after an error it is lost."""
    try:
        yield
    except OSError as e:
        mend = {
            errno.EACCES: "Give yourself the right to write there, or choose another place",
            errno.EPERM: "Choose another place",
        }
        if e.errno in (errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EROFS, errno.EFBIG, *mend):
            why = "the disk is full" if e.errno == errno.ENOSPC else os.strerror(e.errno)
            what_to_do = mend[e.errno] if e.errno in mend else "Free space"
            raise DiskError(
                f"{what} was not written: {why}. Nothing of it was kept. {what_to_do} and run the same command again."
            ) from e
        raise


def write_json(path: Path, value: object) -> None:
    """Replaces one JSON file in one step."""
    aside = path.with_name(path.name + ASIDE)
    with disk_errors(str(path)):
        try:
            with aside.open("w", encoding="utf-8") as f:
                json.dump(value, f, indent=2, ensure_ascii=False, sort_keys=True)
                f.write("\n")
                f.flush()
                os.fsync(f.fileno())
            os.replace(aside, path)
        except BaseException:
            aside.unlink(missing_ok=True)
            raise
        _sync(path.parent)


@contextlib.contextmanager
def published(folder: Path) -> Iterator[Path]:
    """Yields a temporary folder to fill; on a clean exit it becomes `folder`, with a manifest.

    An error leaves no trace. `folder` must not exist: what is published is never replaced, so that no moment exists in
    which it is gone.
    """
    if folder.exists():
        raise CorruptError(
            f"{folder} is already there and is never overwritten. Choose another name, or delete it first."
        )
    aside = folder.with_name(folder.name + ASIDE)
    shutil.rmtree(aside, ignore_errors=True)
    with disk_errors(str(folder)):
        aside.mkdir(parents=True)
        try:
            yield aside
            _write_manifest(aside)
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)
            raise
        os.replace(aside, folder)
        _sync(folder.parent)


def _write_manifest(folder: Path) -> None:
    files = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        _sync(path)
        files[str(path.relative_to(folder))] = {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
    write_json(folder / MANIFEST, {"files": files})


def is_published(folder: Path) -> bool:
    return (folder / MANIFEST).is_file()


def verify(folder: Path) -> dict[str, str]:
    """Checks every file of a published folder against its manifest; returns {file: SHA-256}.

    Raises CorruptError when the manifest is missing, or a file is missing, cut or changed.
    """
    if not is_published(folder):
        raise CorruptError(
            f"{folder} has no {MANIFEST}: it was not published by tutelage, or only in part. Delete it and run again."
        )
    listed = _read_manifest(folder)
    for name, (n_bytes, sha256) in listed.items():
        path = folder / name
        if not path.is_file():
            raise CorruptError(
                f"{path} is listed in the manifest but is not there. Restore it, or delete the folder and run again."
            )
        if path.stat().st_size != n_bytes or sha256_file(path) != sha256:
            raise CorruptError(
                f"{path} differs from its SHA-256 in the manifest. Restore it, or delete the folder and run again."
            )
    return {name: sha256 for name, (_, sha256) in listed.items()}


def _read_manifest(folder: Path) -> dict[str, tuple[int, str]]:
    """{file: (bytes, SHA-256)}."""
    path = folder / MANIFEST
    try:
        listed = json.loads(path.read_text(encoding="utf-8"))["files"]
        return {name: (entry["bytes"], entry["sha256"]) for name, entry in listed.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as e:
        raise CorruptError(
            f"{path} is not as it was written ({type(e).__name__}: {e}). Restore it, or delete the folder and run "
            f"again."
        ) from e


class RunLock:
    """The right to write in a run directory. Held by an open file, so that it dies with its process."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / ".lock"

    def __enter__(self) -> "RunLock":
        self._file = self.path.open("a+", encoding="utf-8")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as e:
            self._file.seek(0)
            pid = self._file.read().strip() or "unknown"
            self._file.close()
            raise RunInUseError(
                f"{self.path.parent} is in use by process {pid}. Wait until it ends, stop it, or choose another --out."
            ) from e
        self._file.truncate(0)
        self._file.write(str(os.getpid()))
        self._file.flush()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self._file.close()
