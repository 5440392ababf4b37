"""A command as a user runs it: arguments in, exit code and both streams out."""

import io
import json
import sys
from dataclasses import dataclass

import pytest

from tutelage.cli.main import main


@dataclass(frozen=True)
class Ended:
    code: int
    out: str
    err: str

    @property
    def json(self):
        return json.loads(self.out)


@pytest.fixture
def tutelage(monkeypatch, capsys):
    """(*arguments, stdin="") -> how the command ended."""

    def run(*arguments, stdin=""):
        monkeypatch.setattr(sys, "argv", ["tutelage", *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        code = 0
        try:
            main()
        except SystemExit as e:
            code = int(e.code or 0)
        streams = capsys.readouterr()
        return Ended(code, streams.out, streams.err)

    return run


@pytest.fixture
def refused(tutelage):
    """(*arguments) -> the one message of a command that ends with 2; it prints no figure and no traceback."""

    def run(*arguments):
        ended = tutelage(*arguments)
        assert ended.code == 2, ended
        assert not ended.out and "Traceback" not in ended.err
        errors = [line for line in ended.err.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1, ended.err
        return errors[0]

    return run


@pytest.fixture
def write(tmp_path):
    """(name, *rows) -> a file of JSON Lines."""

    def make(name, *rows):
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return path

    return make


PAIR = {"prompt": "Is the pool open?", "chosen": "Yes, until eight.", "rejected": "No."}
OTHER = {"prompt": "Where is the kettle?", "chosen": "On the shelf.", "rejected": "Where you left it, I think."}


@pytest.fixture
def pairs(write):
    """Two pairs from two sources."""
    return write("pairs.jsonl", PAIR | {"source": "a"}, OTHER | {"source": "b"})
