"""The door to all readers, on made files and on the public sets."""

import json
from collections import Counter

import pytest

from tutelage.errors import DataError
from tutelage.formats.detect import detect, read_feedback, read_placed
from tutelage.formats.rows import Refusal
from tutelage.types import Demonstration, Prompt, RankedGroup

PAIR = {"prompt": "q", "chosen": "A", "rejected": "B"}


def save(tmp_path, *rows):
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


@pytest.mark.parametrize(
    ("row", "name"),
    [
        (PAIR, "pairs"),
        ({"chosen": [], "rejected": []}, "pairs"),
        ({"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": ""}, "hh"),
        ({"prompt": "q", "completions": []}, "rankings"),
        ({"prompt": "q", "completion": "a"}, "demonstrations"),
        ({"messages": []}, "demonstrations"),
        ({"instruction": "i", "input": "", "output": "o"}, "demonstrations"),
        ({"question": "q", "answer": "a"}, "demonstrations"),
        ({"text": "q"}, "prompts"),
        ({"message_tree_id": "t", "prompt": {}}, "oasst"),
        ({"id": 1, "data": {}, "annotations": []}, "label_studio"),
        ({"fields": {}, "responses": {}}, "argilla"),
    ],
)
def test_a_format_is_told_by_its_fields(row, name):
    assert detect(row, "a.jsonl") == name


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"prompt": "q", "chosen": "a"}, "one-sided"),
        ({"rejected": "a"}, "one-sided"),
        ({"prompt": "q", "completion": "a", "label": False}, "would be imitated"),
        ({"foo": 1}, r"\['foo'\] are of no known format"),
    ],
)
def test_what_cannot_be_told_is_said(row, says):
    with pytest.raises(DataError, match=says):
        detect(row, "a.jsonl")


def test_bad_rows_are_counted_and_good_ones_taken(tmp_path):
    path = save(tmp_path, PAIR, {**PAIR, "chosen": ""}, {**PAIR, "margin": 0})
    refused: list[Refusal] = []
    assert [g.tiers for g in read_feedback(path, refused=refused)] == [(1, 2), (1, 1)]
    assert [(r.where, r.why) for r in refused] == [(f"{path}, line 2", "empty text")]
    assert [where for where, _ in read_placed(path)] == [f"{path}, line {n}" for n in (1, 2, 3)]


def test_without_a_list_for_refusals_one_ends_the_reading(tmp_path):
    with pytest.raises(DataError, match="line 2: empty text"):
        list(read_feedback(save(tmp_path, PAIR, {**PAIR, "chosen": ""})))


def test_a_file_without_a_usable_row_is_an_error(tmp_path):
    with pytest.raises(DataError, match=r"no row can be used as pairs; the first: .*line 1: identical"):
        list(read_feedback(save(tmp_path, {**PAIR, "chosen": "B"}), refused=[]))


def test_an_unknown_format_names_the_known_ones(tmp_path):
    with pytest.raises(DataError, match=r"'xml' is no format. Known are auto, rankings"):
        list(read_feedback(save(tmp_path, PAIR), "xml"))


@pytest.mark.parametrize("surrogate", ["\\ud800", "\\udfff x"])
def test_half_a_character_is_refused_not_a_crash(tmp_path, surrogate):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(PAIR) + "\n" + json.dumps(PAIR).replace('"A"', f'"{surrogate}"') + "\n")
    refused: list[Refusal] = []
    assert len(list(read_feedback(path, refused=refused))) == 1
    assert [r.why for r in refused] == ["half a character"]


def test_public_pairs_are_read_whole(shared_data):
    assert len(list(read_feedback(shared_data / "pref_hh-helpful-base.jsonl.xz"))) == 1619
    web = list(read_feedback(shared_data / "pref_webgpt.jsonl.xz"))
    assert Counter(g.margin for g in web) == {0.0: 176, 1.0: 332, 2.0: 114}
    assert sum(g.tiers == (1, 1) for g in web) == 176


def test_the_public_tree_is_read_whole(shared_data):
    items = list(read_feedback(shared_data / "oasst_synthetic_tree_100.jsonl.xz"))
    groups = [i for i in items if isinstance(i, RankedGroup)]
    sizes = Counter(len(g.texts) for g in groups)
    assert sizes == {2: 57, 3: 117, 4: 27, 5: 3, 6: 6, 8: 1, 9: 1}
    assert sum(n * k * (k - 1) // 2 for k, n in sizes.items()) == 754
    assert Counter(type(i) for i in items) == {RankedGroup: 212, Demonstration: 247, Prompt: 226}


def test_public_sets_with_several_labelers_are_read(shared_data):
    refused: list[Refusal] = []
    panda = list(read_feedback(shared_data / "pref_pandalm_3annotators.jsonl.xz", refused=refused))
    assert Counter(r.why for r in refused) == {"empty text": 10}
    assert Counter(g.labeler for g in panda) == {f"pandalm-annotator{i}": 452 for i in (1, 2, 3)}
    autoj = list(read_feedback(shared_data / "pref_autoj.jsonl.xz", refused=refused))
    assert len(autoj) == 685
    assert Counter(r.why for r in refused)["identical completions"] == 4
