"""A Python client of the labelling app's API, over nothing but the standard library.

client = Client("http://127.0.0.1:8484", "tut_…")
client.add_tasks([{"prompt": "Name a river.", "completions": ["The Rhine.", "Rome."]}], source="round-1")
client.wait_for(1)
rows = [json.loads(line) for line in client.export("rankings").splitlines()]
"""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlencode
from urllib.request import HTTPRedirectHandler, Request, build_opener

from tutelage.errors import DataError, TutelageError

BATCH = 500  # tasks a request


class _NoRedirect(HTTPRedirectHandler):
    """A token goes to the address that it was given for, and nowhere else."""

    def redirect_request(self, *_: Any) -> None:
        return None


class Client:
    """Speaks for one project: its token says which. Raises TutelageError with the server's own words."""

    def __init__(self, url: str, token: str, *, timeout_s: float = 120.0) -> None:
        if not url.startswith(("http://", "https://")):
            raise DataError(f"{url!r} is no http address. Give the one under which people reach the app.")
        self._url, self._token, self._timeout_s = url.rstrip("/"), token, timeout_s
        self._opener = build_opener(_NoRedirect)

    def project(self) -> dict[str, Any]:
        """Name, settings and sources of the project."""
        return self._json("GET", "project")

    def progress(self) -> dict[str, Any]:
        """Tasks and answers by source, judgements by kind, proposals by state."""
        return self._json("GET", "progress")

    def add_tasks(
        self, tasks: Sequence[Mapping[str, Any]], *, source: str = "api", strict: bool = False
    ) -> list[str | None]:
        """Brings tasks, as many as there are; the same again changes nothing. The id of each row's prompt, None where
        the row was refused. `strict`: a row that cannot be used refuses its batch."""
        ids: list[str | None] = []
        for i in range(0, len(tasks), BATCH):
            body = {"tasks": [dict(task) for task in tasks[i : i + BATCH]]}
            ids += self._json("POST", "tasks", body, source=source, strict=strict)["prompts"]
        return ids

    def add_file(
        self, path: str | Path, *, what: str = "tasks", source: str = "", strict: bool = False, dry_run: bool = False
    ) -> dict[str, Any]:
        """Brings a file of tasks, judgements or demonstrations, and returns what became of its rows."""
        path = Path(path)
        try:
            body = path.read_bytes()
        except OSError as e:
            raise DataError(f"{path} cannot be read: {e.strerror}.") from e
        query = {"name": path.name, "what": what, "source": source, "strict": strict, "dry_run": dry_run}
        return self._json("POST", "tasks/upload", body, **query)

    def add_candidates(
        self, rows: Sequence[Mapping[str, Any]], *, source: str = "api", by: str = "model"
    ) -> dict[str, Any]:
        """Brings demonstrations that people shall review before anything is trained on them; at most 1000. `by`: a
        `model` wrote them, or they are an `import` of what people wrote elsewhere."""
        return self._json("POST", "candidates", {"candidates": [dict(row) for row in rows]}, source=source, by=by)

    def prioritise(self, priority_of: Mapping[str, float]) -> int:
        """Has the tasks of these prompts offered earlier, the larger the number. How many tasks it changed."""
        return int(self._json("POST", "priorities", {"priorities": dict(priority_of)})["changed"])

    def labels(self, after_seq: int = 0) -> Iterator[dict[str, Any]]:
        """Judgements after that one, in order, with their prompts and completions, as far as they go now."""
        more = True
        while more:
            page = self._json("GET", "labels", after_seq=after_seq)
            yield from page["events"]
            after_seq, more = page["next_after"], page["more"]

    def export(self, what: str, *, ending: str = "jsonl", sources: Sequence[str] = ()) -> bytes:
        """A file of what people say now: rankings, pairs, hh, ratings, demonstrations, messages, critiques, flags, kto
        or log; as jsonl, csv or parquet. `sources`: these alone, as `project` names them; none: all but checks."""
        return self._send("GET", f"export/{quote(what, safe='')}", ending=ending, source=_several(sources))

    def card(self, licence: str = "") -> dict[str, Any]:
        """The data card: counts, labelers by pseudonym, guidelines, agreement, the head of the log."""
        return self._json("GET", "export/card", licence=licence)

    def wait_for(self, n: int, *, kind: str = "ranking", every_s: float = 5.0, timeout_s: float | None = None) -> int:
        """Returns once n judgements of this kind are there, and how many there are then. Raises TutelageError when
        that takes longer than `timeout_s`."""
        until = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            judged = self.progress()["judgements"]
            have = int(judged[kind]) if kind in judged else 0
            if have >= n:
                return have
            if until is not None and time.monotonic() + every_s > until:
                raise TutelageError(
                    f"{self._url}: {have} of {n} judgements of kind {kind!r} after {timeout_s:g} s. Ask again later, "
                    f"or wait longer."
                )
            time.sleep(every_s)

    def _json(self, method: str, rest: str, body: Any = None, **query: Any) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self._send(method, rest, body, **query))
        return found

    def _send(self, method: str, rest: str, body: Any = None, **query: Any) -> bytes:
        address = f"{self._url}/api/v1/{rest}"
        if query:
            said = {k: str(v).lower() if isinstance(v, bool) else v for k, v in query.items()}
            address += "?" + urlencode(said, doseq=True)
        is_bytes = isinstance(body, bytes)
        sent = body if is_bytes or body is None else json.dumps(body).encode()
        request = Request(address, data=sent, method=method)
        request.add_header("Authorization", f"Bearer {self._token}")
        request.add_header("Content-Type", "application/octet-stream" if is_bytes else "application/json")
        try:
            with self._opener.open(request, timeout=self._timeout_s) as answer:
                found: bytes = answer.read()
                return found
        except HTTPError as e:
            with e:
                raise TutelageError(f"{address}: {e.code}: {_why(e.read())}") from e
        except (URLError, TimeoutError) as e:
            raise TutelageError(f"{address} does not answer: {e}. Check the address, and that the app runs.") from e


def _several(names: Sequence[str]) -> list[str]:
    if isinstance(names, str):
        raise DataError(f"{names!r} is one word, and a list of sources is wanted. Give [{names!r}].")
    return list(names)


def _why(body: bytes) -> str:
    """The server's own words, where it says any."""
    try:
        said = json.loads(body)
    except ValueError:
        return body[:200].decode(errors="replace")
    return str(said["error"]) if isinstance(said, dict) and "error" in said else str(said)[:200]
