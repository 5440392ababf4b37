"""The process that reads: what a file may use up, and what becomes of one that uses more."""

import json
import os
import signal
import time

import pytest

from tutelage.formats.rows import Refusal
from tutelage.label import reader
from tutelage.label.reader import Asked, spool, spool_line
from tutelage.types import Message, Prompt


def asked(tmp_path, data: bytes, name: str = "x.jsonl", **more: str) -> Asked:
    path = tmp_path / name
    path.write_bytes(data)
    return Asked(
        **{"path": str(path), "spool": str(tmp_path / "s"), "what": "tasks", "format": "auto", "name": "yours"} | more
    )


def lines(tmp_path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (tmp_path / "s").read_text().splitlines()]


def test_a_spool_ends_with_the_number_of_its_rows(tmp_path):
    spool(asked(tmp_path, b'{"prompt": "q"}\n{"prompt": ""}\n'))
    first, second, end = lines(tmp_path)
    assert (first["is"], first["where"], second["why"], end) == ("task", "line 1", "empty text", {"end": 2})


def test_an_error_names_the_file_as_its_client_does(tmp_path):
    spool(asked(tmp_path, b'{"prompt": "q"}\n{'))
    assert str(tmp_path) not in (tmp_path / "s").read_text()
    assert str(lines(tmp_path)[-1]["error"]).startswith("yours, line 2: expected JSON")


def test_too_many_rows_are_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(reader, "MAX_ROWS", 3)
    spool(asked(tmp_path, b'{"prompt": "q"}\n' * 4))
    assert "more than 3 rows" in str(lines(tmp_path)[-1]["error"])


def test_a_text_that_nobody_can_judge_is_refused():
    long = Prompt(messages=(Message(role="user", content="x" * (reader.MAX_TEXT + 1)),))
    assert json.loads(spool_line("line 1", long))["why"] == "a text too long"
    fits = Prompt(messages=(Message(role="user", content="x" * reader.MAX_TEXT),))
    assert json.loads(spool_line("line 1", fits))["is"] == "prompt"


def test_a_message_is_short_and_whole():
    told = json.loads(spool_line("line 1", Refusal("line 1", "why", "\ud800" + "x" * 5000)))["detail"]
    assert len(told) < 400
    told.encode()


def test_more_memory_than_a_file_is_given_ends_its_reading_alone(tmp_path):
    def greedy() -> None:
        held = [bytes(64 << 20) for _ in range(64)]
        (tmp_path / "lived").write_text(str(len(held)))

    assert reader._alone(greedy) != 0
    assert not (tmp_path / "lived").exists()
    assert reader._alone(lambda: None) == 0


def test_more_time_than_a_file_is_given_ends_its_reading(monkeypatch):
    monkeypatch.setattr(reader, "WALL_S", 1)
    began = time.monotonic()
    assert reader._alone(lambda: time.sleep(30)) == -signal.SIGALRM
    assert time.monotonic() - began < 20


def test_a_spool_cannot_fill_the_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(reader, "MAX_SPOOL", 100_000)
    given = asked(tmp_path, (b'{"prompt": "' + b"x" * 1000 + b'"}\n') * 300)
    assert reader._alone(lambda: spool(given)) != 0
    assert (tmp_path / "s").stat().st_size <= 100_000


def test_a_crash_of_a_decoder_is_a_status():
    assert reader._alone(lambda: os.kill(os.getpid(), signal.SIGKILL)) == -signal.SIGKILL


@pytest.mark.parametrize("what", ["tasks", "judgements", "demonstrations"])
def test_a_pair_is_read_as_a_ranking_whatever_it_is_meant_to_be(tmp_path, what):
    spool(asked(tmp_path, b'{"prompt": "q", "chosen": "a", "rejected": "b"}\n', what=what))
    assert lines(tmp_path)[0]["is"] == "ranking"
