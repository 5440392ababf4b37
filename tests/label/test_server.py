"""The server as people meet it: a process that listens on loopback, is killed, and comes back with everything."""

import hashlib
import http.client
import json
import socket
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tutelage.errors import ConfigError
from tutelage.label.config import LabelConfig
from tutelage.label.server import _listen

TOP = Path(__file__).parents[2]
KNOWN = (  # as default and forgotten secrets begin or are assigned
    'password = "', 'password="', 'PASSWORD = "', "SECRET_KEY", "PRIVATE KEY", "changeme", "admin123", "letmein",
    "$argon2id$", "sk-live", "sk-proj", "ghp_", "AKIA",
)  # fmt: skip


def config(tmp_path, **more) -> LabelConfig:
    return LabelConfig(**{"store": str(tmp_path / "s.db"), "data": tmp_path / "data", "port": 0, **more})


def test_an_answer_is_not_held_back_by_the_network_stack(tmp_path):
    # asyncio turns Nagle's algorithm off only for sockets that are named as TCP, as accepted ones then are, too.
    with _listen(config(tmp_path)) as listening, socket.create_connection(listening.getsockname()):
        accepted, _ = listening.accept()
        with accepted:
            assert accepted.proto == socket.IPPROTO_TCP


def test_a_port_that_is_taken_is_told(tmp_path):
    with _listen(config(tmp_path)) as listening, pytest.raises(ConfigError, match="cannot be listened on"):
        _listen(config(tmp_path, port=listening.getsockname()[1]))


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.4", "::", "label.example.org"])
def test_it_listens_beyond_this_machine_only_behind_tls(tmp_path, host):
    with pytest.raises(ConfigError, match="listens beyond this machine"):
        config(tmp_path, host=host)
    assert config(tmp_path, host=host, public_url="https://label.example.org").is_secure
    with pytest.raises(ConfigError, match="not https"):
        config(tmp_path, public_url="http://label.example.org")


def test_the_first_start_prints_a_link_that_works_once_and_the_second_none(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as s:
        port = s.getsockname()[1]
    command = [sys.executable, "-m", "tutelage", "label", "--store", str(tmp_path / "s.db"), "--port", str(port)]
    password = "four plain unrelated words"
    first = subprocess.Popen(command, stderr=subprocess.STDOUT, stdout=subprocess.PIPE, text=True, cwd=TOP)
    said = said_until_listening(first)
    token = said.partition("/setup?token=")[2].split()[0]
    try:
        for status in (303, 403):
            form = f"token={token}&email=o%40example.org&password={password.replace(' ', '+')}"
            headers = {"sec-fetch-site": "same-origin", "content-type": "application/x-www-form-urlencoded"}
            connection = http.client.HTTPConnection("127.0.0.1", port)
            connection.request("POST", "/setup", form, headers)
            assert connection.getresponse().status == status
            connection.close()
    finally:
        first.kill()
        first.communicate()
    assert (tmp_path / "s.label" / "secret.key").stat().st_mode & 0o777 == 0o600
    second = subprocess.Popen(command, stderr=subprocess.STDOUT, stdout=subprocess.PIPE, text=True, cwd=TOP)
    try:
        assert "setup" not in said_until_listening(second)
    finally:
        second.kill()
        second.communicate()


def said_until_listening(process: subprocess.Popen) -> str:
    said = ""
    for line in process.stdout:
        said += line
        if "listening on" in line:
            return said
    raise AssertionError(f"the server ended: {said}")


def test_nothing_that_is_shipped_holds_a_password_or_a_key():
    shipped = [p for p in (TOP / "tutelage").rglob("*") if p.is_file() and "__pycache__" not in p.parts]
    shipped = [p for p in shipped if p.suffix in (".py", ".html", ".js", ".toml", ".json", ".css", ".svg", ".md", "")]
    assert len(shipped) > 150
    for path in shipped:
        text = path.read_text(encoding="utf-8")
        for known in KNOWN:
            assert known not in text, f"{path} holds {known!r}"
    assert not [p for p in shipped if p.suffix in (".key", ".pem", ".db", ".env")]


def test_the_vendored_script_is_the_one_that_was_decided_on():
    decided = (TOP / "docs" / "decisions" / "0003-feedback-app.md").read_text(encoding="utf-8")
    script = (TOP / "tutelage" / "label" / "static" / "htmx.min.js").read_bytes()
    assert hashlib.sha256(script).hexdigest() in decided


@pytest.mark.slow
def test_the_wheel_holds_every_page_and_no_secret(tmp_path):
    build = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "-q",
        "-w",
        str(tmp_path),
        str(TOP),
    ]
    done = subprocess.run(build, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no wheel can be built here: {done.stderr[-300:]}")
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    for folder in ("templates", "static"):
        for path in (TOP / "tutelage" / "label" / folder).iterdir():
            assert f"tutelage/label/{folder}/{path.name}" in names
    assert not [n for n in names if n.endswith((".key", ".pem", ".db", ".db-wal", ".env"))]


@pytest.mark.slow
def test_a_server_that_is_killed_again_and_again_loses_no_answer():
    command = [sys.executable, str(TOP / "benchmarks" / "label_load.py"), "--people", "10", "--minutes", "0.4"]
    done = subprocess.run([*command, "--kill-every", "2"], capture_output=True, text=True, check=False, cwd=TOP)
    found = json.loads(done.stdout)
    assert done.returncode == 0, (found, done.stderr)
    assert found["kills"] >= 3 and found["acknowledged"] > 30
    assert found["lost"] == found["changed"] == found["doubled"] == found["over_assigned"] == 0 and not found["errors"]
