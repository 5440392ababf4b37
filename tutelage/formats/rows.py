"""Rows of JSON Lines, JSON, CSV and Parquet files: (where, dict) one by one, within limits of size and depth.

A row that is no row ends the reading with a DataError that names file, line, field, what was expected and what was
found. What a row *means* is the business of the readers beside this file, which refuse single rows by a `Refusal`.
"""

import codecs
import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import pyarrow as pa  # type: ignore[import-untyped, unused-ignore]
import pyarrow.parquet as pq  # type: ignore[import-untyped, unused-ignore]

from tutelage.errors import DataError
from tutelage.formats.compressed import read_bytes, suffix_of

KINDS = (".jsonl", ".ndjson", ".json", ".csv", ".parquet")
MAX_BYTES = 4 << 30
MAX_LINE_BYTES = 16 << 20
MAX_CELL_BYTES = 1 << 20  # of CSV, where a quote that is never closed would take in the rest of the file
MAX_RATIO = 300  # decompressed to compressed; real feedback stays below 100


@dataclass(frozen=True, slots=True)
class Refusal:
    """A row that was read and cannot be used. Example: `Refusal("a.jsonl, line 7", "empty text", "chosen is ''")`."""

    where: str
    why: str  # one of a few phrases, for counting
    detail: str = ""  # what was found, and how to mend it


def kind_of(path: Path) -> str:
    """.jsonl, .json, .csv or .parquet, the compression taken off. Raises DataError for another name."""
    name = Path(path.stem) if suffix_of(path) else path
    kind = name.suffix.lower()
    if kind not in KINDS:
        raise DataError(
            f"{path}: {kind or 'no suffix'!r} is no format of rows. Known are {', '.join(KINDS)}, "
            f"all but .parquet also with .gz, .xz or .zst behind."
        )
    if kind == ".parquet" and suffix_of(path):
        raise DataError(f"{path}: Parquet compresses its own columns. Write it as .parquet, with nothing around it.")
    return ".jsonl" if kind == ".ndjson" else kind


def read_rows(
    path: str | Path,
    *,
    max_bytes: int = MAX_BYTES,
    max_line_bytes: int = MAX_LINE_BYTES,
    max_ratio: int = MAX_RATIO,
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each row and where it stands: ("pairs.jsonl.gz, line 7", {…}). An empty file is a DataError."""
    path = Path(path)
    kind = kind_of(path)
    if kind == ".parquet":
        rows = _parquet(path, max_bytes, max_ratio)
    else:
        pieces = read_bytes(path, max_bytes=max_bytes, max_ratio=max_ratio)
        read = {".jsonl": _json_lines, ".json": _json, ".csv": _csv}[kind]
        rows = read(path, pieces, max_line_bytes)
    n = 0
    for where, row in rows:
        n += 1
        if not isinstance(row, dict):
            raise DataError(f"{where}: expected an object {{…}}, got {_named(row)}. Give one object a row.")
        yield where, row
    if n == 0:
        raise DataError(f"{path} is empty: it holds no row. Check the path, or that the export was finished.")


def _named(value: object) -> str:
    names = {list: "a list", str: "a string", bool: "a boolean", int: "a number", float: "a number", type(None): "null"}
    return names.get(type(value), type(value).__name__)


# Lines.


def _lines(path: Path, pieces: Iterator[bytes], max_line_bytes: int) -> Iterator[tuple[int, str]]:
    """(number, text without the end of line), numbered from 1."""
    rest, n = b"", 0
    for piece in pieces:
        *whole, rest = (rest + piece).split(b"\n")
        for line in whole:
            n += 1
            yield n, _text(path, n, line, max_line_bytes)
        if len(rest) > max_line_bytes:
            _too_long(path, n + 1, max_line_bytes)
    if rest:
        yield n + 1, _text(path, n + 1, rest, max_line_bytes)


def _too_long(path: Path, n: int, max_line_bytes: int) -> NoReturn:
    raise DataError(f"{path}, line {n}: longer than {max_line_bytes} bytes. Is it one object a line? Split or drop it.")


def _text(path: Path, n: int, line: bytes, max_line_bytes: int) -> str:
    if len(line) > max_line_bytes:
        _too_long(path, n, max_line_bytes)
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as e:
        raise DataError(
            f"{path}, line {n}: expected UTF-8, got the byte 0x{line[e.start]:02x} at column {e.start + 1}. "
            f"Save the file as UTF-8."
        ) from e
    return text.removeprefix("\ufeff") if n == 1 else text


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


_DECODER = json.JSONDecoder(parse_constant=_no_constant)


def _json_lines(path: Path, pieces: Iterator[bytes], max_line_bytes: int) -> Iterator[tuple[str, Any]]:
    for n, line in _lines(path, pieces, max_line_bytes):
        if not line.strip():
            continue
        where = f"{path}, line {n}"
        try:
            yield where, _DECODER.decode(line)
        except RecursionError as e:
            raise DataError(f"{where}: nested too deeply to be feedback. Drop the line.") from e
        except ValueError as e:
            raise DataError(f"{where}: expected JSON, got {line[:40]!r}: {e}. Mend or drop the line.") from e


def _json(path: Path, pieces: Iterator[bytes], max_line_bytes: int) -> Iterator[tuple[str, Any]]:
    """The objects of a list `[{…}, …]`, or of a stream `{…} {…}`, one by one: the list is never held whole."""
    text, done, n, in_list = "", False, 0, False
    decode = codecs.getincrementaldecoder("utf-8-sig")()
    while True:
        text = text.lstrip()
        if text and n == 0 and not in_list and text[0] == "[":
            text, in_list = text[1:].lstrip(), True
        if in_list and n and text[:1] == ",":
            text = text[1:].lstrip()
        elif in_list and n and text[:1] not in ("", "]"):
            raise DataError(f"{path}, item {n}: expected ',' or ']' behind it, got {text[:20]!r}. Mend the file.")
        if in_list and text[:1] == "]":
            return
        where = f"{path}, item {n + 1}"
        try:
            value, end = _DECODER.raw_decode(text)
        except RecursionError as e:
            raise DataError(f"{where}: nested too deeply to be feedback. Drop it.") from e
        except ValueError as e:
            if done and not text and not in_list:
                return
            if done or len(text) > max_line_bytes:
                raise DataError(f"{where}: expected JSON, got {text[:40]!r}: {e}. Mend or drop it.") from e
            text, done = _more(path, text, pieces, decode)
            continue
        text, n = text[end:], n + 1
        yield where, value


def _more(path: Path, text: str, pieces: Iterator[bytes], decode: codecs.IncrementalDecoder) -> tuple[str, bool]:
    piece = next(pieces, b"")
    try:
        return text + decode.decode(piece, final=not piece), not piece
    except UnicodeDecodeError as e:
        raise DataError(f"{path}: expected UTF-8, got other bytes ({e.reason}). Save the file as UTF-8.") from e


# CSV.


def _csv(path: Path, pieces: Iterator[bytes], max_line_bytes: int) -> Iterator[tuple[str, Any]]:
    """Rows by the names in the first line. A cell that holds a JSON object or list of objects is read as one."""
    csv.field_size_limit(min(max_line_bytes, MAX_CELL_BYTES))
    reader = csv.reader(line + "\n" for _, line in _lines(path, pieces, max_line_bytes))
    names: list[str] = []
    try:
        for cells in reader:
            if not cells:
                continue
            where = f"{path}, line {reader.line_num}"
            if not names:
                names = cells
                if len(set(names)) != len(names):
                    raise DataError(f"{where}: a column name stands twice in {names}. Name each column once.")
            elif len(cells) != len(names):
                raise DataError(
                    f"{where}: expected {len(names)} cells, got {len(cells)}. Quote cells that hold commas."
                )
            else:
                yield where, {name: _cell(cell) for name, cell in zip(names, cells, strict=True) if cell != ""}
    except csv.Error as e:
        raise DataError(f"{path}, line {reader.line_num}: no CSV: {e}. Quote cells and close the quotes.") from e


def _cell(cell: str) -> Any:
    if cell.startswith(("[{", '{"')):
        try:
            return _DECODER.decode(cell)
        except (ValueError, RecursionError):
            return cell  # text that only begins like JSON
    return cell


# Parquet.


def _parquet(path: Path, max_bytes: int, max_ratio: int) -> Iterator[tuple[str, Any]]:
    try:
        with pq.ParquetFile(path) as file:
            size, meta = path.stat().st_size, file.metadata
            said = sum(meta.row_group(i).total_byte_size for i in range(meta.num_row_groups))
            _check_growth(path, said, size, max_bytes, max_ratio)
            n, n_bytes = 0, 0
            for batch in file.iter_batches(batch_size=256, use_threads=False):
                columns = [c.dictionary_decode() if pa.types.is_dictionary(c.type) else c for c in batch.columns]
                n_bytes += sum(c.nbytes for c in columns)  # may be far more than the file says
                _check_growth(path, n_bytes, size, max_bytes, max_ratio)
                for row in pa.RecordBatch.from_arrays(columns, names=batch.schema.names).to_pylist():
                    n += 1
                    yield f"{path}, row {n}", {k: v for k, v in row.items() if v is not None}
    except FileNotFoundError as e:
        raise DataError(f"{path}: there is no such file. Check the path.") from e
    except (pa.ArrowException, OSError, UnicodeDecodeError) as e:
        raise DataError(f"{path} cannot be read as Parquet: {e}. Write it again, or use JSON Lines.") from e


def _check_growth(path: Path, n_bytes: int, size: int, max_bytes: int, max_ratio: int) -> None:
    if n_bytes > max_bytes:
        raise DataError(f"{path}: more than {max_bytes} bytes of content. Split the file.")
    if n_bytes > max(max_ratio * size, 64 << 20):
        raise DataError(f"{path} grows more than {max_ratio} times when decoded: it looks like a compression bomb.")
