"""What is written can be read again, and what cannot be written is counted."""

import csv
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tutelage.errors import DataError
from tutelage.formats import write
from tutelage.formats.detect import read_feedback
from tutelage.types import Demonstration, Message, Prompt, RankedGroup


def prompt(*texts: str, system: str = "") -> Prompt:
    roles = ("user", "assistant")
    turns = tuple(Message(role=roles[i % 2], content=t) for i, t in enumerate(texts))
    return Prompt(messages=((Message(role="system", content=system),) if system else ()) + turns)


GROUPS = [
    RankedGroup(prompt=prompt("q"), texts=("a", "b", "c"), tiers=(2, 1, 2), labeler="ann", source="s", event="event:k"),
    RankedGroup(prompt=prompt("q", "r", "t"), texts=("é\x00", "\n=1"), tiers=(1, 2), margin=0.5, aspect="kind"),
]
NAMES = ["a.jsonl", "a.jsonl.gz", "a.jsonl.xz", "a.jsonl.zst", "a.parquet"]


def same(groups):
    """Without the prompt's source, which a row gives to both or to neither."""
    return [(g.prompt.messages, g.texts, g.tiers, g.labeler, g.source, g.margin, g.event, g.aspect) for g in groups]


@pytest.mark.parametrize("name", NAMES)
def test_rankings_come_back_as_they_were(tmp_path, name):
    assert write.write_rankings(tmp_path / name, GROUPS).rows == 2
    assert same(read_feedback(tmp_path / name)) == same(GROUPS)
    write.write_rankings(tmp_path / f"2{name}", GROUPS)
    assert (tmp_path / name).read_bytes() == (tmp_path / f"2{name}").read_bytes()


def test_pairs_are_all_strict_pairs_and_ties_are_counted(tmp_path):
    done = write.write_pairs(tmp_path / "a.jsonl", GROUPS)
    rows = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert (done.rows, done.left_out) == (3, {"tied pair": 1})
    assert [(r["chosen"], r["rejected"], r["margin"], r["tie"]) for r in rows] == [
        ("b", "a", 1.0, False),
        ("b", "c", 1.0, False),
        ("é\x00", "\n=1", 0.5, False),
    ]
    assert {r.get("ranking_event_id") for r in rows} == {"event:k", None}
    assert rows[0]["id"] != rows[1]["id"]


def test_tied_pairs_can_be_written_and_come_back_as_ties(tmp_path):
    write.write_pairs(tmp_path / "a.jsonl", GROUPS, ties=True)
    assert [g.tiers for g in read_feedback(tmp_path / "a.jsonl")] == [(1, 2), (1, 1), (1, 2), (1, 2)]


tiers = st.lists(st.integers(1, 4), min_size=2, max_size=9).map(lambda t: [sorted(set(t)).index(x) + 1 for x in t])


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tiers)
def test_strict_and_tied_pairs_are_all_pairs_and_agree_with_the_tiers(tmp_path, tiers):
    group = RankedGroup(prompt=prompt("q"), texts=tuple(f"t{i}" for i in range(len(tiers))), tiers=tuple(tiers))
    done = write.write_pairs(tmp_path / "a.jsonl", [group])
    assert done.rows + done.left_out.get("tied pair", 0) == len(tiers) * (len(tiers) - 1) // 2
    for row in map(json.loads, (tmp_path / "a.jsonl").read_text().splitlines()):
        better, worse = (tiers[int(row[side][1:])] for side in ("chosen", "rejected"))
        assert row["margin"] == worse - better > 0


def test_transcripts_come_back_and_what_they_cannot_hold_is_counted(tmp_path):
    groups = [
        RankedGroup(prompt=prompt("q", "r", "t"), texts=("a", "b"), tiers=(2, 1)),
        RankedGroup(prompt=prompt("q", system="s"), texts=("a", "b"), tiers=(1, 2)),
        RankedGroup(prompt=prompt("q"), texts=("a\n\nHuman: x", "b"), tiers=(1, 2)),
    ]
    done = write.write_hh(tmp_path / "a.jsonl", groups)
    assert (done.rows, done.left_out) == (1, {"system message, or a text that holds a turn's mark": 2})
    (back,) = read_feedback(tmp_path / "a.jsonl")
    assert (back.prompt.messages, back.texts) == (groups[0].prompt.messages, ("b", "a"))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("writer", [write.write_demonstrations, write.write_messages])
def test_demonstrations_come_back_as_they_were(tmp_path, name, writer):
    demos = [Demonstration(prompt=prompt("q", "r", "t", system="s"), text="a", labeler="ann", source="x")]
    writer(tmp_path / name, demos)
    (back,) = read_feedback(tmp_path / name)
    assert (back.prompt.messages, back.text, back.labeler) == (demos[0].prompt.messages, "a", "ann")


def test_kto_rows_say_good_or_bad(tmp_path):
    write.write_kto(
        tmp_path / "a.jsonl", [write.Judged(prompt("q"), "a", True), write.Judged(prompt("q"), "b", False, "x")]
    )
    assert [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()] == [
        {"prompt": "q", "completion": "a", "label": True},
        {"prompt": "q", "completion": "b", "label": False, "labeler": "x"},
    ]


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r"])
def test_a_formula_is_disarmed_for_spreadsheets(tmp_path, start):
    text = f"{start}HYPERLINK(1)"
    demo = Demonstration(prompt=prompt(text), text=text, labeler=text, source=text)
    write.write_demonstrations(tmp_path / "a.csv", [demo])
    with (tmp_path / "a.csv").open(newline="") as file:
        header, cells = csv.reader(file)
    assert header == ["prompt", "completion", "labeler", "source"]
    assert cells == [f"'{text}"] * 4


def test_a_table_with_chats_can_be_read_again(tmp_path):
    write.write_rankings(tmp_path / "a.csv", GROUPS)
    assert [g.tiers for g in read_feedback(tmp_path / "a.csv")] == [(2, 1, 2), (1, 2)]


def test_an_unreadable_name_is_refused_before_writing(tmp_path):
    for name in ("a.json", "a.xml", "a.parquet.gz"):
        with pytest.raises(DataError):
            write.write_rankings(tmp_path / name, GROUPS)
    assert list(tmp_path.iterdir()) == []
