"""A decision is made once, by somebody who did not judge the task, and can be made anew by the same reviewer."""

import pytest

from tutelage.errors import ConflictError, StoreError
from tutelage.store.accounts import create_account
from tutelage.store.adjudications import decide, seen_by
from tutelage.store.assignments import answer, answer_mark
from tutelage.store.feedback import count, current, events
from tutelage.store.offers import offer
from tutelage.store.people import add_labeler
from tutelage.store.projects import ProjectSettings, create_project
from tutelage.store.tasks import NewTask, add_tasks, get_task
from tutelage.types import Adjudication, Labeler, RankedItem


@pytest.fixture
def task(desk):
    """A task of four completions that ann and sim have ranked in opposite orders."""
    project = create_project(desk.store, "House", settings=ProjectSettings(gold_share=0.0, overlap=3))
    new = NewTask(kind="rank", prompt=desk.prompts[0], completions=tuple(desk.completions[0]), source="r", overlap=3)
    add_tasks(desk.store, project.id, [new])
    for name, tiers in (("ann", (1, 2, 3, 4)), ("sim", (4, 3, 2, 1))):
        held = offer(desk.store, project, name)
        given = desk.ranking(f"key-{name}", *tiers, labeler=name, source="r")
        answer(desk.store, held, [given], mark=answer_mark(f"key-{name}", "{}"))
    for name in ("rev", "other"):
        add_labeler(desk.store, Labeler(pseudonym=name, kind="human"))
    return get_task(desk.store, project.id, 1)


def decision(task, tiers=(1, 2, 3, 4), why="The first is true."):
    items = tuple(RankedItem(completion_id=i, tier=t) for i, t in zip(task.completions, tiers, strict=True))
    return Adjudication(items=items, decided=("event:key-ann", "event:key-sim"), rationale=why)


def test_a_decision_is_an_event_and_the_rankings_stay(desk, task):
    made = decide(desk.store, task, "rev", decision(task), key="one")
    assert made.feedback.source == "r" and made.feedback.prompt_id == task.prompt_id
    assert [s.feedback.judgement.kind for s in current(desk.store)] == ["ranking", "ranking", "adjudication"]
    assert decide(desk.store, task, "rev", decision(task), key="one") == made
    assert count(desk.store, kind="adjudication") == 1


def test_the_same_reviewer_can_decide_anew_and_nothing_is_overwritten(desk, task):
    first = decide(desk.store, task, "rev", decision(task), key="one")
    second = decide(desk.store, task, "rev", decision(task, (2, 1, 1, 1)), key="two")
    assert second.feedback.supersedes == first.seq
    assert decide(desk.store, task, "rev", decision(task, (2, 1, 1, 1)), key="two") == second
    assert list(current(desk.store, kinds=["adjudication"])) == [second]
    assert list(events(desk.store, kinds=["adjudication"])) == [first, second]


def test_another_reviewer_cannot_decide_what_is_decided(desk, task):
    decide(desk.store, task, "rev", decision(task), key="one")
    with pytest.raises(ConflictError, match="rev has decided"):
        decide(desk.store, task, "other", decision(task), key="one-too")
    assert count(desk.store, kind="adjudication") == 1


def test_who_judged_a_task_or_holds_it_does_not_decide_it(desk, task):
    assert seen_by(desk.store, task.id) == {"ann", "sim"}
    with pytest.raises(StoreError, match="somebody else decides"):
        decide(desk.store, task, "ann", decision(task), key="one")
    holder = create_account(desk.store, "holder@example.org").pseudonym
    assert offer(desk.store, _project(desk), holder) is not None
    with pytest.raises(StoreError, match="somebody else decides"):
        decide(desk.store, task, holder, decision(task), key="two")
    assert count(desk.store, kind="adjudication") == 0


def _project(desk):
    from tutelage.store.projects import get_project

    return get_project(desk.store, "house")
