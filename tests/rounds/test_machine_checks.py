"""Planted faults of a machine: each is found, and a machine without it is well."""

import os
import shutil
import sqlite3
from importlib import metadata
from types import SimpleNamespace

import pytest
import torch

from tutelage.errors import DiskError
from tutelage.rounds import machine_checks as checks


@pytest.mark.parametrize(
    ("version", "ranges", "is_in"),
    [
        ("2.13.0+cpu", "<3,>=2.6", True),
        ("2.5.1", "<3,>=2.6", False),
        ("3.0", "<3,>=2.6", False),
        ("5.0.0rc1", ">=5,<6", True),
        ("2.0", "==2", True),
        ("1.0", "", True),
    ],
)
def test_a_version_lies_within_its_range_or_not(version, ranges, is_in):
    assert checks.is_within(version, ranges) is is_in


@pytest.mark.parametrize(("asked", "state"), [("torch>=2.6,<3", "ok"), ("torch<2", "bad"), ("no-such-thing>=1", "bad")])
def test_libraries_are_held_to_what_the_package_asks_for(monkeypatch, asked, state):
    monkeypatch.setattr(metadata, "requires", lambda name: [asked, "ray>=99 ; extra == 'cluster'"])
    found = checks.libraries()
    assert found.state == state and ("torch 2." in found.what or "no-such-thing is missing" in found.what)


def test_a_checkout_that_is_not_installed_is_a_warning(monkeypatch):
    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "requires", missing)
    found = checks.libraries()
    assert found.state == "warn" and "transformers" in found.what


@pytest.mark.parametrize(("n_threads", "load", "says"), [(2, 0.0, ""), (3, 0.0, "collapse"), (1, 9.0, "others")])
def test_more_threads_than_cores_or_a_busy_machine_is_a_warning(monkeypatch, n_threads, load, says):
    monkeypatch.setattr(checks, "available_cores", lambda: 2.0)
    monkeypatch.setattr(torch, "get_num_threads", lambda: n_threads)
    monkeypatch.setattr(os, "getloadavg", lambda: (load, 0.0, 0.0))
    found = checks.threads()
    assert found.state == ("warn" if says else "ok") and says in found.what and bool(found.todo) == bool(says)


@pytest.mark.parametrize(("free", "state"), [(8.0, "ok"), (3.0, "warn"), (1.0, "bad")])
def test_memory(monkeypatch, free, state):
    monkeypatch.setattr(checks, "available_memory_gb", lambda: free)
    assert checks.memory().state == state


@pytest.mark.parametrize(("free", "state"), [(3e9, "ok"), (1.9e9, "bad")])
def test_disk(monkeypatch, tmp_path, free, state):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=free))
    assert checks.disk(tmp_path).state == state


def test_writing_is_timed_and_leaves_nothing(tmp_path):
    assert "MB/s" in checks.write_speed(tmp_path).what
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_an_error_of_ours(monkeypatch, tmp_path):
    monkeypatch.setattr(os, "access", lambda folder, mode: False)
    with pytest.raises(DiskError, match="cannot be written by this user"):
        checks.write_speed(tmp_path)


@pytest.mark.parametrize(("version", "says"), [((3, 40, 1), "one connection"), ((3, 51, 3), "several connections")])
def test_any_sqlite_will_do(monkeypatch, version, says):
    monkeypatch.setattr(sqlite3, "sqlite_version_info", version)
    found = checks.sqlite()
    assert found.state == "ok" and says in found.what


def test_every_part_is_examined_on_this_machine(tmp_path):
    names = [c.name for c in checks.machine_checks(tmp_path)]
    assert names == [
        "Python",
        "libraries",
        "threads",
        "memory",
        "device",
        "bf16",
        "disk",
        "write speed",
        "SQLite",
        "store",
    ]
    assert checks.store().state == "ok" and checks.available_cores() > 0 and checks.available_memory_gb() > 0
