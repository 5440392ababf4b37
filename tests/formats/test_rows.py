"""Rows of every kind of file, and each way in which a file can be no good."""

import json
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tutelage.errors import DataError
from tutelage.formats.rows import read_rows

ROWS = [{"prompt": 'a,"b"\nc', "n": 1}, {"prompt": "é \x00 🙂", "n": 2}]


def file(tmp_path, name: str, content: bytes | str):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def rows(path, **limits):
    return [row for _, row in read_rows(path, **limits)]


def test_json_lines_say_where_each_row_stands(tmp_path):
    path = file(tmp_path, "a.jsonl", "\ufeff" + json.dumps(ROWS[0]) + "\r\n\n  \n" + json.dumps(ROWS[1]))
    assert list(read_rows(path)) == [(f"{path}, line 1", ROWS[0]), (f"{path}, line 4", ROWS[1])]


@pytest.mark.parametrize("text", [json.dumps(ROWS), json.dumps(ROWS, indent=2), "\n".join(map(json.dumps, ROWS))])
def test_json_may_be_a_list_or_a_stream(tmp_path, text):
    path = file(tmp_path, "a.json", " " + text + "\n")
    assert list(read_rows(path)) == [(f"{path}, item 1", ROWS[0]), (f"{path}, item 2", ROWS[1])]


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.lists(st.dictionaries(st.text(max_size=3), st.text() | st.integers(-9, 9) | st.lists(st.booleans()))))
def test_a_list_read_in_pieces_is_the_list(tmp_path, data):
    path = file(tmp_path, "a.json", json.dumps([{"x": "é" * 700_000}, *data], ensure_ascii=False))
    assert rows(path)[1:] == data


def test_csv_and_parquet_give_the_same_rows(tmp_path):
    chat = [{"role": "user", "content": "hi"}]
    csv = file(
        tmp_path, "a.csv", 'prompt,n,chat\n"a,""b""\nc",1,"' + json.dumps(chat).replace('"', '""') + '"\n=2,2,\n'
    )
    assert rows(csv) == [{"prompt": 'a,"b"\nc', "n": "1", "chat": chat}, {"prompt": "=2", "n": "2"}]
    pq.write_table(
        pa.Table.from_pylist([{"prompt": "x", "chat": chat}, {"prompt": "y", "chat": None}]), tmp_path / "a.parquet"
    )
    assert rows(tmp_path / "a.parquet") == [{"prompt": "x", "chat": chat}, {"prompt": "y"}]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.jsonl", b'{"a": 1}\n{"a": 2', "line 2: expected JSON"),
        ("a.jsonl", b'{"a": 1}\n[1]', "line 2: expected an object {…}, got a list"),
        ("a.jsonl", b'{"a": NaN}', "NaN is no JSON number"),
        ("a.jsonl", b'{"a": "\xff"}', "line 1: expected UTF-8, got the byte 0xff at column 8"),
        ("a.jsonl", '{"a": 1}'.encode("utf-16"), "expected UTF-8"),
        ("a.jsonl", b'{"a": ' + b"9" * 5000 + b"}", "line 1: expected JSON"),
        ("a.jsonl", b"", "is empty"),
        ("a.jsonl", b"\n\n", "is empty"),
        ("a.json", b"[]", "is empty"),
        ("a.json", b"", "is empty"),
        ("a.json", b'[{"a": 1}', "item 2: expected JSON"),
        ("a.json", b'[{"a": 1} {"a": 2}]', "expected ',' or ']'"),
        ("a.json", b'[{"a": 1}, 7]', "item 2: expected an object {…}, got a number"),
        ("a.json", b'{"a": "\xff"}', "expected UTF-8"),
        ("a.csv", b"a,b\n1,2,3\n", "line 2: expected 2 cells, got 3"),
        ("a.csv", b"a,a\n1,2\n", "stands twice"),
        ("a.csv", b"a,b\n", "is empty"),
        ("a.parquet", b"PAR1 and no more PAR1", "cannot be read as Parquet"),
        ("a.txt", b"x", "no format of rows"),
        ("a.parquet.gz", b"x", "compresses its own columns"),
    ],
)
def test_a_file_that_is_no_good_says_where_and_why(tmp_path, name, content, says):
    with pytest.raises(DataError, match=says):
        rows(file(tmp_path, name, content))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("deep.jsonl", b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
        ("deep.json", b"[" * 100_000),
        ("long.jsonl", b'{"a": "' + b"x" * (17 << 20) + b'"}'),
        ("long.json", b'[{"a": "' + b"x" * (40 << 20)),
        ("long.csv", b"a\n" + b"x" * (17 << 20)),
        ("quote.csv", b'a\n"' + b"x\n" * (9 << 20)),
    ],
)
def test_a_bomb_of_depth_or_length_is_stopped_at_once(tmp_path, name, content):
    path = file(tmp_path, name, content)
    start = time.process_time()
    with pytest.raises(DataError, match=name):
        rows(path)
    assert time.process_time() - start < 1.5


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv"])
def test_a_line_without_end_is_not_read_to_its_end(tmp_path, name):
    path = tmp_path / name
    with path.open("wb") as f:
        f.write(b'{"a": "')
        f.truncate(3 << 30)  # sparse: it takes no room on the disk, but would in memory
    start = time.process_time()
    with pytest.raises(DataError, match=name):
        rows(path)
    assert time.process_time() - start < 1.5


def test_a_parquet_file_that_unfolds_is_stopped(tmp_path):
    path = tmp_path / "a.parquet"
    text = pa.DictionaryArray.from_arrays(pa.array([0] * 3_000_000, pa.int32()), pa.array(["x" * 1000]))
    pq.write_table(pa.table({"prompt": text}), path)
    start = time.process_time()
    with pytest.raises(DataError, match="compression bomb"):
        for _ in read_rows(path):
            pass
    assert time.process_time() - start < 2


def test_no_row_of_a_bomb_is_let_out(tmp_path):
    import gzip

    path = file(tmp_path, "a.jsonl.gz", gzip.compress(b'{"a":1}\n' * (1 << 20)))
    with pytest.raises(DataError, match="compression bomb"):
        next(read_rows(path))
