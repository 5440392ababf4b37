"""A project's own judgements are those of its sources, and nobody else's."""

import pytest

from tutelage.errors import StoreError
from tutelage.store.feedback import record
from tutelage.store.projects import create_project
from tutelage.store.sources import counts_by_kind, own_source, sources_of
from tutelage.store.tasks import NewTask, add_tasks
from tutelage.types import Skip


def test_sources_are_those_of_tasks_and_those_that_carry_the_name(store, desk):
    mine, other = create_project(store, "Mine"), create_project(store, "Mine too", slug="mine-too")
    add_tasks(store, mine.id, [NewTask(kind="demonstrate", prompt=desk.prompts[0], source="round-1")])
    add_tasks(store, other.id, [NewTask(kind="demonstrate", prompt=desk.prompts[1], source="round-2")])
    for i, source in enumerate(("mine/file", "mine-too/file", "round-1", "stray", "mine%/x")):
        record(store, desk.ranking(f"k{i}", 1, 2, source=source))
    assert sources_of(store, mine) == ["mine/file", "round-1"]
    assert sources_of(store, other) == ["mine-too/file", "round-2"]


def test_a_replaced_judgement_counts_no_more(store, desk):
    first = record(store, desk.ranking("a", 1, 2, source="p/x"))
    record(store, desk.ranking("b", 2, 1, source="p/x", supersedes=first.seq))
    record(store, desk.feedback("c", Skip(reason="hard"), source="p/x"))
    record(store, desk.ranking("d", 1, 1, source="p/y"))
    assert counts_by_kind(store, ["p/x"]) == {("p/x", "ranking"): 1, ("p/x", "skip"): 1}
    assert counts_by_kind(store, []) == {}


@pytest.mark.parametrize(
    ("name", "full"),
    [("a", "mine/a"), ("mine/a", "mine/a"), (" a b ", "mine/a b"), ("other/a", "mine/other/a"), ("a/checks", "mine/a")],
)
def test_a_source_gets_the_projects_name_once(store, name, full):
    mine = create_project(store, "Mine")
    assert own_source(mine, name) == full
    assert own_source(mine, name, is_check=True) == f"{full}/checks"
    assert own_source(mine, own_source(mine, name, is_check=True), is_check=True) == f"{full}/checks"


@pytest.mark.parametrize("name", ["", " ", "mine/", "x" * 81, "a\x00b", "a\nb", "\u202ea", "\ud800"])
def test_what_names_no_source_is_refused(store, name):
    with pytest.raises(StoreError):
        own_source(create_project(store, "Mine"), name)
