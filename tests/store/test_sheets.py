"""What a page and an answer need of one task: the same as its parts asked for one by one."""

import pytest

from tutelage.store.accounts import create_account
from tutelage.store.assignments import save_draft
from tutelage.store.offers import offer
from tutelage.store.projects import ProjectSettings, create_project, publish_guideline
from tutelage.store.sheets import in_hand, sheet
from tutelage.store.tasks import NewTask, add_tasks
from tutelage.types import Completion, Message, Prompt


@pytest.fixture
def project(store):
    return create_project(store, "P", settings=ProjectSettings(gold_share=0.0))


def lay(store, project, texts):
    prompt = Prompt(messages=(Message(role="user", content="why?"),), source="s")
    completions = tuple(Completion(prompt_id=prompt.id, text=t, sample=i) for i, t in enumerate(texts))
    kind = "rank" if texts else "demonstrate"
    add_tasks(store, project.id, [NewTask(kind=kind, prompt=prompt, completions=completions, source="s")])
    return prompt, {c.id: c.text for c in completions}


def test_texts_stand_in_the_order_of_the_cards_and_a_draft_comes_with_them(store, project):
    prompt, text_of = lay(store, project, ["one", "two", "same", "same ", "three"])
    who = create_account(store, "a@example.org").pseudonym
    held = offer(store, project, who)
    before = sheet(store, held)
    assert (before.prompt, before.draft) == (prompt, None)
    assert before.texts == [text_of[card[0]] for card in held.cards] and len(before.texts) == 4
    save_draft(store, project.id, who, held.id, {"tiers": [1]})
    assert sheet(store, held).draft == {"tiers": [1]}


def test_an_answer_is_judged_by_the_guideline_in_force(store, project):
    lay(store, project, [])
    who = create_account(store, "a@example.org").pseudonym
    held = offer(store, project, who)
    found = in_hand(store, project.id, who, held.id)
    assert (found.held.id, found.texts, found.guideline) == (held.id, [], None)
    publish_guideline(store, project.id, "first")
    second = publish_guideline(store, project.id, "second")
    publish_guideline(store, create_project(store, "Q").id, "of another project")
    assert in_hand(store, project.id, who, held.id).guideline == second.id


def test_only_its_labeler_has_it_in_hand(store, project):
    lay(store, project, [])
    mine, other = (create_account(store, f"{n}@example.org").pseudonym for n in "ab")
    held = offer(store, project, mine)
    assert in_hand(store, project.id, other, held.id) is None
    assert in_hand(store, create_project(store, "Q").id, mine, held.id) is None
    assert in_hand(store, project.id, mine, "0" * 24) is None
