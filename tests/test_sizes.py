"""Nothing grows too large to be read: files, functions, and rooms that would take in everything."""

import ast
import statistics
from pathlib import Path

import pytest

TOP = Path(__file__).parents[1]
ROOT = TOP / "tutelage"
MAX_FILE, MAX_FUNCTION, MAX_RUN = 400, 60, 80  # lines
NO_ROOMS = {"utils", "util", "common", "misc", "base", "manager", "helpers"}
OURS = sorted(ROOT.rglob("*.py"))
ALL = sorted({*OURS, *(p for folder in ("tests", "scripts", "benchmarks") for p in (TOP / folder).rglob("*.py"))})


def name(path: Path) -> str:
    return str(path.relative_to(TOP))


def functions(path: Path) -> list[tuple[str, int, int]]:
    """Name, first line and number of lines of each function, docstring counted, nested ones too."""
    return [
        (node.name, node.lineno, (node.end_lineno or node.lineno) - node.lineno + 1)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]


@pytest.mark.parametrize("path", ALL, ids=name)
def test_a_file_is_one_noun(path: Path) -> None:
    n_lines = len(path.read_text(encoding="utf-8").splitlines())
    assert n_lines <= MAX_FILE, f"{name(path)} has {n_lines} lines, more than {MAX_FILE}: is a room missing?"


@pytest.mark.parametrize("path", ALL, ids=name)
def test_a_function_fits_on_a_screen(path: Path) -> None:
    found = functions(path)
    long = [f"{path}:{line} {f}: {n} lines" for f, line, n in found if n > (MAX_RUN if f == "run" else MAX_FUNCTION)]
    assert not long, f"more than {MAX_FUNCTION} lines (a `run`: {MAX_RUN}): {long}"


def test_no_room_takes_in_everything(capsys: pytest.CaptureFixture[str]) -> None:
    assert len(OURS) > 20
    lengths = [n for path in OURS for _, _, n in functions(path)]
    with capsys.disabled():  # reported only: the tail is what hurts
        print(f"\n{len(OURS)} files, {len(lengths)} functions, median {statistics.median(lengths):.0f} lines")
    parts = {name(p) for p in OURS if NO_ROOMS & {part.removesuffix(".py") for part in p.relative_to(ROOT).parts}}
    assert not parts, f"{parts}: say what lives there; if a function has no room, a room is missing"


@pytest.mark.parametrize("path", OURS, ids=name)
def test_a_file_says_what_lives_there(path: Path) -> None:
    doc = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert doc, f"{name(path)} has no docstring: say what lives there, and what it does not know"
