"""What people write, when a reviewer reads it first: it waits, is decided by somebody else, and only then teaches."""

import pytest

from tutelage.store.candidates import counts, pending
from tutelage.store.completions import get_completion
from tutelage.store.feedback import current, events
from tutelage.store.lineage import Share, add_model_version, trace
from tutelage.store.snapshot import freeze, load_demonstrations
from tutelage.types import ModelVersion

TEXT = "Yes. Write to me under jo@example.org."


@pytest.fixture
def author(house):
    house.settings(review_demonstrations=True)
    return house.person()


def write(house, who, text: str = TEXT, *, question: str = "Can I move my booking?", key: str = "author-key") -> str:
    house.task("demonstrate", question=question)
    number = house.next(who, kind="demonstrate")["id"]
    assert house.answer(who, number, key, text=text).status_code == 200
    return number


def decide(house, reviewer, do: str, **form: str):
    (number,) = [c.id for c in pending(house.store, house.project.id)]
    return house.post(reviewer.client, house.path(f"review/{number}"), {"do": do, **form})


def taught(house, folder) -> list[tuple[str, str]]:
    freeze(house.store, folder, valid_fraction=0.0)
    return [(d.text, d.labeler) for d in load_demonstrations(folder)]


def test_what_waits_teaches_nothing_until_a_reviewer_accepts_it(house, author, tmp_path):
    write(house, author)
    assert taught(house, tmp_path / "before") == []
    reviewer = house.person("reviewer")
    page = reviewer.client.get(house.path("review")).text
    assert "written by a person" in page and author.name in page and "an e-mail address" in page
    assert decide(house, reviewer, "accept").status_code == 303
    assert taught(house, tmp_path / "after") == [(TEXT, reviewer.name)]
    assert [(e.feedback.labeler, e.feedback.judgement.kind) for e in events(house.store)] == [
        (author.name, "proposal"),
        (reviewer.name, "demonstration"),
    ]
    given, accepted = (e.feedback.judgement.completion_id for e in events(house.store))
    assert given == accepted and get_completion(house.store, given).origin == "human"


def test_an_edited_text_names_the_one_that_it_was_made_from(house, author, tmp_path):
    write(house, author)
    reviewer = house.person("reviewer")
    decide(house, reviewer, "edit", text="Yes. Write to us.")
    assert taught(house, tmp_path / "after") == [("Yes. Write to us.", reviewer.name)]
    proposal, accepted = (e.feedback.judgement.completion_id for e in events(house.store))
    made = get_completion(house.store, accepted)
    assert (made.origin, made.parent) == ("edited", proposal)


def test_what_is_rejected_never_teaches_and_its_author_learns_why(house, author, tmp_path):
    write(house, author)
    decide(house, house.person("reviewer"), "reject", reason="personal data", remark="an address")
    assert taught(house, tmp_path / "after") == []
    mine = author.client.get(house.path("mine")).text
    assert "not accepted: personal data: an address" in mine and "Take back" not in mine


def test_the_weights_are_traced_to_the_author_and_to_the_reviewer(house, author, tmp_path):
    write(house, author)
    write(house, author, "Nobody wants this.", question="And then?", key="second-key")
    reviewer = house.person("reviewer")
    first, second = [c.id for c in pending(house.store, house.project.id)]
    house.post(reviewer.client, house.path(f"review/{first}"), {"do": "accept"})
    house.post(reviewer.client, house.path(f"review/{second}"), {"do": "reject", "reason": "low quality"})
    card = freeze(house.store, tmp_path / "snapshot")
    add_model_version(house.store, ModelVersion(id="sft", stage="sft", weights_sha="w", snapshot=card.hash))
    (step,) = trace(house.store, "sft").steps
    assert set(step.shares) == {Share(author.name, "human", 1), Share(reviewer.name, "human", 1)}


def test_nobody_decides_about_a_text_of_her_own(house):
    house.settings(review_demonstrations=True)
    reviewer = house.person("reviewer")
    write(house, reviewer)
    page = reviewer.client.get(house.path("review")).text
    assert "Nothing else waits" in page and "1 is your own" in page
    refused = decide(house, reviewer, "accept")
    assert (refused.status_code, counts(house.store, house.project.id)) == (422, {"pending": 1})
    assert "jo@example.org" in house.owner.client.get(house.path("review")).text, "for somebody else it is there"


def test_a_revision_takes_the_place_of_what_waited(house, author, tmp_path):
    number = write(house, author)
    assert house.answer(author, number, "second-key", "revise", text="No.").status_code == 200
    again = house.answer(author, number, "second-key", "revise", text="No.")
    assert again.status_code == 200, "sent again, it changes nothing"
    assert [c.text for c in pending(house.store, house.project.id)] == ["No."]
    assert counts(house.store, house.project.id) == {"replaced": 1, "pending": 1}
    reviewer = house.person("reviewer")
    decide(house, reviewer, "accept")
    assert taught(house, tmp_path / "after") == [("No.", reviewer.name)]
    assert "accepted by a reviewer" in author.client.get(house.path("mine")).text


def test_what_is_taken_back_waits_no_more(house, author):
    number = write(house, author)
    assert "waits for a reviewer" in author.client.get(house.path("mine")).text
    assert house.send(author.client, house.path(f"desk/{number}/withdraw"), {"key": "back-key"}).status_code == 200
    assert pending(house.store, house.project.id) == []
    assert [e.feedback.judgement.kind for e in current(house.store)] == ["skip"]


@pytest.mark.parametrize("form", [{"do": "accept"}, {"do": "reject", "reason": "wrong"}])
def test_after_a_decision_its_author_changes_it_no_more(house, author, form):
    number = write(house, author)
    decide(house, house.person("reviewer"), **form)
    before = len(list(events(house.store)))
    for verb, body in (("revise", {"text": "Another."}), ("withdraw", {})):
        refused = house.send(author.client, house.path(f"desk/{number}/{verb}"), {"key": f"late-{verb}", **body})
        assert refused.status_code == 409 and "a reviewer has decided" in refused.text
    assert len(list(events(house.store))) == before


def test_a_text_of_the_same_author_to_the_same_prompt_waits_beside_the_first(house, author):
    write(house, author)
    house.clock.forward(60)
    house.task("demonstrate", source="round-2")
    number = house.next(author, kind="demonstrate")["id"]
    assert house.answer(author, number, "second-key", text=TEXT).status_code == 200
    assert [c.text for c in pending(house.store, house.project.id)] == [TEXT, TEXT]


def test_its_own_text_is_no_repeat_of_a_proposal_but_another_persons_is(house, author):
    text = "You can move a booking until the evening before, under “My journeys”, without any fee."
    write(house, author, text)
    assert "Near duplicate" not in house.owner.client.get(house.path("review")).text
    write(house, house.person(), text, question="How do I move a booking?", key="other-key")
    assert "Near duplicate" in house.owner.client.get(house.path("review")).text


def test_without_the_switch_a_text_teaches_at_once(house, tmp_path):
    who = house.person()
    write(house, who)
    assert pending(house.store, house.project.id) == [] and taught(house, tmp_path / "s") == [(TEXT, who.name)]


def test_a_text_given_before_the_switch_waits_once_it_is_revised(house, tmp_path):
    who = house.person()
    number = write(house, who)
    house.settings(review_demonstrations=True)
    assert house.answer(who, number, "second-key", "revise", text="Later.").status_code == 200
    assert [c.text for c in pending(house.store, house.project.id)] == ["Later."]
    assert taught(house, tmp_path / "s") == []


def test_the_desk_is_told_that_a_reviewer_reads_first(house, author):
    assert '"review_demonstrations": true' in author.client.get(house.path("work")).text.replace("&#34;", '"')


def test_the_settings_page_keeps_the_switch(house, author):
    page = house.owner.client.get(house.path("settings")).text
    assert 'name="review_demonstrations" checked' in page


def test_nobody_is_asked_to_rank_beside_a_text_of_her_own_that_waits(house, author):
    write(house, author)
    house.task("rank")
    assert house.next(author) is None and house.next(house.person()) is not None
