"""What is kept of a file that somebody brings, for how long, and for whom."""

import io
import json
import os
import stat
import time

import pytest

from tutelage.errors import DataError
from tutelage.formats.rows import Refusal
from tutelage.label import uploads
from tutelage.label.uploads import (
    FOLDER,
    KEPT_S,
    Upload,
    drop_upload,
    find_upload,
    plain_name,
    read_upload,
    rows_of,
    stem,
)

ROW = b'{"prompt": "q", "completions": ["a", "b"]}\n'


def brought(name: str = "a.jsonl", **more: object) -> Upload:
    asked = {"project_id": 1, "account_id": 2, "what": "tasks", "format": "auto", "source": "p/a", "name": name}
    return Upload(**(asked | more))  # type: ignore[arg-type]


def test_what_was_read_comes_back_row_by_row(tmp_path):
    token = read_upload(tmp_path, io.BytesIO(ROW + b'{"prompt": ""}\n' + ROW), brought())
    found = list(rows_of(tmp_path, token))
    assert [where for where, _ in found] == ["line 1", "line 2", "line 3"]
    assert [isinstance(item, Refusal) for _, item in found] == [False, True, False]
    assert found[0][1].texts == ("a", "b")


def test_only_a_spool_is_left_and_only_its_owner_can_read_it(tmp_path):
    token = read_upload(tmp_path, io.BytesIO(ROW), brought("../../evil.jsonl"))
    (left,) = (tmp_path / FOLDER).iterdir()
    assert left.name == f"{token}.rows"
    assert stat.S_IMODE(left.stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / FOLDER).stat().st_mode) == 0o700


def test_an_upload_is_found_by_its_project_and_person_alone(tmp_path):
    token = read_upload(tmp_path, io.BytesIO(ROW), brought())
    assert find_upload(tmp_path, 1, 2, token) == brought()
    assert find_upload(tmp_path, 1, 3, token) is find_upload(tmp_path, 2, 2, token) is None
    drop_upload(tmp_path, token)
    drop_upload(tmp_path, token)
    assert find_upload(tmp_path, 1, 2, token) is None


def test_what_nobody_takes_within_the_hour_is_removed(tmp_path):
    old, young = (read_upload(tmp_path, io.BytesIO(ROW), brought()) for _ in range(2))
    past = time.time() - KEPT_S - 5
    os.utime(tmp_path / FOLDER / f"{old}.rows", (past, past))
    third = read_upload(tmp_path, io.BytesIO(ROW), brought())
    assert {p.stem for p in (tmp_path / FOLDER).iterdir()} == {young, third}


@pytest.mark.parametrize(
    ("name", "data", "why"),
    [
        ("a.exe", ROW, "its name ends in none of"),
        ("a.jsonl", b"", "is empty"),
        ("a.jsonl", b"{", "a.jsonl, line 1: expected JSON"),
        ("a.jsonl.gz", b"\x1f\x8b\x08", "a.jsonl.gz ends in the middle"),
    ],
)
def test_a_file_that_is_no_data_leaves_a_message_and_nothing_else(tmp_path, name, data, why):
    with pytest.raises(DataError, match=why) as e:
        read_upload(tmp_path, io.BytesIO(data), brought(name))
    assert str(tmp_path) not in str(e.value)
    assert list((tmp_path / FOLDER).iterdir()) == []


def test_the_reading_process_can_die_and_is_started_again(tmp_path):
    read_upload(tmp_path, io.BytesIO(ROW), brought())
    process = uploads._READER._process
    assert process is not None
    process.kill()
    process.wait()
    assert read_upload(tmp_path, io.BytesIO(ROW), brought())
    assert uploads._READER._process is not process


def test_the_reading_process_knows_no_secret_of_ours(tmp_path, monkeypatch):
    monkeypatch.setenv("TUTELAGE_OIDC_SECRET", "hidden")
    uploads._READER.close()
    read_upload(tmp_path, io.BytesIO(ROW), brought())
    process = uploads._READER._process
    assert process is not None
    with open(f"/proc/{process.pid}/environ", "rb") as file:
        assert b"hidden" not in file.read()


@pytest.mark.parametrize(
    ("name", "shown", "called"),
    [
        ("a.jsonl", "a.jsonl", "a"),
        ("../../etc/passwd.csv", "passwd.csv", "passwd"),
        ("C:\\data\\mine.v2.jsonl.gz", "mine.v2.jsonl.gz", "mine"),
        ("\u202egpj.a\x00.jsonl", "gpj.a.jsonl", "gpj"),
        ("", "the file", "the file"),
        (".jsonl", ".jsonl", "upload"),
        ("x" * 200 + ".csv", "x" * 76 + ".csv", "x" * 76),
    ],
)
def test_a_clients_name_is_made_harmless(name, shown, called):
    assert (plain_name(name), stem(name)) == (shown, called)


def test_a_spool_says_nothing_that_json_cannot(tmp_path):
    token = read_upload(tmp_path, io.BytesIO(b'{"\\ud800": 1, "prompt": "q"}\n' + ROW), brought())
    for _, item in rows_of(tmp_path, token):
        if isinstance(item, Refusal):
            json.dumps([item.why, item.detail], ensure_ascii=False).encode()
