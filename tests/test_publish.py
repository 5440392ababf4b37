"""Whole or not at all: kills, full disks, flipped bytes, and two processes in one run directory."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tutelage.errors import CorruptError, DiskError, RunInUseError
from tutelage.publish import MANIFEST, RunLock, disk_errors, published, sha256_file, verify, write_json

ROOT = Path(__file__).parents[1]


@pytest.fixture
def folder(tmp_path):
    with published(tmp_path / "deep" / "model") as aside:
        (aside / "weights").write_bytes(b"weights" * 100)
        (aside / "sub").mkdir()
        (aside / "sub" / "card.json").write_text("{}")
    return tmp_path / "deep" / "model"


def python(code, **kw):
    return subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, text=True, stdout=subprocess.PIPE, **kw)


def test_a_published_folder_is_whole_and_lists_each_file(folder):
    assert verify(folder) == {
        "sub/card.json": "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a",  # sha256 of "{}"
        "weights": sha256_file(folder / "weights"),
    }
    assert [p.name for p in folder.parent.iterdir()] == ["model"]


@pytest.mark.parametrize("error", [RuntimeError("half way"), KeyboardInterrupt(), SystemExit(1)])
def test_an_error_inside_leaves_no_folder(tmp_path, error):
    with pytest.raises(type(error)), published(tmp_path / "model") as aside:
        (aside / "weights").write_text("some")
        raise error
    assert list(tmp_path.iterdir()) == []


def test_a_kill_leaves_nothing_under_the_name_and_the_next_try_succeeds(tmp_path):
    code = f"""
import os, signal
from pathlib import Path
from tutelage.publish import published
with published(Path({str(tmp_path / "model")!r})) as aside:
    (aside / "stale").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    killed = python(code)
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "model").exists()
    with published(tmp_path / "model") as aside:
        (aside / "weights").write_text("whole")
    assert set(verify(tmp_path / "model")) == {"weights"}
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_what_is_published_is_never_overwritten(folder):
    with pytest.raises(CorruptError, match="already there"), published(folder) as aside:
        (aside / "weights").write_text("new")
    assert (folder / "weights").read_bytes() == b"weights" * 100
    verify(folder)


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


DAMAGES = {
    "flipped": (lambda f: flip(f / "weights"), "weights differs"),
    "cut": (lambda f: os.truncate(f / "weights", 10), "weights differs"),
    "missing": (lambda f: (f / "sub" / "card.json").unlink(), "card.json is listed"),
    "no manifest": (lambda f: (f / MANIFEST).unlink(), "has no manifest.json"),
    "cut manifest": (lambda f: os.truncate(f / MANIFEST, 40), "is not as it was written"),
    "empty manifest": (lambda f: (f / MANIFEST).write_text("{}"), "is not as it was written"),
    "binary manifest": (lambda f: (f / MANIFEST).write_bytes(b"\xff\x00"), "is not as it was written"),
    "foreign manifest": (lambda f: (f / MANIFEST).write_text('{"files": ["a"]}'), "is not as it was written"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_found_and_named(folder, damage):
    harm, words = DAMAGES[damage]
    harm(folder)
    with pytest.raises(CorruptError, match=words):
        verify(folder)


def test_one_json_file_is_replaced_in_one_step(tmp_path):
    path = tmp_path / "facts.json"
    write_json(path, {"b": 1, "a": "ü"})
    assert path.read_text(encoding="utf-8") == '{\n  "a": "ü",\n  "b": 1\n}\n'
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert path.read_text(encoding="utf-8").startswith('{\n  "a": "ü"')
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_one_clear_error_and_leaves_nothing(small_disk):
    with (
        pytest.raises(DiskError, match=r"model was not written: .* Free space"),
        published(small_disk / "model") as aside,
    ):
        (aside / "small").write_bytes(b"x" * 8192)
        (aside / "weights").write_bytes(b"x" * 200_000)
    assert list(small_disk.iterdir()) == []
    with pytest.raises(DiskError, match=r"facts.json was not written"):
        write_json(small_disk / "facts.json", "x" * 200_000)
    assert list(small_disk.iterdir()) == []


def test_other_errors_pass_through_as_they_are():
    with pytest.raises(FileNotFoundError), disk_errors("x"):
        Path("/nowhere/at/all").read_text()
    with pytest.raises(IsADirectoryError), disk_errors("x"):
        Path("/").read_text()


def hold(folder):
    holder = python(
        f"""
import time
from pathlib import Path
from tutelage.publish import RunLock
with RunLock(Path({str(folder)!r})):
    print("held", flush=True)
    time.sleep(60)
"""
    )
    assert holder.stdout.readline() == "held\n"
    return holder


def test_a_second_process_is_told_who_has_the_run_and_gets_it_when_that_one_is_killed(tmp_path):
    holder = hold(tmp_path)
    try:
        for _ in range(2):  # asking must not wipe the name of the holder
            with pytest.raises(RunInUseError, match=rf"in use by process {holder.pid}\b"), RunLock(tmp_path):
                pass
    finally:
        holder.kill()
        holder.communicate()
    with RunLock(tmp_path):
        assert (tmp_path / ".lock").read_text() == str(os.getpid())


def test_the_lock_is_free_after_the_block_and_after_an_error(tmp_path):
    with pytest.raises(ValueError, match="inside"), RunLock(tmp_path):
        raise ValueError("inside")
    started = time.monotonic()
    with RunLock(tmp_path), pytest.raises(RunInUseError), RunLock(tmp_path):
        pass
    assert time.monotonic() - started < 1  # refused at once, not waited for
