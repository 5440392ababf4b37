"""From rows to tasks, judgements and proposals: each once, all accounted for, nothing of what was refused."""

import pytest

from tutelage.errors import DataError
from tutelage.formats.rows import Refusal
from tutelage.label import intake
from tutelage.label.intake import demonstration_rows, take, task_rows
from tutelage.store.candidates import pending
from tutelage.store.completions import get_completions
from tutelage.store.feedback import count
from tutelage.store.tasks import list_tasks
from tutelage.types import Demonstration, Message, Prompt, RankedGroup

ASKED = Prompt(messages=(Message(role="user", content="q"),))


def ranked(*texts: str, tiers: tuple[int, ...] = (1, 2), **more: object) -> RankedGroup:
    return RankedGroup(prompt=ASKED, texts=texts, tiers=tiers, **more)


def go(house, rows, what="tasks", **more):
    placed = rows if callable(rows) else lambda: [(f"row {i}", r) for i, r in enumerate(rows, 1)]
    more = {"source": "house/x", "name": "x"} | more
    return take(house.store, house.project, placed, what=what, **more)


def tasks_of(house):
    return [t for t, _ in list_tasks(house.store, house.project.id)]


def test_rows_are_taken_merged_and_refused_and_add_up(house):
    rows = [
        ranked("a", "b"),
        ranked("b", "a"),
        Demonstration(prompt=ASKED, text="t"),
        Refusal("row 4", "odd", ""),
        ASKED,
    ]
    report = go(house, rows)
    assert (report.taken, report.merged) == ({"compare": 1, "demonstrate": 1}, 1)
    assert report.refused == {"a demonstration is no task": 1, "odd": 1}
    assert report.n_taken + report.merged + report.n_refused == len(rows)
    assert go(house, [ranked("a", "b"), ASKED]).merged == 2
    assert len(tasks_of(house)) == 2


def test_a_dry_run_says_what_would_become_of_each_row(house):
    dry = go(house, [ranked("a", "b"), ASKED], dry_run=True)
    assert tasks_of(house) == []
    assert dry.taken == go(house, [ranked("a", "b"), ASKED]).taken


def test_one_refused_row_refuses_all_when_it_is_strict(house):
    with pytest.raises(DataError, match=r"row 2: odd.*nothing was stored"):
        go(house, [ranked("a", "b"), Refusal("row 2", "odd", "x")], strict=True)
    with pytest.raises(DataError, match="nothing was stored"):
        go(house, [Refusal("row 1", "odd", "x")])
    with pytest.raises(DataError, match="nothing was imported"):
        go(house, [ranked("a", "b"), Refusal("row 2", "odd", "x")], "judgements", strict=True)
    assert tasks_of(house) == [] and count(house.store) == 0


def test_overlap_is_the_rows_or_the_projects(house):
    house.settings(overlap=3)
    go(house, task_rows([{"prompt": "a", "completions": ["x", "y"]}, {"prompt": "b", "overlap": 5}]))
    assert sorted(t.overlap for t in tasks_of(house)) == [3, 5]


def test_a_known_answer_makes_a_check_of_its_own_source(house):
    row = {"prompt": "q", "completions": ["x", "y"], "gold": [2, 1], "practice": True, "explanation": "y is right"}
    go(house, task_rows([row, {**row, "completions": ["x", "x "]}]))
    (made,) = tasks_of(house)
    assert (made.gold, made.is_practice) == ({"tiers": [2, 1], "explanation": "y is right"}, True)
    assert made.source == "house/x/checks"


def test_models_are_kept_and_an_order_is_not(house):
    go(house, [ranked("z", "a", "m", tiers=(1, 2, 3), models=("m1", None, "m2"))])
    (made,) = tasks_of(house)
    found = get_completions(house.store, made.completions)
    assert [(c.text, c.model_version, c.origin) for c in found] == [
        ("a", None, "import"), ("m", "m2", "model"), ("z", "m1", "model"),
    ]  # fmt: skip
    assert made.gold is None and count(house.store) == 0


def test_alike_or_too_many_completions_are_refused(house):
    report = go(house, [ASKED, ranked(*[f"t{i}" for i in range(10)], tiers=tuple(range(1, 11))), ranked("a", " a")])
    assert report.refused == {"more than 9 completions": 1, "no task as it stands": 1}


def test_a_nul_in_a_name_is_refused_and_in_a_text_is_kept(house):
    rows = [{"prompt": "q", "completions": [{"text": "a", "model": "m\x00"}, "b"]},
            {"prompt": "q", "completions": ["a\x00", "b"]}]  # fmt: skip
    report = go(house, task_rows(rows))
    assert report.refused == {"a NUL character": 1}
    assert get_completions(house.store, tasks_of(house)[0].completions)[0].text == "a\x00"


def test_judgements_speak_under_the_given_source_alone(house):
    go(house, [ranked("a", "b", source="theirs", labeler="jo"), ASKED], "judgements", source="house/x")
    assert count(house.store, sources=["house/x"], labelers=["jo"]) == 1
    with pytest.raises(DataError, match="a prompt alone judges nothing"):
        go(house, [ASKED], "judgements")


def test_a_demonstration_waits_with_its_author_and_findings(house):
    rows = [{"prompt": "q", "completion": "No.", "labeler": "gen-1"}, {"prompt": "q", "completion": "No."},
            {"prompt": "q", "completion": "x\x00"}]  # fmt: skip
    report = go(house, demonstration_rows(rows), "demonstrations", by="model")
    assert (report.taken, report.refused) == ({"demonstration": 2}, {"a NUL character": 1})
    first, second = pending(house.store, house.project.id)
    assert (first.author, first.origin, second.author) == ("gen-1", "model", "house/x")
    assert [f["kind"] for f in first.findings] == ["duplicate", "short"]


def test_the_same_proposal_can_wait_in_two_projects(house):
    rows = demonstration_rows([{"prompt": "q", "completion": "A plain answer.", "labeler": "gen-1"}])
    other = house.another_project()
    for project in (house.project, other):
        source = f"{project.slug}/x"
        report = take(house.store, project, rows, what="demonstrations", source=source, name="x")
        assert (report.n_taken, report.merged) == (1, 0)
        assert len(pending(house.store, project.id)) == 1


def test_more_proposals_than_anybody_reviews_are_refused(house, monkeypatch):
    monkeypatch.setattr(intake, "MAX_PROPOSED", 2)
    rows = [{"prompt": f"q{i}", "completion": "A plain answer."} for i in range(3)]
    with pytest.raises(DataError, match="more than 2 new demonstrations"):
        go(house, demonstration_rows(rows), "demonstrations")
    assert pending(house.store, house.project.id) == []
