"""Rows of tasks: what they mean, and how a bad one is refused."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tutelage.formats.fields import read_each
from tutelage.formats.rows import Refusal, read_rows
from tutelage.formats.tasks import is_task, read

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["text", "model", "role", "x"]), inner),
    max_leaves=8,
)
NAMES = [
    "prompt",
    "completions",
    "kind",
    "overlap",
    "priority",
    "gold",
    "explanation",
    "practice",
    "completion_1",
    "odd",
]


def one(**row: object):
    ((_, item),) = read_each([("here", row)], read)
    return item


def test_a_full_row_is_read_as_it_stands():
    found = one(
        prompt=[{"role": "system", "content": "Be brief."}, {"role": "user", "content": "q"}],
        completions=["a", {"text": "b", "model": "m-1"}, {"text": "c", "model": None}],
        kind="rank", overlap=3, priority=0.5, gold=[1, 2, 2], explanation="a is right", practice=True,
    )  # fmt: skip
    assert (found.texts, found.models) == (("a", "b", "c"), (None, "m-1", None))
    assert (found.kind, found.overlap, found.priority, found.gold) == ("rank", 3, 0.5, (1, 2, 2))
    assert found.practice and found.explanation == "a is right" and len(found.prompt.messages) == 2


@pytest.mark.parametrize(("n", "kind"), [(0, "demonstrate"), (1, "correct"), (2, "compare"), (3, "rank"), (9, "rank")])
def test_the_kind_follows_from_the_number_of_completions(n, kind):
    assert one(prompt="q", completions=[f"t{i}" for i in range(n)]).kind == kind


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({"completions": ["a"]}, "'prompt' is no chat"),
        ({"prompt": "q", "tier": 1}, "an unknown field"),
        ({"prompt": "q", "completions": [{"text": "a", "score": 1}]}, "an unknown field"),
        ({"prompt": "q", "completions": "a"}, "'completions' is no list"),
        ({"prompt": "q", "completions": ["a"] * 10}, "more than 9 completions"),
        ({"prompt": "q", "completions": ["a", " "]}, "empty text"),
        ({"prompt": "q", "completions": ["a", "\ud800"]}, "half a character"),
        ({"prompt": "q", "kind": "poll"}, "an unknown kind"),
        ({"prompt": "q", "kind": 3}, "an unknown kind"),
        ({"prompt": "q", "overlap": 0}, "no number of people"),
        ({"prompt": "q", "overlap": 1.5}, "no number of people"),
        ({"prompt": "q", "overlap": 2**63}, "no number of people"),
        ({"prompt": "q", "priority": "high"}, "'priority' is no number"),
        ({"prompt": "q", "priority": float("inf")}, "'priority' is no number"),
        ({"prompt": "q", "completions": ["a", "b"], "gold": [1]}, "'gold' is no list of tiers"),
        ({"prompt": "q", "completions": ["a", "b"], "gold": [True, 2]}, "'gold' is no list of tiers"),
        ({"prompt": "q", "completions": ["a", "b"], "gold": [1, 3]}, "a gap in the tiers"),
        ({"prompt": "q", "completions": ["a", "b"], "gold": [1, 2**64]}, "a gap in the tiers"),
        ({"prompt": "q", "completions": ["a"], "gold": [1]}, "a known answer to no ranking"),
        ({"prompt": "q", "completions": ["a", "b"], "practice": True}, "practice without an answer"),
        ({"prompt": "q", "practice": "perhaps"}, "'practice' is neither true nor false"),
        ({"prompt": "q", "explanation": 7}, "'explanation' is no text"),
    ],
)
def test_a_row_that_means_nothing_is_refused_by_name(row, why):
    found = one(**row)
    assert isinstance(found, Refusal) and found.why == why


def test_a_spreadsheet_gives_completions_in_columns(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('prompt,completion_1,model_1,completion_2,gold,overlap\nq,a,m,b,"2,1",3\nr,"[1, 2]",,b,,\n')
    first, second = [item for _, item in read_each(read_rows(path), read)]
    assert (first.texts, first.models, first.gold, first.overlap) == (("a", "b"), ("m", None), (2, 1), 3)
    assert (second.texts, second.gold) == (("[1, 2]", "b"), None)


def test_a_row_is_a_task_unless_somebody_put_it_in_order():
    assert is_task({"prompt": "q", "completions": ["a", {"text": "b"}]}) and is_task({"prompt": "q"})
    assert not is_task({"prompt": "q", "completions": [{"text": "a", "tier": 1}]})
    assert not is_task({"prompt": "q", "chosen": "a", "rejected": "b"}) and not is_task({"text": "q"})


@given(st.dictionaries(st.sampled_from(NAMES), JSON))
def test_any_row_is_read_or_refused(row):
    found = one(**row)
    if not isinstance(found, Refusal):
        json.dumps(found.model_dump(mode="json")).encode()
        assert 0 <= len(found.texts) <= 9 and len(found.models) == len(found.texts)
