"""Tasks: what can be judged, each once, how far it is."""

import pytest

from tutelage.errors import StoreError
from tutelage.store.assignments import answer, answer_mark
from tutelage.store.completions import get_completions
from tutelage.store.db import Added
from tutelage.store.offers import offer
from tutelage.store.people import add_labeler
from tutelage.store.projects import TASK_KINDS, ProjectSettings, create_project
from tutelage.store.prompts import get_prompt
from tutelage.store.tasks import (
    CHECK_SLOTS,
    NEEDED,
    NewTask,
    add_tasks,
    close_tasks,
    get_task,
    known_tasks,
    list_tasks,
    prioritise,
    progress,
)
from tutelage.types import Completion, Feedback, Labeler, Message, Prompt, RankedItem, Ranking


@pytest.fixture
def project(store):
    add_labeler(store, Labeler(pseudonym="a", kind="human"))
    return create_project(store, "P", settings=ProjectSettings(gold_share=0.0))


def new(name="x", kind="rank", n=4, **more) -> NewTask:
    prompt = Prompt(messages=(Message(role="user", content=name),))
    texts = tuple(Completion(prompt_id=prompt.id, text=f"answer {k}", sample=k) for k in range(n))
    return NewTask(**{"kind": kind, "prompt": prompt, "completions": texts, "source": "s", **more})


def test_a_task_comes_with_its_prompt_and_completions_once(store, project):
    one = new()
    assert add_tasks(store, project.id, [one, one]) == Added(1, 1)
    assert add_tasks(store, project.id, [one]) == Added(0, 1)
    found = get_task(store, project.id, 1)
    assert get_prompt(store, found.prompt_id) == one.prompt
    assert tuple(get_completions(store, found.completions)) == one.completions
    assert (found.slots, found.overlap, found.state, found.gold, found.is_practice) == (1, 1, "open", None, False)
    assert known_tasks(store, [one.key, "x"]) == {one.key}


def test_another_source_or_another_answer_is_another_task(store, project):
    given = [new(), new(source="t"), new(n=3), new(kind="critique"), new(gold={"tiers": [1, 2, 3, 4]})]
    assert add_tasks(store, project.id, given) == Added(5, 0)


@pytest.mark.parametrize("kind", TASK_KINDS)
def test_each_kind_takes_as_many_completions_as_it_can_show(store, project, kind):
    least, most = NEEDED[kind]
    for n in range(11):
        one = new(f"{kind} {n}", kind, n)
        if least <= n <= most:
            assert add_tasks(store, project.id, [one]) == Added(1, 0)
            continue
        with pytest.raises(StoreError, match=f"a task to {kind} needs {least} to {most} completions"):
            add_tasks(store, project.id, [one])


def test_texts_that_are_all_the_same_cannot_be_ranked(store, project):
    prompt = Prompt(messages=(Message(role="user", content="x"),))
    texts = tuple(Completion(prompt_id=prompt.id, text=t, sample=i) for i, t in enumerate(("a", " a", "a\n")))
    with pytest.raises(StoreError, match=r"all 3 completions .* are the same text"):
        add_tasks(store, project.id, [new(prompt=prompt, completions=texts)])


@pytest.mark.parametrize("gold", [{}, {"tiers": []}, {"tiers": [1, 2, 3]}, {"tiers": [1] * 5}, {"explanation": "x"}])
def test_a_known_answer_gives_each_completion_its_tier(store, project, gold):
    with pytest.raises(StoreError, match="known answer"):
        add_tasks(store, project.id, [new(gold=gold)])


def test_one_task_that_cannot_be_keeps_all_out(store, project):
    with pytest.raises(StoreError):
        add_tasks(store, project.id, [new("fine"), new("wrong", n=1)])
    assert list_tasks(store, project.id) == []


def test_a_source_that_cannot_be_stored_is_refused(store, project):
    with pytest.raises(StoreError, match="NUL"):
        add_tasks(store, project.id, [new(source="a\x00")])


def test_a_check_wants_everybody(store, project):
    add_tasks(
        store, project.id, [new(gold={"tiers": [1, 2, 3, 4]}), new("p", gold={"tiers": [1, 1, 1, 2]}, practice=True)]
    )
    check, practice = get_task(store, project.id, 1), get_task(store, project.id, 2)
    assert check.slots == practice.slots == CHECK_SLOTS and not check.is_practice and practice.is_practice


def test_a_list_is_read_page_by_page_and_narrowed(store, project):
    given = [new(f"t{i}", "rank" if i % 2 else "critique", 4) for i in range(7)]
    add_tasks(store, project.id, [*given, new("gold", gold={"tiers": [1, 2, 3, 4]})])
    seen, before = [], None
    while page := list_tasks(store, project.id, before=before, limit=3):
        seen += [t.id for t, _ in page]
        before = seen[-1]
    assert seen == [8, 7, 6, 5, 4, 3, 2, 1]
    assert {t.kind for t, _ in list_tasks(store, project.id, kind="critique")} == {"critique"}
    assert close_tasks(store, project.id, [1, 2, 99], state="closed") == 2
    assert [t.id for t, _ in list_tasks(store, project.id, show="closed")] == [2, 1]
    assert len(list_tasks(store, project.id, show="open")) == 6
    assert [t.id for t, _ in list_tasks(store, project.id, show="checks")] == [8]


def test_a_project_sees_and_changes_its_own_tasks_alone(store, project):
    other = create_project(store, "Other")
    one = new()
    add_tasks(store, project.id, [one])
    assert get_task(store, other.id, 1) is None and list_tasks(store, other.id) == []
    assert close_tasks(store, other.id, [1], state="closed") == 0
    assert prioritise(store, other.id, {one.prompt.id: 1.0}) == 0 and progress(store, other.id) == []


def test_only_open_tasks_of_known_prompts_get_a_priority(store, project):
    given = [new(f"t{i}") for i in range(3)]
    add_tasks(store, project.id, given)
    close_tasks(store, project.id, [2], state="closed")
    assert prioritise(store, project.id, {g.prompt.id: float(i) for i, g in enumerate(given)} | {"?": 1.0}) == 2
    assert [get_task(store, project.id, i).priority for i in (1, 2, 3)] == [0.0, 0.0, 2.0]


def test_progress_counts_answers_and_leaves_checks_out(store, project):
    add_tasks(store, project.id, [new("a", overlap=2), new("b"), new("c", "critique", 1, source="u")])
    add_tasks(store, project.id, [new("g", gold={"tiers": [1, 2, 3, 4]})])
    held = offer(store, project, "a", kinds=["rank"])
    items = tuple(RankedItem(completion_id=c[0], tier=t) for t, c in enumerate(held.cards, 1))
    said = Feedback(labeler="a", prompt_id=held.task.prompt_id, judgement=Ranking(items=items), idempotency_key="k")
    answer(store, held, [said], mark=answer_mark("k", ""))
    found = [(p.source, p.kind, p.tasks, p.wanted, p.answered) for p in progress(store, project.id)]
    assert found == [("s", "rank", 2, 3, 1), ("u", "critique", 1, 1, 0)]
    assert sum(n for _, n in list_tasks(store, project.id)) == 1
