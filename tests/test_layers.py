"""The house stands: a module imports only from floors below its own, heavy libraries stay in their rooms, and nothing
reads a format that can run code.
"""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "tutelage"
FLOORS = [
    {"errors"},
    {"seed", "publish", "client", "stopwatch"},
    {"types", "config", "log"},
    {"algo", "store", "formats", "stats", "dist", "native"},
    {"model"},
    {"data", "engine", "exchange"},
    {"reward", "train", "label", "serve", "simulate"},
    {"evals", "report"},
    {"cluster"},
    {"rounds"},
    {"cli"},
]
FLOOR = {room: n for n, rooms in enumerate(FLOORS) for room in rooms}
ONLY_IN = {
    "alembic": {"store"},
    "argon2": {"label"},
    "cryptography": {"label"},
    "fastapi": {"label", "serve"},
    "joserfc": {"label"},
    "markdown_it": {"label"},
    "jinja2": {"label", "serve", "report", "model"},  # model: the errors of a chat template
    "peft": {"model"},
    "psycopg": {"store"},
    "pyotp": {"label"},
    "pyarrow": {"formats", "store"},
    "ray": {"cluster"},
    "rich": {"log", "cli"},
    "segno": {"label"},
    "safetensors": {"model", "publish"},  # publish: its error, since a full disk is met while weights are written
    "sqlalchemy": {"store"},
    "starlette": {"label", "serve"},
    "tokenizers": {"model"},
    "transformers": {"model", "engine", "data"},
    "triton": {"engine"},
    "typer": {"cli"},
    "uvicorn": {"label", "serve"},
}
NO_TORCH = {
    "errors", "types", "config", "log", "seed", "publish", "store", "formats", "stats", "exchange", "label",
    "simulate", "client", "stopwatch",
}  # fmt: skip
FILES = sorted(p for p in ROOT.rglob("*.py") if p.parent != ROOT or p.stem not in {"__init__", "__main__"})

# What reads (or writes) a format that runs code on loading.
BANNED_MODULES = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
BANNED_NAMES = {
    "torch.load", "torch.save", "torch.hub", "yaml.load", "yaml.unsafe_load", "yaml.full_load", "pandas.read_pickle",
}  # fmt: skip
BANNED_KEYWORDS = {"allow_pickle", "trust_remote_code"}  # unless they are False, written out


def room_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imports(path: Path) -> set[str]:
    """Every dotted name that a file imports, lazy imports and TYPE_CHECKING included."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}:{node.lineno}: import by the full name, tutelage.room.file"
            names |= {f"{node.module}.{a.name}" for a in node.names}
    return names


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_down(path: Path) -> None:
    room = room_of(path)
    assert room in FLOOR, f"{path}: room {room!r} stands on no floor; give it one in FLOORS"
    for name in sorted(imports(path)):
        top, *rest = name.split(".")
        assert room in ONLY_IN.get(top, {room}), f"{path} imports {top}: only {ONLY_IN[top]} may"
        light = top != "torch"
        if top == "tutelage" and rest and rest[0] not in {room, "__version__"}:
            floor = FLOOR.get(rest[0], len(FLOORS))  # what is no room lies above the roof: nobody imports it
            assert floor < FLOOR[room], f"{path} (floor {FLOOR[room]}) imports {name} (floor {floor})"
            light = rest[0] in NO_TORCH
        assert light or room not in NO_TORCH, f"{path} imports {name}: {room} must start without torch"


def test_rooms_without_torch_start_without_it() -> None:
    # The walls above are about names; a third party could still bring torch along.
    modules = [
        ".".join(("tutelage", *p.relative_to(ROOT).with_suffix("").parts))
        for p in FILES
        if room_of(p) in NO_TORCH and "migrations" not in p.parts
    ]
    assert len(modules) > 20
    code = "\n".join(f"import {m}" for m in modules) + "\nimport sys\nassert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT.parent, check=False)
    assert done.returncode == 0, done.stderr


def dangers(source: str) -> list[str]:
    """`line: name` of everything in a source that loads, or could load, a format that runs code."""
    tree = ast.parse(source)
    alias: dict[str, str] = {}  # local name -> the dotted name that it stands for
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            alias |= {a.asname: a.name for a in node.names if a.asname}
            names = [a.name for a in node.names]
        elif isinstance(node, ast.ImportFrom):
            alias |= {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}
            names = [f"{node.module}.{a.name}" for a in node.names]
        else:
            continue
        found += [f"{node.lineno}: {n}" for n in names if n.split(".")[0] in BANNED_MODULES or n in BANNED_NAMES]
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            first, _, rest = ast.unparse(node).partition(".")
            if (name := f"{alias.get(first, first)}.{rest}") in BANNED_NAMES:
                found.append(f"{node.lineno}: {name}")
        elif isinstance(node, ast.keyword) and node.arg in BANNED_KEYWORDS:
            is_off = isinstance(node.value, ast.Constant) and node.value.value is False
            found += [] if is_off else [f"{node.lineno}: {node.arg}"]
    return found


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_nothing_reads_a_format_that_runs_code(path: Path) -> None:
    assert not (found := dangers(path.read_text(encoding="utf-8"))), f"{path}: {found}; use safetensors or JSON"


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import pickle", ["1: pickle"]),
        ("def f():\n    from joblib import load", ["2: joblib.load"]),
        ("import torch as t\nt.load('x', weights_only=True)", ["2: torch.load"]),
        ("from torch import load", ["1: torch.load"]),
        ("import yaml\nyaml.load(f)\nyaml.safe_load(f)", ["2: yaml.load"]),
        ("np.load(f, allow_pickle=True)", ["1: allow_pickle"]),
        ("np.load(f, allow_pickle=x)\nnp.load(f, allow_pickle=False)", ["1: allow_pickle"]),
        ("f(trust_remote_code=True)", ["1: trust_remote_code"]),
        ("from safetensors.torch import load_file\njson.load(f)", []),
    ],
)
def test_the_search_for_dangers_finds_them(source: str, found: list[str]) -> None:
    assert dangers(source) == found
