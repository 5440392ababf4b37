"""The review queue on the page: one after the other, decided once."""

import pytest

from tutelage.store.candidates import NewCandidate, add_candidates, counts, find_candidate, pending
from tutelage.store.completions import get_completion
from tutelage.store.feedback import events
from tutelage.types import Message, Prompt


def ask(words: str) -> Prompt:
    return Prompt(messages=(Message(role="user", content=words),), source="house/file")


@pytest.fixture
def queue(house):
    found = ({"kind": "personal", "detail": "an e-mail address", "span": [8, 22]},)
    texts = ["Write to jo@example.org.", "The second answer <i>stands</i> here.", "The third one."]
    given = [
        NewCandidate(
            prompt=ask(f"question {i}"), text=t, origin="model", author="m-1", findings=found if i == 0 else ()
        )
        for i, t in enumerate(texts)
    ]
    add_candidates(house.store, house.project.id, given)
    return [c.id for c in pending(house.store, house.project.id)]


def decide(house, client, number: int, **form: str):
    return house.post(client, house.path(f"review/{number}"), form)


def test_proposals_are_shown_one_by_one_with_what_stands_out(house, queue):
    client = house.person("reviewer").client
    page = client.get(house.path("review")).text
    assert "an e-mail address" in page and "<mark" in page and "question 0" in page and "question 1" not in page
    later = client.get(house.path(f"review?after={queue[0]}")).text
    assert "question 1" in later and "&lt;i&gt;stands" in later
    assert "question 0" in client.get(house.path(f"review?after={queue[2]}")).text, "what was laid aside comes again"


def test_an_accepted_proposal_becomes_a_demonstration_and_the_next_follows(house, queue):
    reviewer = house.person("reviewer")
    done = decide(house, reviewer.client, queue[0], do="accept")
    assert (done.status_code, done.headers["location"]) == (303, house.path(f"review?after={queue[0]}"))
    (stored,) = events(house.store)
    assert (stored.feedback.labeler, stored.feedback.source) == (reviewer.name, "house/reviewed")
    assert get_completion(house.store, stored.feedback.judgement.completion_id).text == "Write to jo@example.org."
    assert counts(house.store, house.project.id) == {"accepted": 1, "pending": 2}


def test_an_edited_proposal_is_stored_as_it_was_edited(house, queue):
    decide(house, house.owner.client, queue[0], do="edit", text="Write to us.\r\nSoon.")
    (stored,) = events(house.store)
    made = get_completion(house.store, stored.feedback.judgement.completion_id)
    assert (made.text, made.origin) == ("Write to us.\nSoon.", "edited")
    assert counts(house.store, house.project.id)["edited"] == 1


def test_an_edit_that_changes_nothing_is_an_acceptance(house, queue):
    decide(house, house.owner.client, queue[1], do="edit", text="The second answer <i>stands</i> here.")
    assert counts(house.store, house.project.id)["accepted"] == 1


def test_a_rejected_proposal_trains_nothing_and_keeps_the_reason(house, queue):
    decide(house, house.owner.client, queue[0], do="reject", reason="personal data", remark="an address")
    assert list(events(house.store)) == []
    found = find_candidate(house.store, house.project.id, queue[0])
    assert found is not None and found.state == "rejected"
    assert found.findings[-1] == {"kind": "rejected", "detail": "personal data: an address"}


def test_an_edited_text_can_be_looked_through_before_it_is_accepted(house, queue):
    page = decide(house, house.owner.client, queue[2], do="check", text="User: call +49 30 901820 now")
    assert page.status_code == 200
    assert "a telephone number" in page.text and "a turn of a conversation" in page.text
    repeat = decide(house, house.owner.client, queue[2], do="check", text="The second answer <i>stands</i> here.")
    assert "Near duplicate" in repeat.text
    assert counts(house.store, house.project.id) == {"pending": 3}


def test_a_proposal_is_decided_once(house, queue):
    assert decide(house, house.owner.client, queue[0], do="accept").status_code == 303
    for form in ({"do": "accept"}, {"do": "reject", "reason": "wrong"}, {"do": "check", "text": "x"}):
        assert decide(house, house.person("reviewer").client, queue[0], **form).status_code == 409
    assert len(list(events(house.store))) == 1


@pytest.mark.parametrize(
    "form",
    [{}, {"do": "burn"}, {"do": "edit", "text": "  "}, {"do": "edit", "text": "a\x00"}, {"do": "reject"},
     {"do": "reject", "reason": "dislike"}],
)  # fmt: skip
def test_a_decision_that_says_nothing_is_refused(house, queue, form):
    assert decide(house, house.owner.client, queue[0], **form).status_code == 422
    assert counts(house.store, house.project.id) == {"pending": 3}


def test_the_queue_is_for_reviewers_of_this_project(house, queue):
    assert house.person("labeller").client.get(house.path("review")).status_code == 403
    assert decide(house, house.person("labeller").client, queue[0], do="accept").status_code == 403
    other = house.another_project()
    stranger = house.person("reviewer", other).client
    assert stranger.get(house.path("review")).status_code == 404
    assert house.post(stranger, house.path(f"review/{queue[0]}", other), {"do": "accept"}).status_code == 404
    assert decide(house, house.owner.client, 999, do="accept").status_code == 404
    assert counts(house.store, house.project.id) == {"pending": 3}


def test_an_empty_queue_says_so(house):
    assert "Nothing waits for review" in house.person("reviewer").client.get(house.path("review")).text
