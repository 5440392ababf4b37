"""What every command shares: the options that are promised, exit codes, and errors without a traceback."""

import subprocess
import sys

import pytest
import typer

from tutelage import __version__
from tutelage.cli import data, models, people, runs, serving
from tutelage.cli import main as entry
from tutelage.cli.main import app
from tutelage.errors import DataError, RunInUseError, TrainingError, WaitingForLabels

RUN = ["--json", "--out", "--set", "recipe"]
DRAWN = ["--max-new-tokens", "--seed", "--temperature"]
# Users' scripts rely on these. An option that comes or goes is a decision: change it here, and in the CHANGELOG.
OPTIONS = {
    "chat": ["--against", "--stage", "--top-p", "where", *DRAWN],
    "doctor": ["--json", "recipe"],
    "eval policy": ["--against", "--json", "--judge", "--model", "--prompts", *DRAWN],
    "eval reward": ["--combine", "--data", "--json", "--model"],
    "export": ["--format", "--json", "--source", "--store", "file"],
    "import": ["--dry-run", "--format", "--json", "--kind", "--labeler", "--source", "--store", "--strict", "file"],
    "label": [
        "--data",
        "--host",
        "--oidc-client",
        "--oidc-issuer",
        "--port",
        "--private-endpoint",
        "--public-url",
        "--store",
        "run",
    ],
    "ppo": RUN,
    "pretrain": RUN,
    "quickstart": ["--json", "--out", "--set"],
    "report": ["--json", "folder"],
    "reward": RUN,
    "rloo": RUN,
    "run": [*RUN, "--profile", "--wait"],
    "sample": ["--json", "--model", "--out", "--prompt", "--prompts", "--top-p", "-n", *DRAWN],
    "score": ["--data", "--json", "--model", "--out"],
    "serve": ["--host", "--key-env", "--max-tokens", "--port", "--stage", "--store", "where"],
    "sft": RUN,
    "status": ["--json", "folder"],
}


def commands(group, prefix=""):
    """Name -> options and arguments of each command, sorted."""
    found = {}
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            found |= commands(command, f"{name} ")
        else:
            names = [p.opts[0] if p.param_type_name == "option" else p.name for p in command.params]
            found[prefix + name] = sorted(names)
    return found


def test_commands_and_options_are_those_that_are_promised():
    registered = (data, models, people, runs, serving)
    assert all(module.app is app for module in registered)  # each has registered its commands
    assert commands(typer.main.get_command(app)) == {name: sorted(options) for name, options in OPTIONS.items()}


def test_every_command_that_prints_figures_can_print_json():
    assert [name for name, options in OPTIONS.items() if "--json" not in options] == ["chat", "label", "serve"]


def test_the_version_is_that_of_the_package(tutelage):
    assert tutelage("--version").out == f"{__version__}\n"


@pytest.mark.parametrize("arguments", [["no-such-command"], ["sample"], ["sample", "--no-such-option"], ["eval"]])
def test_wrong_use_ends_with_2_and_a_hint(tutelage, arguments):
    ended = tutelage(*arguments)
    assert ended.code == 2 and "Usage" in ended.out + ended.err and "Traceback" not in ended.err


@pytest.mark.parametrize(
    ("error", "code"),
    [(DataError("x"), 2), (RunInUseError("x"), 3), (TrainingError("x"), 2), (WaitingForLabels("x"), 0)],
)
def test_an_error_of_ours_is_one_message_with_its_exit_code(tutelage, monkeypatch, error, code):
    def fail():
        raise error

    monkeypatch.setattr(entry, "app", fail)
    ended = tutelage("status", "x")
    assert (ended.code, ended.out) == (code, "")
    assert ended.err == ("x\n" if code == 0 else "error: x\n")


def test_a_message_cannot_steer_the_terminal(tutelage, monkeypatch):
    def fail():
        raise DataError("row \x1b[2Jgone\x07")

    monkeypatch.setattr(entry, "app", fail)
    assert tutelage("status", "x").err == "error: row [2Jgone\n"


def test_debug_shows_the_traceback(tutelage, monkeypatch, tmp_path):
    monkeypatch.setenv("TUTELAGE_DEBUG", "")  # so that what --debug sets is undone
    with pytest.raises(Exception, match="not a run directory"):
        tutelage("--debug", "status", tmp_path)


def test_ctrl_c_says_how_to_go_on(tutelage, monkeypatch):
    def stop():
        raise KeyboardInterrupt

    monkeypatch.setattr(entry, "app", stop)
    ended = tutelage("status", "x")
    assert ended.code == 1 and "goes on from the last saved state" in ended.err


def test_help_and_imports_of_data_start_without_torch(tmp_path):
    code = f"""
import sys
sys.argv = ["tutelage", "import", {str(tmp_path / "none.jsonl")!r}, "--store", {str(tmp_path / "s.db")!r}]
from tutelage.cli.main import main
try:
    main()
except SystemExit as e:
    assert e.code == 2, e.code
assert "tutelage.exchange" in sys.modules
assert not {{"torch", "transformers"}} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "there is no such file" in done.stderr, done.stderr
