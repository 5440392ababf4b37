"""A round's answers on people's desk: what becomes a task, in which order, and what a run says while it waits."""

from types import SimpleNamespace

import pytest

from tutelage.errors import WaitingForLabels
from tutelage.rounds.collect import _ask_people, project_slug, put_on_desk
from tutelage.rounds.recipe import CollectConfig
from tutelage.store.completions import add_completions
from tutelage.store.db import open_store
from tutelage.store.projects import find_project
from tutelage.store.prompts import add_prompts
from tutelage.store.tasks import list_tasks
from tutelage.types import Completion


@pytest.fixture
def run(tmp_path):
    """A run as far as this stage needs one."""
    with open_store(tmp_path / "store.db") as store:
        told = []
        yield SimpleNamespace(
            folder=tmp_path / "My Run!", store=store, patient=False, told=told,
            recipe=SimpleNamespace(collect=CollectConfig(labels="people")),
            waiting=lambda name, have, needed: told.append((name, have, needed)),
        )  # fmt: skip


def group(store, ask, words, texts):
    prompt = ask(words)
    completions = [Completion(prompt_id=prompt.id, text=t, sample=i) for i, t in enumerate(texts)]
    add_prompts(store, [prompt])
    add_completions(store, completions)
    return prompt, completions


def test_answers_become_tasks_once_and_groups_of_one_text_are_counted(run, ask):
    groups = [group(run.store, ask, "One?", ["a", "b"]), group(run.store, ask, "Two?", ["same", "same "])]
    assert put_on_desk(run, "round-1", groups, {}) == (1, 1)
    assert put_on_desk(run, "round-1", groups, {}) == (1, 1)
    project = find_project(run.store, "my-run")
    ((task, n_answers),) = list_tasks(run.store, project.id)
    assert (task.kind, task.source, n_answers) == ("rank", "round-1", 0)


def test_what_is_most_uncertain_has_the_highest_priority(run, ask):
    groups = [group(run.store, ask, "One?", ["a", "b"]), group(run.store, ask, "Two?", ["c", "d"])]
    put_on_desk(run, "round-2", groups, {groups[0][0].id: 0.1, groups[1][0].id: 0.7})
    by_prompt = {t.prompt_id: t.priority for t, _ in list_tasks(run.store, find_project(run.store, "my-run").id)}
    assert by_prompt == {groups[0][0].id: 0.1, groups[1][0].id: 0.7}


def test_a_run_that_lacks_labels_says_how_many_and_how_to_go_on(run, ask):
    groups = [group(run.store, ask, "One?", ["a", "b"])]
    with pytest.raises(WaitingForLabels, match=r"waiting for labels: 0 of 1\. .*tutelage label .*--wait"):
        _ask_people(run, 1, run.folder / "round-1" / "labels", "round-1", groups)
    assert run.told == [("round-1/labels", 0, 1)]


@pytest.mark.parametrize(("name", "slug"), [("mine", "mine"), ("Ünïcode run", "n-code-run"), ("---", "run")])
def test_a_run_folder_gives_an_address(tmp_path, name, slug):
    assert project_slug(tmp_path / name) == slug
