"""Writers of feedback: JSON Lines, Parquet and CSV by the name of the file, each whole or not at all.

Equal content has equal bytes. What a format cannot hold is left out and counted, never dropped in silence.
"""

import csv
import io
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, combinations, islice
from pathlib import Path
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped, unused-ignore]
import pyarrow.parquet as pq  # type: ignore[import-untyped, unused-ignore]

from tutelage.errors import DataError
from tutelage.formats import hh
from tutelage.formats.compressed import written
from tutelage.formats.rows import kind_of
from tutelage.types import Demonstration, Prompt, RankedGroup

FORMULA = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet would run a cell that begins so


@dataclass(frozen=True, slots=True)
class Judged:
    """One answer called good or bad, for KTO. Example: `Judged(prompt, "Sure.", True, "ann", "demo")`."""

    prompt: Prompt
    text: str
    is_good: bool
    labeler: str = ""
    source: str = ""


@dataclass(frozen=True, slots=True)
class Written:
    """What went into a file, and what its format had no place for."""

    rows: int
    left_out: dict[str, int] = field(default_factory=dict)


Made = Iterator[dict[str, Any] | str]  # rows, and a few words for each thing that has no place

_MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
# Columns of CSV and Parquet. In Parquet a prompt is always a chat; what is not named here is a string.
_TYPES = {
    "prompt": _MESSAGES,
    "messages": _MESSAGES,
    "completions": pa.list_(
        pa.struct([("text", pa.string()), ("tier", pa.int64()), ("model", pa.string()), ("position", pa.int64())])
    ),
    "margin": pa.float64(),
    "tie": pa.bool_(),
    "label": pa.bool_(),
    "none_acceptable": pa.bool_(),
    "value": pa.float64(),
    "seconds": pa.float64(),
    "selection_probability": pa.float64(),
    "decides": pa.list_(pa.string()),
    **dict.fromkeys(("start", "end", "position", "seq"), pa.int64()),
}
_BY = ("labeler", "source")
_CHOSEN = ("policy", "selection_probability")  # how the task came to be judged
_PAIR = ("ranking_event_id", "id")
_MADE = (
    "model",
    "position",
    "seconds",
    "guideline",
    *_CHOSEN,
    *_BY,
    "event",
)  # how a judgement of one completion came about
TABLES = {
    "ratings": ("prompt", "completion", "aspect", "value", *_MADE),
    "critiques": ("prompt", "completion", "critique", "start", "end", *_MADE),
    "flags": ("prompt", "completion", "category", "note", *_MADE),
    "log": ("seq", "at", "hash", "feedback"),
}


def write_rankings(path: Path, groups: Iterable[RankedGroup]) -> Written:
    """The project's own listwise rows: ties, whose judgement it is and which one, so that they can come back."""
    how = ("margin", "aspect", "none_acceptable", "seconds", "guideline", *_CHOSEN, "decides")
    return _write(
        path, ("prompt", "completions", *how, *_BY, "event"), (row for group in groups for row in _ranking(group))
    )


def write_pairs(path: Path, groups: Iterable[RankedGroup], *, ties: bool = False) -> Written:
    """Every strict pair of every ranking; `margin` is the tier gap, or what the data say. Tied pairs when asked for."""
    columns = ("prompt", "chosen", "rejected", "margin", "tie", "aspect", *_CHOSEN, "decides", *_BY, *_PAIR)
    return _write(path, columns, (row for group in groups for row in _pairs(group, ties)))


def write_hh(path: Path, groups: Iterable[RankedGroup]) -> Written:
    """Every strict pair as two transcripts. System messages and texts that hold a turn's mark are left out."""
    return _write(path, ("chosen", "rejected", *_BY, *_PAIR), (row for group in groups for row in _hh(group)))


def write_demonstrations(path: Path, demonstrations: Iterable[Demonstration]) -> Written:
    rows = ({"prompt": _asked(d.prompt), "completion": d.text, **_by(d)} for d in demonstrations)
    return _write(path, ("prompt", "completion", *_BY), rows)


def write_messages(path: Path, demonstrations: Iterable[Demonstration]) -> Written:
    """Demonstrations as OpenAI's chat rows."""
    rows = (
        {"messages": [*_chat(d.prompt), {"role": "assistant", "content": d.text}], **_by(d)} for d in demonstrations
    )
    return _write(path, ("messages", *_BY), rows)


def write_kto(path: Path, judged: Iterable[Judged]) -> Written:
    """`prompt`, `completion`, `label`: true is good."""
    rows = ({"prompt": _asked(j.prompt), "completion": j.text, "label": j.is_good, **_by(j)} for j in judged)
    return _write(path, ("prompt", "completion", "label", *_BY), rows)


def write_table(path: Path, table: str, rows: Iterable[dict[str, Any]]) -> Written:
    """Rows of one of `TABLES` by the names of its columns; a column that is missing or None says nothing.

    `prompt` is a Prompt. In CSV and Parquet the `feedback` of the log is JSON text.
    """
    columns, is_lines = TABLES[table], kind_of(path) not in (".csv", ".parquet")

    def made() -> Made:
        for row in rows:
            said = {name: row[name] for name in columns if name in row and row[name] is not None}
            if "prompt" in said:
                said["prompt"] = _asked(said["prompt"])
            if "feedback" in said and not is_lines:
                said["feedback"] = json.dumps(said["feedback"], ensure_ascii=False, sort_keys=True)
            yield said

    return _write(path, columns, made())


def _asked(prompt: Prompt) -> str | list[dict[str, str]]:
    """One user turn as a string, anything else as a chat."""
    only = prompt.messages[0]
    return only.content if len(prompt.messages) == 1 and only.role == "user" else _chat(prompt)


def _chat(prompt: Prompt) -> list[dict[str, str]]:
    return [{"role": m.role, "content": m.content} for m in prompt.messages]


def _by(item: RankedGroup | Demonstration | Judged) -> dict[str, str]:
    return {name: value for name in ("labeler", "source") if (value := getattr(item, name))}


def _chosen(group: RankedGroup) -> dict[str, Any]:
    """How the task was chosen, and between which judgements a reviewer's one decides."""
    return {
        **({"policy": group.policy} if group.policy else {}),
        **({} if group.selection_probability is None else {"selection_probability": group.selection_probability}),
        **({"decides": list(group.decides)} if group.decides else {}),
    }


def _ranking(group: RankedGroup) -> Made:
    completions: list[dict[str, Any]] = []
    for i, (text, tier) in enumerate(zip(group.texts, group.tiers, strict=True)):
        model = {"model": group.models[i]} if group.models and group.models[i] is not None else {}
        position = {"position": group.positions[i]} if group.positions else {}
        completions.append({"text": text, "tier": tier, **model, **position})
    yield {
        "prompt": _asked(group.prompt),
        "completions": completions,
        **({} if group.margin is None else {"margin": group.margin}),
        **({} if group.aspect == "overall" else {"aspect": group.aspect}),
        **({"none_acceptable": True} if group.none_acceptable else {}),
        **({} if group.seconds is None else {"seconds": group.seconds}),
        **({"guideline": group.guideline} if group.guideline else {}),
        **_chosen(group),
        **_by(group),
        **({"event": group.event} if group.event else {}),
    }


def _pairs(group: RankedGroup, ties: bool) -> Made:
    for i, j in combinations(range(len(group.texts)), 2):
        gap = group.tiers[j] - group.tiers[i]
        if gap == 0 and not ties:
            yield "tied pair"
            continue
        better, worse = (i, j) if gap >= 0 else (j, i)
        yield {
            "prompt": _asked(group.prompt),
            "chosen": group.texts[better],
            "rejected": group.texts[worse],
            "margin": float(abs(gap)) if group.margin is None or gap == 0 else group.margin,
            "tie": gap == 0,
            **({} if group.aspect == "overall" else {"aspect": group.aspect}),
            **_chosen(group),
            **_by(group),
            **_of(group, better, worse),
        }


def _of(group: RankedGroup, better: int, worse: int) -> dict[str, str]:
    """Which ranking a pair comes from: all pairs of one ranking share it."""
    return {"ranking_event_id": group.event, "id": f"{group.event}/{better}-{worse}"} if group.event else {}


def _hh(group: RankedGroup) -> Made:
    for row in _pairs(group, ties=False):
        if isinstance(row, str):
            yield row
            continue
        try:
            sides = {side: hh.transcript(group.prompt.messages, row[side]) for side in ("chosen", "rejected")}
        except DataError:
            yield "system message, or a text that holds a turn's mark"
        else:
            yield {**sides, **{name: row[name] for name in (*_BY, *_PAIR) if name in row}}


# Files.


def _write(path: Path, columns: Sequence[str], made: Iterable[dict[str, Any] | str]) -> Written:
    left_out: Counter[str] = Counter()
    n = 0

    def rows() -> Iterator[dict[str, Any]]:
        nonlocal n
        for row in made:
            if isinstance(row, str):
                left_out[row] += 1
            else:
                n += 1
                yield row

    kind = kind_of(path)
    if kind == ".json":
        raise DataError(f"{path}: a .json list is never written, as it cannot be read line by line. Name it .jsonl.")
    if kind == ".parquet":
        _write_parquet(path, columns, rows())
    else:
        with written(path) as out:
            for line in _csv_lines(columns, rows()) if kind == ".csv" else _json_lines(rows()):
                out.write(line.encode())
    return Written(n, dict(sorted(left_out.items())))


def _json_lines(rows: Iterable[dict[str, Any]]) -> Iterator[str]:
    for row in rows:
        yield json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n"


def _csv_lines(columns: Sequence[str], rows: Iterable[dict[str, Any]]) -> Iterator[str]:
    """For people and their spreadsheets: a cell that would run as a formula gets a `'` before it."""
    for cells in chain([list(columns)], ([_cell(row.get(name)) for name in columns] for row in rows)):
        line = io.StringIO()
        csv.writer(line).writerow(cells)
        yield line.getvalue()


def _cell(value: Any) -> str:
    if not isinstance(value, str):
        return "" if value is None else json.dumps(value, ensure_ascii=False)
    return f"'{value}" if value.startswith(FORMULA) else value


def _write_parquet(path: Path, columns: Sequence[str], rows: Iterator[dict[str, Any]]) -> None:
    schema = pa.schema([(name, _TYPES.get(name, pa.string())) for name in columns])
    with written(path) as out, pq.ParquetWriter(out, schema, version="2.6", compression="zstd") as writer:
        while some := list(islice(rows, 1000)):
            for row in some:
                if isinstance(row.get("prompt"), str):
                    row["prompt"] = [{"role": "user", "content": row["prompt"]}]
            writer.write_table(pa.Table.from_pylist(some, schema=schema))
