"""Recipes: TOML and `a.b=c` overrides into frozen typed settings, and back. Knows no setting of any room.

An unknown key is an error that names the nearest known one; a value of the wrong type says what was expected.
"""

import dataclasses
import difflib
import tomllib
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import tomli_w
from pydantic import TypeAdapter, ValidationError

from tutelage.errors import ConfigError

T = TypeVar("T")


def load(kind: type[T], path: Path, overrides: Sequence[str] = ()) -> T:
    """Settings of dataclass `kind` from a TOML file, with `a.b=c` overrides on top.

    Raises ConfigError for a missing or broken file, an unknown key, or a value that cannot be.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as e:
        raise ConfigError(f"{path}: no such recipe. `ls recipes` shows the ones that come with tutelage.") from e
    except OSError as e:
        raise ConfigError(f"{path} cannot be read as a recipe ({e.strerror}). Give a TOML file.") from e
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as e:
        raise ConfigError(f"{path}: not valid TOML ({e}). Mend that line.") from e
    for text in overrides:
        _override(table, text)
    return build(kind, table, str(path))


def build(kind: type[T], table: Mapping[str, Any], where: str) -> T:
    """Settings from a nested table; `where` opens every message."""
    _check_keys(kind, table, where, "")
    try:
        return TypeAdapter(kind).validate_python(dict(table))
    except ValidationError as e:
        raise ConfigError("\n".join(f"{where}: {_explain(dict(error))}" for error in e.errors())) from e


def to_table(settings: Any) -> dict[str, Any]:
    """Every setting, resolved, as a nested table. Settings that are None are left out: TOML has no word for it."""

    def plain(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {k: plain(v) for k, v in value.items() if v is not None}
        if isinstance(value, (list, tuple)):
            return [plain(v) for v in value]
        return value

    table: dict[str, Any] = plain(dataclasses.asdict(settings))
    return table


def to_toml(settings: Any) -> str:
    """The settings as a recipe that `load` reads back to the same settings."""
    return tomli_w.dumps(to_table(settings))


def _override(table: dict[str, Any], text: str) -> None:
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"--set {text!r} is not of the form a.b=c, such as --set ppo.kl_coef=0.1.")
    try:
        parsed = tomllib.loads(f"x = {value}")["x"]
    except tomllib.TOMLDecodeError:
        parsed = value  # a bare word is a string
    *folders, last = key.strip().split(".")
    for folder in folders:
        table = table.setdefault(folder, {})
        if not isinstance(table, dict):
            raise ConfigError(f"--set {text!r}: {folder!r} is a value, not a table of settings.")
    table[last] = parsed


def _inner(kind: Any) -> Any:
    """The X of `X | None`; any other type as it is."""
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        inner = [a for a in typing.get_args(kind) if a is not type(None)]
        return inner[0] if len(inner) == 1 else None
    return kind


def _fields(kind: Any) -> dict[str, Any] | None:
    """Names and types of a dataclass's settings; None for anything else. Looks through `X | None`."""
    kind = _inner(kind)
    if not dataclasses.is_dataclass(kind):
        return None
    hints = typing.get_type_hints(kind)
    return {f.name: hints[f.name] for f in dataclasses.fields(kind)}


def _check_keys(kind: Any, table: Mapping[str, Any], where: str, prefix: str) -> None:
    known = _fields(kind)
    if known is None:
        return
    for key, value in table.items():
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.0)
            mend = f"did you mean '{prefix}{near[0]}'?" if near else "there is nothing to set here."
            raise ConfigError(f"{where}: unknown key '{prefix}{key}'; {mend}")
        if isinstance(value, Mapping):
            _check_keys(known[key], value, where, f"{prefix}{key}.")
        elif isinstance(value, list) and (item_kinds := typing.get_args(_inner(known[key]))):
            for i, item in enumerate(value):
                if isinstance(item, Mapping):
                    _check_keys(item_kinds[0], item, where, f"{prefix}{key}[{i}].")


def _explain(error: dict[str, Any]) -> str:
    key = ".".join(str(p) for p in error["loc"])
    raised = error.get("ctx", {}).get("error")
    if isinstance(raised, ConfigError):
        return str(raised)
    if error["type"] == "missing":
        return f"'{key}' is missing. Add it to the recipe."
    return f"{key} = {error['input']!r}, but {error['msg'][0].lower()}{error['msg'][1:]}. Mend the value."
