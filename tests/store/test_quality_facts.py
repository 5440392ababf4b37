"""Answers are read as they stand, the same whether at once or piece by piece; lengths are those of the texts."""

import secrets

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tutelage.store.accounts import create_account
from tutelage.store.adjudications import decide
from tutelage.store.assignments import answer, answer_mark, history, revise
from tutelage.store.completions import add_completions
from tutelage.store.db import open_store
from tutelage.store.feedback import head, record
from tutelage.store.offers import offer
from tutelage.store.projects import ProjectSettings, create_project
from tutelage.store.prompts import add_prompts
from tutelage.store.quality_facts import _texts, read_quality_facts
from tutelage.store.tasks import NewTask, add_tasks, get_task
from tutelage.types import (
    Adjudication,
    Completion,
    Feedback,
    Flag,
    Message,
    Prompt,
    RankedItem,
    Ranking,
    Rating,
    Skip,
)

PROMPT = Prompt(messages=(Message(role="user", content="Is it open?"),), source="r")
WRITTEN = tuple(
    Completion(prompt_id=PROMPT.id, text=t, sample=i, model_version="m") for i, t in enumerate(("yes", "no", " yes "))
)


@pytest.fixture
def project(store):
    made = create_project(store, "House", settings=ProjectSettings(gold_share=0.0, overlap=3))
    add_tasks(store, made.id, [NewTask(kind="rank", prompt=PROMPT, completions=WRITTEN, source="r", overlap=3)])
    return made


def say(held, key, tiers, *, ms=5000, extra=()):
    """A ranking of the cards in the order of the task, and more judgements."""
    place = {"yes": tiers[0], "no": tiers[1]}
    text_of = {c.id: c.text.strip() for c in WRITTEN}
    items = tuple(RankedItem(completion_id=i, tier=place[text_of[i]]) for card in held.cards for i in card)
    said = [Ranking(items=items), *extra]
    return [
        Feedback(
            labeler=held.labeler, prompt_id=PROMPT.id, judgement=j, source="r", active_ms=ms,
            idempotency_key=key if i == 0 else f"{key}:{i}",
        )
        for i, j in enumerate(said)
    ]  # fmt: skip


def join(store):
    return create_account(store, f"{secrets.token_hex(6)}@example.org").pseudonym


def answered(store, project, key, tiers, **more):
    name = join(store)
    held = offer(store, project, name)
    answer(store, held, say(held, key, tiers, **more), mark=answer_mark(key, "{}"))
    return name


def test_an_answer_is_laid_out_with_all_that_was_said(store, project):
    extra = (Rating(completion_id=WRITTEN[0].id, aspect="overall", value=6), Flag(category="false"),
             Flag(category="false", completion_id=WRITTEN[1].id))  # fmt: skip
    name = answered(store, project, "key-one1", (1, 2), extra=extra)
    facts = read_quality_facts(store, project.id)
    (one,) = facts.answers
    assert (one.labeler, one.kind, one.active_ms, one.event) == (name, "rank", 5000, "event:key-one1")
    assert dict(one.tiers) == {WRITTEN[0].id: 1, WRITTEN[1].id: 2}  # of each card its first completion
    assert one.ratings == ((WRITTEN[0].id, "overall", 6.0),) and one.flags == ((WRITTEN[1].id, "false"),)
    assert one.is_counted and facts.seq == head(store).seq == 4
    assert {i: (t.model_version, t.length) for i, t in facts.texts.items()} == {
        WRITTEN[0].id: ("m", 3), WRITTEN[1].id: ("m", 2),
    }  # fmt: skip


def test_a_revised_answer_counts_once_and_a_withdrawn_one_ranks_nothing(store, project):
    name = answered(store, project, "key-one1", (1, 2), ms=9000)
    before = read_quality_facts(store, project.id)
    (held,) = history(store, project.id, name)
    revise(store, held, say(held, "ignored", (2, 1), ms=100), key="first")
    (one,) = read_quality_facts(store, project.id).answers
    assert one.tiers[WRITTEN[0].id] == 2 and one.event == "event:key-one1:rfirst:0"
    assert one.active_ms == 9000  # the time that the judgement took, not that of its mending
    revise(store, held, [], key="second")
    after = read_quality_facts(store, project.id)
    assert after.answers[0].tiers == {} and after.answers[0].event == ""
    assert read_quality_facts(store, project.id, before) == after


def test_what_is_read_piece_by_piece_is_what_is_read_at_once(store, project):
    read = read_quality_facts(store, project.id)
    for i, tiers in enumerate(((1, 2), (2, 1))):
        answered(store, project, f"key-{i:05}", tiers)
        read = read_quality_facts(store, project.id, read)
        assert read == read_quality_facts(store, project.id)
    task = get_task(store, project.id, 1)
    items = tuple(RankedItem(completion_id=c.id, tier=1) for c in WRITTEN)
    decided = Adjudication(items=items, decided=("event:key-00000", "event:key-00001"), rationale="Both say it.")
    decide(store, task, join(store), decided, key="d")
    name = join(store)
    held = offer(store, project, name)
    skip = Feedback(labeler=name, prompt_id=PROMPT.id, judgement=Skip(reason="unclear"), idempotency_key="key-skip1")
    answer(store, held, [skip.model_copy(update={"source": "r"})], mark=answer_mark("key-skip1", "{}"), state="skipped")
    read = read_quality_facts(store, project.id, read)
    assert read == read_quality_facts(store, project.id)
    assert [a.is_skipped for a in read.answers] == [False, False, True]
    assert read.decisions[task.id].rationale == "Both say it." and set(read.decisions) == {task.id}


def test_judgements_of_nobodys_task_and_other_projects_are_no_answers(store, project):
    name = answered(store, project, "key-one1", (1, 2))
    items = tuple(RankedItem(completion_id=c.id, tier=1) for c in WRITTEN[:2])
    record(store, Feedback(labeler=name, prompt_id=PROMPT.id, judgement=Ranking(items=items), idempotency_key="import"))
    other = create_project(store, "Elsewhere")
    assert len(read_quality_facts(store, project.id).answers) == 1
    assert read_quality_facts(store, other.id).answers == ()


@settings(max_examples=40)
@given(texts=st.lists(st.text(st.characters(blacklist_categories=["Cs", "Cc"]), min_size=1), min_size=1, max_size=4))
def test_lengths_are_counted_in_characters(tmp_path_factory, texts):
    texts = [*texts, 'a "quoted"\n\\ back\\\\slash\tand 🙂']
    with open_store(tmp_path_factory.mktemp("lengths") / "store.db") as store:
        add_prompts(store, [PROMPT])
        written = [Completion(prompt_id=PROMPT.id, text=t, sample=i) for i, t in enumerate(texts)]
        add_completions(store, written)
        found = _texts(store, (c.id for c in written))
    assert [found[c.id].length for c in written] == [len(t) for t in texts]
