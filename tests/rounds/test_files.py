"""Files of the command line: prompts once each, refusals counted, rows written whole."""

import gzip
import json

import pytest

from tutelage.errors import ConfigError, DataError
from tutelage.rounds.files import check_rows_path, prompt_of, prompts_asked, read_items, read_prompts, write_rows


@pytest.fixture
def rows(tmp_path):
    def make(*found, name="rows.jsonl"):
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in found), encoding="utf-8")
        return path

    return make


def test_prompts_come_from_any_kind_of_file_once_each_and_in_order(rows):
    pair = {"chosen": "b", "rejected": "c"}
    path = rows({"prompt": "two", **pair}, {"prompt": "one", **pair}, {"prompt": "two", "chosen": "d", "rejected": "c"})
    assert [p.messages[0].content for p in read_prompts(path)[0]] == ["two", "one"]


def test_refused_rows_are_counted_by_reason(rows):
    found = read_items(rows({"prompt": "a"}, {"prompt": ""}, {"prompt": " "}, {"prompt": 3}))
    assert [where.rpartition(", ")[2] for where, _ in found.items] == ["line 1"]
    assert found.refused["empty text"] == 2 and sum(found.refused.values()) == 3


def test_a_prompt_comes_as_words_or_as_a_file_and_not_as_both(rows):
    assert prompts_asked("Hi", None) == ([prompt_of("Hi")], {})
    assert prompts_asked(None, rows({"prompt": "Hi"}))[0][0].id == prompt_of("Hi").id
    for text, path in ((None, None), ("Hi", rows({"prompt": "Hi"}))):
        with pytest.raises(ConfigError, match="Give one of them"):
            prompts_asked(text, path)


def test_rows_are_written_as_json_lines_compressed_by_name(tmp_path):
    path = tmp_path / "rows.jsonl.gz"
    write_rows(path, [{"a": "é"}, {"a": 1}])
    with gzip.open(path, "rt", encoding="utf-8") as f:
        assert f.read() == '{"a": "é"}\n{"a": 1}\n'


def test_a_place_where_rows_cannot_go_is_refused_before_the_work(tmp_path):
    check_rows_path(None)
    check_rows_path(tmp_path / "a.jsonl.zst")
    for path in (tmp_path / "a.csv", tmp_path / "a.parquet", tmp_path / "none" / "a.jsonl"):
        with pytest.raises(DataError):
            check_rows_path(path)
