"""Reads uploaded files in a process of its own: `python -m tutelage.label.reader`, one line of JSON in and one out.

It forks for each file, so that a file can use up only its own memory and time, and a crash of a decoder ends nothing
but the reading of that file. What was read is written to a spool of JSON lines by this code. Knows no store and no web.
"""

import json
import os
import resource
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from tutelage.errors import DataError
from tutelage.formats import tasks
from tutelage.formats.detect import read_placed
from tutelage.formats.fields import Item, read_each
from tutelage.formats.rows import Refusal, read_rows
from tutelage.formats.tasks import TaskRow
from tutelage.types import Demonstration, Prompt, RankedGroup

MAX_ROWS = 200_000
MAX_BYTES = 512 << 20  # of content, decompressed
MAX_TEXT = 200_000  # characters of one prompt or completion
MAX_SPOOL = 1 << 30  # bytes written
MEMORY = 1536 << 20  # bytes beyond what the process holds when it forks
CPU_S = 60
WALL_S = 90
TOLD = 300  # characters of a message about one row

TYPES: dict[str, type[Item | TaskRow]] = {
    "task": TaskRow, "ranking": RankedGroup, "demonstration": Demonstration, "prompt": Prompt,
}  # fmt: skip
NAMES = {kind: name for name, kind in TYPES.items()}


@dataclass(frozen=True, slots=True)
class Asked:
    """One file to read. `what`: tasks, judgements or demonstrations; `name` stands for the file in messages."""

    path: str
    spool: str
    what: str
    format: str
    name: str


def items(asked: Asked) -> Iterator[tuple[str, Item | TaskRow | Refusal]]:
    """(where, object or refusal) for each row."""
    path = Path(asked.path)
    if asked.what == "tasks" and asked.format in ("auto", "tasks"):
        rows = read_rows(path, max_bytes=MAX_BYTES)
        first = next(rows)
        if asked.format == "tasks" or tasks.is_task(first[1]):
            yield from read_each(chain([first], rows), tasks.read)
            return
        rows.close()  # type: ignore[attr-defined]
    yield from read_placed(path, asked.format, max_bytes=MAX_BYTES)


def short_enough(where: str, item: Item | TaskRow | Refusal) -> Item | TaskRow | Refusal:
    """The item, or a refusal when one of its texts is longer than anybody can judge."""
    if isinstance(item, Refusal) or (long := _longest(item)) <= MAX_TEXT:
        return item
    return Refusal(where, "a text too long", f"one has {long} characters; at most {MAX_TEXT} can be judged")


def spool_line(where: str, given: Item | TaskRow | Refusal) -> str:
    """One row as the spool holds it."""
    item = short_enough(where, given)
    if isinstance(item, Refusal):
        return json.dumps({"where": where, "why": _told(item.why), "detail": _told(item.detail)}) + "\n"
    return f'{{"where":{json.dumps(where)},"is":"{NAMES[type(item)]}","item":{item.model_dump_json()}}}\n'


def _told(message: str, most: int = TOLD) -> str:
    """A message of bounded length in whole characters: what it quotes may hold half ones."""
    short = message if len(message) <= most else message[:most] + " …"
    return short.encode(errors="backslashreplace").decode()


def _longest(item: Item | TaskRow) -> int:
    prompt = item if isinstance(item, Prompt) else item.prompt
    texts = item.texts if isinstance(item, RankedGroup | TaskRow) else ()
    own = item.text if isinstance(item, Demonstration) else ""
    return max(len(own), *(len(m.content) for m in prompt.messages), *(len(t) for t in texts), 0)


def spool(asked: Asked) -> None:
    """Reads the file into the spool, whose last line is {"end": rows} or {"error": why}."""
    n = 0
    with open(asked.spool, "a", encoding="utf-8") as out:
        try:
            for where, item in items(asked):
                n += 1
                if n > MAX_ROWS:
                    raise DataError(f"{asked.path}: more than {MAX_ROWS} rows. Split the file.")
                out.write(spool_line(where.removeprefix(f"{asked.path}, "), item))
            end: dict[str, Any] = {"end": n}
        except DataError as e:
            end = {"error": _told(str(e).replace(asked.path, asked.name), 3 * TOLD)}
        except RecursionError:
            end = {"error": f"{asked.name}: nested too deeply to be feedback. Drop the row that is."}
        except MemoryError:
            end = {"error": f"{asked.name}: it needs too much memory to be read. Split the file."}
        out.write(json.dumps(end) + "\n")


# The process.


def _limit() -> None:
    statm = Path("/proc/self/statm")  # where there is none, the system does not hold to a limit of memory either
    if statm.exists():
        held = int(statm.read_text("ascii").split()[0]) * os.sysconf("SC_PAGE_SIZE")
        resource.setrlimit(resource.RLIMIT_AS, (held + MEMORY, held + MEMORY))
    for what, most in (
        (resource.RLIMIT_CPU, CPU_S),
        (resource.RLIMIT_FSIZE, MAX_SPOOL),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(what, (most, most))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(WALL_S)


def _alone(work: Callable[[], None]) -> int:
    """Does the work in a fork of this process; the exit status, negative for the signal that ended it."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            _limit()
            work()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main() -> None:
    """Answers {"status": 0} for each line of stdin, until it is closed."""
    for line in sys.stdin:
        asked = Asked(**json.loads(line))
        print(json.dumps({"status": _alone(lambda asked=asked: spool(asked))}), flush=True)  # type: ignore[misc]


if __name__ == "__main__":
    main()
