"""Files that people bring: kept under a name drawn here, read by the process beside this one, removed afterwards.

What is left is a spool of checked rows until somebody takes it, drops it, or an hour has passed. A client's name for a
file is shown to the client and used for nothing else but its ending.
"""

import atexit
import contextlib
import json
import os
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Literal

from tutelage.errors import DataError
from tutelage.formats.detect import READERS
from tutelage.formats.fields import Item
from tutelage.formats.rows import KINDS, Refusal
from tutelage.formats.tasks import TaskRow
from tutelage.label.reader import TYPES, WALL_S, Asked
from tutelage.types import LabelerKind

What = Literal["tasks", "judgements", "demonstrations"]
FORMATS = ("auto", "tasks", *READERS)
FOLDER = "uploads"
KEPT_S = 3600.0
LARGE = 2 << 20  # bytes
ENDINGS = (*(kind + more for kind in KINDS for more in (".gz", ".xz", ".zst") if kind != ".parquet"), *KINDS)
ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """What somebody brought, and what it is meant to be."""

    project_id: int
    account_id: int  # 0: a program with a token
    what: What
    format: str
    source: str  # in full
    by: LabelerKind = "import"  # who judged, of judgements made elsewhere
    name: str  # as the client calls the file, made harmless


class _Reader:
    """The reading process. It is started when first needed, reads one file at a time, and ends with this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None

    def read(self, asked: Asked) -> int:
        """The status with which the reading ended."""
        with self._lock:
            if self._process is None or self._process.poll() is not None:
                self.close()
                self._process = subprocess.Popen(
                    [sys.executable, "-P", "-m", "tutelage.label.reader"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    text=True,
                    env={"PYTHONPATH": str(ROOT), "LANG": "C.UTF-8", "OMP_NUM_THREADS": "1"},  # and no secret of ours
                )
            process = self._process
            assert process.stdin is not None and process.stdout is not None, "both are pipes"
            try:
                process.stdin.write(json.dumps(asdict(asked)) + "\n")
                process.stdin.flush()
                answer = process.stdout.readline()
            except BrokenPipeError:
                answer = ""
            return int(json.loads(answer)["status"]) if answer else 1

    def close(self) -> None:
        if self._process is not None:
            assert self._process.stdin is not None and self._process.stdout is not None, "both are pipes"
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
            self._process.stdout.close()
            self._process.kill()
            self._process.wait()
            self._process = None


_READER = _Reader()
atexit.register(_READER.close)


def plain_name(name: str) -> str:
    """A client's name for a file, fit to be shown: no folder, nothing invisible, not long."""
    last = PurePosixPath(name.replace("\\", "/")).name
    return "".join(c for c in last if c.isprintable())[-80:] or "the file"


def stem(name: str) -> str:
    """The name up to its first dot: what a source is called when nobody says."""
    return plain_name(name).split(".")[0].strip() or "upload"


def read_upload(data: Path, file: IO[bytes], upload: Upload) -> str:
    """Keeps the bytes, reads them into a spool, removes them. The spool's token, or DataError for what is no data."""
    token = keep_upload(data, file, upload)
    read_kept(data, token, upload)
    return token


def keep_upload(data: Path, file: IO[bytes], upload: Upload) -> str:
    """Keeps the bytes, to be read by `read_kept`. The token under which they and their spool lie."""
    folder = data / FOLDER
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    _sweep(folder)
    token = secrets.token_hex(16)
    raw, spool = folder / f"{token}{_ending(upload.name)}", folder / f"{token}.rows"
    try:
        with _private(raw) as out:
            while piece := file.read(1 << 20):
                out.write(piece)
        with _private(spool) as out:
            out.write(json.dumps(asdict(upload)).encode() + b"\n")
    except BaseException:
        drop_upload(data, token)
        raise
    return token


def read_kept(data: Path, token: str, upload: Upload) -> int:
    """Reads what was kept into its spool, and removes the bytes; the number of rows. The same again changes nothing.

    DataError, and nothing is left, for what is no data.
    """
    folder = data / FOLDER
    raw, spool = folder / f"{token}{_ending(upload.name)}", folder / f"{token}.rows"
    try:
        if raw.exists():
            os.truncate(spool, len(json.dumps(asdict(upload)).encode()) + 1)  # what a reading that was cut off left
            status = _READER.read(Asked(str(raw), str(spool), upload.what, upload.format, upload.name))
        else:
            status = 0  # read before
        end = _end(spool) if status == 0 else {}
        if "end" not in end:
            raise DataError(
                str(end["error"])
                if "error" in end
                else f"{upload.name} could not be read within {WALL_S} seconds and the memory that a file is given, or "
                f"its bytes are damaged. Split it, or write it as JSON Lines."
            )
        raw.unlink(missing_ok=True)
    except BaseException:
        drop_upload(data, token)
        raise
    return int(str(end["end"]))


def _ending(name: str) -> str:
    found = next((e for e in ENDINGS if name.lower().endswith(e)), None)
    if found is None:
        raise DataError(
            f"{name}: its name ends in none of {', '.join(KINDS)}, all but .parquet also with .gz, .xz or .zst behind. "
            f"Give the file its right ending."
        )
    return found


def _private(path: Path) -> IO[bytes]:
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")


def _sweep(folder: Path) -> None:
    """Removes what nobody took within the hour."""
    for path in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime > KEPT_S:
                path.unlink()


def _end(spool: Path) -> dict[str, object]:
    with spool.open("rb") as file:
        file.seek(0, os.SEEK_END)
        file.seek(max(0, file.tell() - 8192))
        found: dict[str, object] = json.loads(file.read().splitlines()[-1])
    return found


def find_upload(data: Path, project_id: int, account_id: int, token: str) -> Upload | None:
    """One's own upload that was read and waits; None for anybody else's, and for one that is gone."""
    spool = data / FOLDER / f"{token}.rows"
    try:
        with spool.open("rb") as file:
            upload = Upload(**json.loads(file.readline()))
    except FileNotFoundError:
        return None
    return upload if (upload.project_id, upload.account_id) == (project_id, account_id) else None


def rows_of(data: Path, token: str) -> Iterator[tuple[str, Item | TaskRow | Refusal]]:
    """(where, object or refusal) of each row of a spool."""
    with (data / FOLDER / f"{token}.rows").open("rb") as file:
        next(file)
        for line in file:
            row = json.loads(line)
            if "end" in row:
                return
            where = row["where"]
            if "why" in row:
                yield where, Refusal(where, row["why"], row["detail"])
            else:
                yield where, TYPES[row["is"]].model_validate(row["item"])


def drop_upload(data: Path, token: str) -> None:
    for path in (data / FOLDER).glob(f"{token}.*"):
        path.unlink(missing_ok=True)


def is_large(data: Path, token: str) -> bool:
    """Whether to go through it takes longer than somebody waits before a page."""
    return sum(path.stat().st_size for path in (data / FOLDER).glob(f"{token}.*")) > LARGE
