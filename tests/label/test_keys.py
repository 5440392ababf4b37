"""The installation's secret."""

import os
import threading

import pytest

from tutelage.errors import ConfigError
from tutelage.label.keys import NAME, Keys


def test_the_secret_is_made_once_and_for_its_owner_alone(tmp_path):
    old = os.umask(0)
    try:
        first = Keys(tmp_path / "data")
    finally:
        os.umask(old)
    assert (tmp_path / "data" / NAME).stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "data").stat().st_mode & 0o777 == 0o700
    again = Keys(tmp_path / "data")
    assert again.unseal(first.seal("word")) == "word" and again.form_mark("s") == first.form_mark("s")


def test_two_installations_have_two_secrets(tmp_path):
    a, b = Keys(tmp_path / "a"), Keys(tmp_path / "b")
    assert b.unseal(a.seal("word")) is None and a.form_mark("s") != b.form_mark("s")


def test_many_that_start_at_once_agree_on_one_secret(tmp_path):
    found, start = [], threading.Barrier(8)

    def make():
        start.wait()
        found.append(Keys(tmp_path / "data").form_mark("s"))

    threads = [threading.Thread(target=make) for _ in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(found) == 8 and len(set(found)) == 1


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660])
def test_a_secret_that_others_can_read_is_refused(tmp_path, mode):
    Keys(tmp_path)
    (tmp_path / NAME).chmod(mode)
    with pytest.raises(ConfigError, match="chmod 600"):
        Keys(tmp_path)


@pytest.mark.parametrize("content", [b"", b"secret", b"A" * 44])
def test_what_is_no_secret_is_refused(tmp_path, content):
    Keys(tmp_path)
    (tmp_path / NAME).write_bytes(content)
    if content == b"A" * 44:  # 33 bytes of base64: one too many
        with pytest.raises(ConfigError, match="backup"):
            Keys(tmp_path)
        return
    with pytest.raises(ConfigError, match="not the key"):
        Keys(tmp_path)


def test_what_was_changed_is_not_unsealed(tmp_path):
    keys = Keys(tmp_path)
    sealed = keys.seal("word")
    assert "word" not in sealed
    for changed in ("", "x", sealed[:-2], sealed[:20] + ("A" if sealed[20] != "A" else "B") + sealed[21:], "é"):
        assert keys.unseal(changed) is None


def test_a_mark_says_nothing_of_its_session(tmp_path):
    keys = Keys(tmp_path)
    assert len({keys.form_mark(str(i)) for i in range(100)}) == 100
    assert "session" not in keys.form_mark("session")
