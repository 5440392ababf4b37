"""`import` and `export`: what went in comes out, and what cannot go in is counted or refused in one message."""

import gzip
import json

import pytest

PAIR = {"prompt": "Is the pool open?", "chosen": "Yes, until eight.", "rejected": "No."}


@pytest.fixture
def store(tmp_path):
    return tmp_path / "store.db"


def test_what_was_imported_comes_out_and_twice_adds_nothing(tutelage, pairs, store, tmp_path):
    first = tutelage("import", pairs, "--store", store, "--json").json
    again = tutelage("import", pairs, "--store", store, "--json").json
    assert (first["taken"], first["merged"], first["refused"]) == ({"ranking": 2}, 0, {})
    assert (again["taken"], again["merged"]) == ({}, 2)
    out = tmp_path / "out.jsonl"
    assert tutelage("export", out, "--store", store, "--format", "pairs", "--json").json["rows"] == 2
    rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert {k: rows[0][k] for k in PAIR} == PAIR and [r["source"] for r in rows] == ["a", "b"]


def test_export_takes_the_sources_that_are_named(tutelage, pairs, store, tmp_path):
    tutelage("import", pairs, "--store", store)
    ended = tutelage(
        "export", tmp_path / "b.jsonl", "--store", store, "--format", "rankings", "--source", "b", "--json"
    )
    assert ended.json == {"path": str(tmp_path / "b.jsonl"), "format": "rankings", "rows": 1, "left_out": {}}


def test_refused_rows_are_counted_and_shown_and_the_rest_is_taken(tutelage, write, store):
    file = write("mixed.jsonl", PAIR, PAIR | {"chosen": ""}, PAIR | {"rejected": "\x1b[2J", "chosen": "\x1b[2J"})
    ended = tutelage("import", file, "--store", store)
    assert ended.code == 0
    assert "taken: 1 ranking" in ended.out and "refused: 2" in ended.out
    assert "empty text: 1" in ended.out and "line 2" in ended.out and "\x1b" not in ended.out


def test_a_dry_run_says_the_same_and_stores_nothing(tutelage, pairs, store):
    dry = tutelage("import", pairs, "--store", store, "--dry-run", "--json").json
    assert dry["taken"] == {"ranking": 2} and dry["dry_run"]
    assert "would be taken: 2 rankings" in tutelage("import", pairs, "--store", store, "--dry-run").out
    assert tutelage("import", pairs, "--store", store, "--json").json["taken"] == {"ranking": 2}


def test_labeler_source_and_kind_are_those_that_are_given(tutelage, pairs, store, tmp_path):
    tutelage("import", pairs, "--store", store, "--labeler", "gpt", "--source", "s", "--kind", "model")
    out = tmp_path / "out.jsonl"
    tutelage("export", out, "--store", store, "--format", "pairs")
    row = json.loads(out.read_text(encoding="utf-8").splitlines()[0])
    assert (row["labeler"], row["source"]) == ("gpt", "s")
    other = tutelage("import", pairs, "--store", store, "--labeler", "gpt", "--kind", "human")
    assert other.code == 2 and "of kind 'model'" in other.err


def test_strict_takes_nothing_when_one_row_is_bad(tutelage, refused, write, store):
    file = write("mixed.jsonl", PAIR, PAIR | {"chosen": ""})
    assert "line 2: empty text" in refused("import", file, "--store", store, "--strict")
    assert tutelage("import", file, "--store", store, "--json").json["taken"] == {"ranking": 1}


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([], "is empty"),
        ([{"prompt": "a", "chosen": "b"}], "one-sided comparison"),
        ([{"prompt": "a", "completions": [{"text": "b", "tier": 1}, {"text": "c", "tier": 3}]}], "a gap in the tiers"),
        ([{"colour": "red"}], "of no known format"),
        ([PAIR | {"chosen": "No."}], "identical completions"),
    ],
)
def test_a_file_that_says_nothing_is_refused(refused, write, store, rows, says):
    assert says in refused("import", write("bad.jsonl", *rows), "--store", store)


def test_a_compression_bomb_is_refused(refused, store, tmp_path):
    bomb = tmp_path / "bomb.jsonl.gz"
    with gzip.open(bomb, "wb") as f:
        for _ in range(64):
            f.write(b"a" * (1 << 20))
    assert "compression bomb" in refused("import", bomb, "--store", store)


def test_a_missing_file_and_a_missing_store_are_refused(refused, store, tmp_path):
    assert "there is no such file" in refused("import", tmp_path / "none.jsonl", "--store", store)
    missing = tmp_path / "none.db"
    assert "no such store" in refused("export", tmp_path / "o.jsonl", "--store", missing, "--format", "pairs")
    assert not missing.exists()


def test_a_file_of_another_kind_is_no_store(refused, pairs):
    assert "cannot be used as a store" in refused("import", pairs, "--store", pairs)
