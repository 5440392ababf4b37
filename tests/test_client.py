"""The Python client against the real app on a real socket."""

import json
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import uvicorn

from tutelage.client import BATCH, Client
from tutelage.errors import DataError, TutelageError
from tutelage.label.app import create_app
from tutelage.label.config import LabelConfig
from tutelage.store.access import issue_token
from tutelage.store.assignments import answer
from tutelage.store.candidates import counts
from tutelage.store.db import Store, open_store
from tutelage.store.offers import offer
from tutelage.store.people import add_labeler
from tutelage.store.projects import Project, create_project
from tutelage.store.tasks import list_tasks
from tutelage.types import Feedback, Labeler, RankedItem, Ranking

TASK = {"prompt": "Name a river.", "completions": ["The Rhine.", {"text": "Rome.", "model": "sft-1"}]}


@dataclass(frozen=True)
class Desk:
    """A running app, and what lies behind it."""

    address: str
    store: Store
    project: Project

    def client(self, scope: str = "write") -> Client:
        token = issue_token(self.store, self.project.id, "test", scope, seconds=3600)  # type: ignore[arg-type]
        return Client(self.address, token, timeout_s=20)

    def rank_all(self, labeler: str = "ann") -> int:
        """Somebody answers all that is offered."""
        add_labeler(self.store, Labeler(pseudonym=labeler, kind="human"))
        n = 0
        while (held := offer(self.store, self.project, labeler)) is not None:
            items = tuple(RankedItem(completion_id=c[0], tier=i) for i, c in enumerate(held.cards, 1))
            f = Feedback(
                labeler=labeler, prompt_id=held.task.prompt_id, judgement=Ranking(items=items), source=held.task.source,
                idempotency_key=f"{labeler}-{held.task.id}", shown=tuple(c[0] for c in held.cards), active_ms=1500,
            )  # fmt: skip
            answer(self.store, held, [f], mark=f"{labeler}-{held.task.id}")
            n += 1
        return n


class Server(uvicorn.Server):
    def install_signal_handlers(self) -> None:
        pass


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    with open_store(tmp_path / "s.db") as store, socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        config = LabelConfig(store="s.db", data=tmp_path / "data", port=port)
        running = Server(uvicorn.Config(create_app(config, store), log_level="error", access_log=False))
        thread = threading.Thread(target=running.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        yield Desk(config.address, store, create_project(store, "Rivers"))
        running.should_exit = True
        thread.join(timeout=20)
        assert not thread.is_alive(), "the server did not stop"


def test_a_round_goes_from_tasks_to_rankings(desk, tmp_path):
    client = desk.client()
    assert client.project()["slug"] == "rivers"
    ids = client.add_tasks([TASK, {"prompt": ""}, {**TASK, "prompt": "Name a sea."}], source="round-1")
    assert [id is None for id in ids] == [False, True, False]
    assert client.add_tasks([TASK], source="round-1") == ids[:1]
    assert client.prioritise({ids[0]: 0.9, "unknown": 1.0}) == 1
    waiting = threading.Thread(target=desk.rank_all)
    waiting.start()
    assert client.wait_for(2, every_s=0.05, timeout_s=30) == 2
    waiting.join()
    events = list(client.labels())
    assert [e["seq"] for e in events] == [1, 2] and list(client.labels(after_seq=2)) == []
    rows = [json.loads(line) for line in client.export("rankings").splitlines()]
    assert {c["text"] for row in rows for c in row["completions"]} == {"The Rhine.", "Rome."}
    assert rows[0]["seconds"] == 1.5 and {c.get("model") for c in rows[0]["completions"]} == {None, "sft-1"}
    assert client.card(licence="MIT")["judgements"] == {"ranking": 2}
    assert [s["answered"] for s in client.progress()["sources"]] == [2]


def test_an_export_is_of_the_sources_that_are_named(desk):
    client = desk.client()
    for source in ("round-1", "round-2", "round 3 & more"):
        client.add_tasks([{**TASK, "prompt": f"Asked in {source}."}], source=source)
    desk.rank_all()

    def told(**more):
        return [json.loads(line)["source"] for line in client.export("rankings", **more).splitlines()]

    every = ["rivers/round 3 & more", "rivers/round-1", "rivers/round-2"]
    assert client.project()["sources"] == sorted(told()) == sorted(told(sources=every)) == every
    assert told(sources=["rivers/round-2"]) == ["rivers/round-2"]
    assert sorted(told(sources=every[:2])) == every[:2]
    with pytest.raises(TutelageError, match="422: 'rivers/round-9' is no source of this project"):
        told(sources=["rivers/round-9"])
    with pytest.raises(DataError, match="list of sources"):
        told(sources="rivers/round-1")


def test_more_tasks_than_one_request_bears_are_sent_in_parts(desk):
    n = BATCH + 3
    ids = desk.client().add_tasks([{**TASK, "prompt": f"q{i}"} for i in range(n)])
    assert len(set(ids)) == n and None not in ids
    assert desk.client().progress()["sources"][0]["tasks"] == n


def test_files_and_candidates_are_brought(desk, tmp_path):
    client, path = desk.client(), tmp_path / "elsewhere.jsonl"
    path.write_text(json.dumps({"prompt": "q", "chosen": "a", "rejected": "b"}) + "\n")
    assert client.add_file(path, what="judgements", dry_run=True)["taken"] == {"ranking": 1}
    assert client.progress()["judgements"] == {}
    client.add_file(path, what="judgements")
    assert client.wait_for(1, every_s=0.05, timeout_s=5) == 1
    assert client.add_candidates([{"prompt": "q", "completion": "a"}])["taken"] == {"demonstration": 1}
    assert counts(desk.store, desk.project.id) == {"pending": 1}
    with pytest.raises(DataError, match="cannot be read"):
        client.add_file(tmp_path / "none.jsonl")


def test_a_refusal_comes_in_the_servers_own_words(desk):
    with pytest.raises(TutelageError, match="403: This token may only read"):
        desk.client("read").add_tasks([TASK])
    with pytest.raises(TutelageError, match="401: This token is unknown"):
        Client(desk.address, "tut_wrong").progress()
    with pytest.raises(TutelageError, match=r"422: .*nothing was stored"):
        desk.client().add_tasks([TASK, {"prompt": ""}], strict=True)
    with pytest.raises(TutelageError, match="422"):
        desk.client().export("people")
    with pytest.raises(TutelageError, match="404"):
        desk.client().export("../project")
    assert list_tasks(desk.store, desk.project.id) == []


def test_waiting_ends_with_the_time_that_was_given(desk):
    with pytest.raises(TutelageError, match="0 of 3 judgements of kind 'ranking'"):
        desk.client().wait_for(3, every_s=0.05, timeout_s=0.2)


def test_an_address_that_is_none_or_does_not_answer_is_named():
    with pytest.raises(DataError, match="no http address"):
        Client("file:///etc/passwd", "t")
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    with pytest.raises(TutelageError, match="does not answer"):
        Client(f"http://127.0.0.1:{port}", "t", timeout_s=2).progress()


def test_a_redirect_gets_no_token():
    def redirect(listening: socket.socket) -> None:
        conn, _ = listening.accept()
        with conn:
            conn.recv(4096)
            conn.sendall(b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:9/\r\nContent-Length: 0\r\n\r\n")

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=redirect, args=(listening,))
        thread.start()
        with pytest.raises(TutelageError, match="302"):
            Client(f"http://127.0.0.1:{listening.getsockname()[1]}", "t", timeout_s=5).progress()
        thread.join()
