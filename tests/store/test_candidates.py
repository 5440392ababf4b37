"""Proposals that wait for a reviewer: each once, each decided once."""

import threading

import pytest

from tutelage.errors import ConflictError
from tutelage.store.candidates import (
    NewCandidate,
    add_candidates,
    counts,
    decide,
    find_candidate,
    known_candidates,
    pending,
    texts,
)
from tutelage.store.chain import verify_chain
from tutelage.store.completions import get_completions
from tutelage.store.db import Added
from tutelage.store.feedback import events
from tutelage.store.people import add_labeler
from tutelage.store.projects import create_project
from tutelage.types import Labeler, Message, Prompt


@pytest.fixture
def project(store):
    add_labeler(store, Labeler(pseudonym="rev", kind="human"))
    return create_project(store, "P")


def new(name="x", text="An answer.", **more) -> NewCandidate:
    prompt = Prompt(messages=(Message(role="user", content=name),))
    return NewCandidate(**{"prompt": prompt, "text": text, "origin": "import", "author": "file", **more})


def decided(store, project, decision="accepted", number=1, **more):
    return decide(store, project.id, number, decision, reviewer="rev", source="p/reviewed", **more)


def test_a_proposal_is_there_once(store, project):
    found = ({"kind": "short", "detail": "1 word", "span": [0, 1]},)
    one, two = new(findings=found), new(text="Another.\x00")
    assert add_candidates(store, project.id, [one, two, one]) == Added(2, 1)
    assert add_candidates(store, project.id, [one]) == Added(0, 1)
    assert known_candidates(store, [one.key, "x"]) == {one.key}
    first, second = pending(store, project.id)
    assert (
        first.findings == list(found) and second.text == "Another.\x00" and counts(store, project.id) == {"pending": 2}
    )
    assert [c.id for c in pending(store, project.id, after=1)] == [2] and len(pending(store, project.id, limit=1)) == 1


def test_what_is_accepted_becomes_a_demonstration(store, project):
    add_candidates(store, project.id, [new()])
    stored = decided(store, project)
    (event,) = events(store)
    assert event == stored and event.feedback.labeler == "rev" and event.feedback.source == "p/reviewed"
    (made,) = get_completions(store, [event.feedback.judgement.completion_id])
    assert (made.text, made.origin) == ("An answer.", "import") and pending(store, project.id) == []
    verify_chain(store)


def test_what_is_edited_becomes_what_the_reviewer_made_of_it(store, project):
    add_candidates(store, project.id, [new()])
    stored = decided(store, project, "edited", text="Better.")
    (made,) = get_completions(store, [stored.feedback.judgement.completion_id])
    assert (made.text, made.origin) == ("Better.", "edited")
    assert find_candidate(store, project.id, 1).text == "An answer." and counts(store, project.id) == {"edited": 1}


def test_what_is_rejected_is_kept_with_its_reason_and_trains_nothing(store, project):
    add_candidates(store, project.id, [new(), new(text="Second.")])
    assert decided(store, project, "rejected", reason="wrong") is None
    assert list(events(store)) == [] and find_candidate(store, project.id, 1).findings == [
        {"kind": "rejected", "detail": "wrong"}
    ]
    assert texts(store, project.id) == [(2, "Second.")] and texts(store, project.id, besides=2) == []


def test_a_proposal_is_decided_once(store, project):
    add_candidates(store, project.id, [new()])
    decided(store, project)
    for decision in ("accepted", "edited", "rejected"):
        with pytest.raises(ConflictError, match="waits no more"):
            decided(store, project, decision)
    assert len(list(events(store))) == 1


def test_of_many_reviewers_at_once_one_decides(store, project):
    add_candidates(store, project.id, [new()])
    start, done, refused = threading.Barrier(8), [], []

    def review(i):
        start.wait()
        try:
            done.append(decided(store, project, "edited", text=f"by {i}"))
        except ConflictError:
            refused.append(i)

    threads = [threading.Thread(target=review, args=(i,)) for i in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert (len(done), len(refused)) == (1, 7) and len(list(events(store))) == 1


def test_a_proposal_of_another_project_is_not_there(store, project):
    other = create_project(store, "Other")
    add_candidates(store, project.id, [new()])
    assert (
        find_candidate(store, other.id, 1) is None and pending(store, other.id) == [] and counts(store, other.id) == {}
    )
    with pytest.raises(ConflictError):
        decided(store, other)
    assert texts(store, other.id) == []
