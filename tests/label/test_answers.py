"""What a page sends, turned into judgements of completions that the page never knew."""

import pytest
from pydantic import ValidationError

from tutelage.errors import DataError
from tutelage.label.answers import Answer, Skipped, judgements, skip
from tutelage.store.assignments import Held
from tutelage.store.projects import Project, ProjectSettings
from tutelage.store.tasks import Task
from tutelage.types import Adjudication, Completion, Ranking

PROJECT = Project(1, "p", "P", ProjectSettings())
KEY = "key-0001"


def held(kind: str, cards: list[list[str]]) -> Held:
    ids = tuple(sorted(i for card in cards for i in card))
    of = Task(1, 1, kind, "round-1", "prompt", ids, 1, 1, 0.0, None, False, "open")
    return Held("a", of, "ann", "leased", cards, 0, 0, None, 0, "random", 1.0, False, None, None)


def made(kind, cards, **body):
    texts = [f"text of {card[0]}" for card in cards]
    return judgements(Answer(key=KEY, **body), held(kind, cards), PROJECT, texts, "guide")


def test_cards_are_translated_back_by_the_order_in_which_they_were_shown():
    found = made("rank", [["c"], ["a"], ["b"]], tiers=(2, 1, 3))
    (feedback,) = found.feedbacks
    assert {i.completion_id: i.tier for i in feedback.judgement.items} == {"a": 1, "b": 3, "c": 2}
    assert feedback.shown == ("c", "a", "b") and feedback.guideline == "guide" and feedback.source == "round-1"
    assert found.tiers == (2, 1, 3)


def test_completions_of_one_text_are_one_card_and_tie():
    (feedback,) = made("rank", [["a", "b"], ["c"]], tiers=(1, 2)).feedbacks
    assert {i.completion_id: i.tier for i in feedback.judgement.items} == {"a": 1, "b": 1, "c": 2}
    assert feedback.shown == ("a", "b", "c")


@pytest.mark.parametrize(
    ("outcome", "tiers", "none"),
    [("left", (1, 2), False), ("right", (2, 1), False), ("tie", (1, 1), False), ("both_bad", (1, 1), True)],
)
def test_each_outcome_of_a_comparison(outcome, tiers, none):
    j = made("compare", [["b"], ["a"]], outcome=outcome, strength=2).feedbacks[0].judgement
    assert isinstance(j, Ranking) and tuple(i.tier for i in j.items) == tiers
    assert j.none_acceptable is none and j.strength == 2


def test_keys_follow_from_the_answers_own_so_that_sent_twice_is_one():
    body = {
        "tiers": (1, 2), "ratings": {"overall": (7, None)}, "flags": ({"card": None, "category": "false"},),
        "critiques": ({"card": 1, "text": " x "},), "corrections": ({"card": 0, "text": " new "},),
    }  # fmt: skip
    found = made("rank", [["a"], ["b"]], **body)
    assert [f.idempotency_key for f in found.feedbacks] == [KEY, *(f"{KEY}:{i}" for i in range(1, 5))]
    assert [f.judgement.kind for f in found.feedbacks] == ["ranking", "correction", "rating", "flag", "critique"]
    assert found == made("rank", [["a"], ["b"]], **body)
    _, correction, rating, flag, critique = (f.judgement for f in found.feedbacks)
    assert (rating.completion_id, rating.value) == ("a", 7.0) and flag.completion_id is None
    assert critique.text == "x" and critique.completion_id == "b"
    (written,) = found.written
    assert written.text == "new" and written.parent == "a" and written.origin == "edited"
    assert correction.corrected_id == written.id


def test_a_demonstration_is_a_completion_by_a_person():
    found = made("demonstrate", [], text="  An ideal answer.\n")
    assert found.written == [Completion(prompt_id="prompt", text="An ideal answer.", origin="human")]
    assert found.feedbacks[0].judgement.completion_id == found.written[0].id


def test_a_rating_of_a_merged_card_is_one_of_each_completion():
    found = made("rank", [["a", "b"], ["c"]], tiers=(1, 2), ratings={"overall": (5, 3)})
    assert [(f.judgement.completion_id, f.judgement.value) for f in found.feedbacks[1:]] == [
        ("a", 5),
        ("b", 5),
        ("c", 3),
    ]


@pytest.mark.parametrize(
    ("kind", "body", "why"),
    [
        ("rank", {}, "2 answers were shown, and 0 have a place"),
        ("rank", {"tiers": (1,)}, "2 answers were shown, and 1 have a place"),
        ("rank", {"tiers": (1, 3)}, "gap"),
        ("compare", {}, "Neither side"),
        ("demonstrate", {}, "no text yet"),
        ("correct", {"text": "x"}, "no card None"),
        ("correct", {"text": "text of a", "card": 0}, "as it was"),
        ("critique", {}, "no critique yet"),
        ("critique", {"critiques": ({"card": 0, "text": " "},)}, "no words yet"),
        ("chat", {"text": "x"}, "not answered here"),
    ],
)
def test_what_is_missing_is_said(kind, body, why):
    with pytest.raises(DataError, match=why):
        made(kind, [["a"], ["b"]], **body)


@pytest.mark.parametrize(
    "body", [{"key": "x"}, {"key": KEY, "extra": 1}, {"key": KEY, "card": -1}, {"key": KEY, "outcome": "x"},
             {"key": KEY, "text": ""}, {"key": KEY, "client_at": "x" * 41}]
)  # fmt: skip
def test_the_door_is_narrow(body):
    with pytest.raises(ValidationError):
        Answer(**body)


def test_a_skip_keeps_its_reason_and_what_was_shown():
    feedback = skip(Skipped(key=KEY, reason="broken", note="no end"), held("rank", [["b"], ["a"]]))
    assert feedback.judgement.reason == "broken: no end" and feedback.shown == ("b", "a")
    assert skip(Skipped(key=KEY, reason="other"), held("rank", [])).judgement.reason == "other"


def test_no_answer_of_a_labeller_is_a_decision_of_a_reviewer():
    assert not any(isinstance(f.judgement, Adjudication) for f in made("rank", [["a"], ["b"]], tiers=(1, 2)).feedbacks)
