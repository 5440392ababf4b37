"""Disagreements over HTTP: who may decide, that a decision is an event beside the rankings, and the guideline."""

import json
import re

import pyarrow.parquet as pq
import pytest

from tutelage.exchange import export_file
from tutelage.store.chain import verify_chain
from tutelage.store.feedback import count, current
from tutelage.store.projects import guideline, publish_guideline

EVIL = "<script>alert(1)</script> **bold**"


def split(house, question="Can I move my booking?", *, texts=("aa", "bb", "cc"), key="key-0"):
    """A task that two people rank in opposite orders: aa bb cc, and cc bb aa."""
    house.settings(overlap=2)
    house.task(overlap=2, texts=list(texts), question=question)
    people = [house.person(), house.person()]
    for i, person in enumerate(people):
        task = house.next(person)
        places = [texts.index(card["text"]) + 1 for card in task["cards"]]
        tiers = [len(texts) + 1 - p for p in places] if i else places
        assert house.answer(person, task["id"], f"{key}-{i:06}", tiers=tiers).status_code == 200
    return people


def form(page, *places, why="The first one is true."):
    """The fields of the decision form as a browser would send them."""
    hidden = {name: re.search(rf'name="{name}" value="([^"]*)"', page)[1] for name in ("mark", "key")}
    return {**hidden, **{f"place_{letter}": str(p) for letter, p in zip("ABC", places, strict=False)}, "rationale": why}


def decide(house, person, number=1, *places, **more):
    page = person.client.get(house.path(f"disagreements/{number}")).text
    return house.post(person.client, house.path(f"disagreements/{number}"), form(page, *(places or (1, 2, 3)), **more))


def test_labellers_do_not_see_what_others_said(house):
    people = split(house)
    for path in ("disagreements", "disagreements/1"):
        for labeller in (people[0], house.person()):  # whether she judged the task or not
            assert labeller.client.get(house.path(path)).status_code == 403
        assert (
            house.person("reviewer", house.another_project(f"P{len(path)}")).client.get(house.path(path)).status_code
            == 404
        )
        for role in ("reviewer", "lead"):
            assert house.person(role).client.get(house.path(path)).status_code == 200


def test_the_list_shows_conflicts_alone_and_the_page_shows_who_said_what(house):
    ann, bob = split(house)
    house.task(overlap=2, texts=["x", "y"], question="All agree here?")
    for i, person in enumerate((ann, bob)):
        task = house.next(person)
        tiers = [1, 2] if task["cards"][0]["text"] == "x" else [2, 1]
        house.answer(person, task["id"], f"agree-{i:04}", tiers=tiers)
    reviewer = house.person("reviewer")
    listed = reviewer.client.get(house.path("disagreements")).text
    assert "Can I move my booking?" in listed and "All agree here?" not in listed and "(3 of 3)" in listed
    shown = reviewer.client.get(house.path("disagreements/1")).text
    assert ann.name in shown and bob.name in shown and "@example.org" not in shown
    assert shown.count('class="disputed"') == 6 and "A before B" in shown
    assert reviewer.client.get(house.path("disagreements/2")).status_code == 404


def test_what_people_wrote_of_an_answer_stands_under_it(house):
    """Under the card of its text, whichever of two equal texts it was written of, and as text."""
    texts, people = ("aa", "aa ", "bb"), [house.person(), house.person()]
    house.settings(overlap=2)
    house.task(overlap=2, texts=list(texts))
    for i, person in enumerate(people):
        task = house.next(person)
        at = [card["text"].strip() for card in task["cards"]].index("aa")
        said = [{"card": at, "text": f"{EVIL} says {i}"}] if i else []
        tiers = [1, 2] if (at == 0) == (i == 0) else [2, 1]
        assert house.answer(person, task["id"], f"key-{i:06}", tiers=tiers, critiques=said).status_code == 200
    shown = house.person("reviewer").client.get(house.path("disagreements/1")).text
    under = re.search(r'<article id="answer-A".*?</article>', shown, re.S)[0]
    assert f"<strong>{people[1].name}</strong> writes:" in under and "&lt;script&gt;alert(1)" in under
    assert (
        "writes:" not in re.search(r'<article id="answer-B".*?</article>', shown, re.S)[0] and "<script>" not in shown
    )


def test_a_decision_is_a_new_event_and_the_raw_rankings_stay(house, tmp_path):
    split(house)
    publish_guideline(house.store, house.project.id, "Be kind.")
    reviewer = house.person("reviewer")
    answer = decide(house, reviewer, 1, 1, 3, 3)
    assert answer.status_code == 303
    first, second, made = current(house.store)
    assert [s.feedback.judgement.kind for s in (first, second, made)] == ["ranking", "ranking", "adjudication"]
    judged = made.feedback.judgement
    assert [i.tier for i in judged.items] == [1, 2, 2] and judged.rationale == "The first one is true."
    assert set(judged.decided) == {"event:key-0-000000", "event:key-0-000001"}
    assert made.feedback.labeler == reviewer.name and made.feedback.source == "round-1"
    assert made.feedback.guideline == guideline(house.store, house.project.id).id
    verify_chain(house.store)
    export_file(house.store, tmp_path / "r.jsonl", format="rankings")
    told = [json.loads(line).get("decides") for line in (tmp_path / "r.jsonl").read_text().splitlines()]
    assert told == [None, None, list(judged.decided)], "a decision is told apart from the rankings"
    export_file(house.store, tmp_path / "p.parquet", format="pairs")
    pairs = pq.read_table(tmp_path / "p.parquet").to_pylist()
    assert [row["decides"] for row in pairs] == [None] * 6 + [list(judged.decided)] * 2, "of three pairs one is a tie"
    assert [row["policy"] for row in pairs] == ["random"] * 6 + [None] * 2, "a reviewer chose for herself"
    assert "Can I move my booking?" not in reviewer.client.get(house.path("disagreements")).text
    assert f"decided by {reviewer.name}" in reviewer.client.get(house.path("disagreements?show=decided")).text


def test_a_form_sent_twice_is_one_decision_and_a_second_thought_replaces_the_first(house):
    split(house)
    reviewer = house.person("reviewer")
    path = house.path("disagreements/1")
    sent = form(reviewer.client.get(path).text, 1, 2, 3)
    assert [house.post(reviewer.client, path, sent).status_code for _ in range(2)] == [303, 303]
    assert count(house.store, kind="adjudication") == 1
    assert decide(house, reviewer, 1, 3, 2, 1).status_code == 303
    (now,) = current(house.store, kinds=["adjudication"])
    assert [i.tier for i in now.feedback.judgement.items] == [3, 2, 1] and now.feedback.supersedes == 3


def test_nobody_decides_her_own_task_nor_another_reviewers(house):
    split(house)
    house.task(overlap=2, texts=["p", "q"], question="Hers?")
    reviewer, other = house.person("reviewer"), house.person("reviewer")
    assert house.next(reviewer) is not None
    task = 2
    page = other.client.get(house.path("disagreements/1")).text
    assert decide(house, reviewer).status_code == 303
    assert house.post(other.client, house.path("disagreements/1"), form(page, 3, 2, 1)).status_code == 409
    assert "can change the decision" in other.client.get(house.path("disagreements/1")).text
    held = house.next(reviewer)
    house.answer(reviewer, held["id"], "key-reviewer", tiers=[1, 2])
    person = house.person()
    mine = house.next(person)
    same = [c["text"] for c in mine["cards"]] == [c["text"] for c in held["cards"]]
    house.answer(person, mine["id"], "key-person", tiers=[2, 1] if same else [1, 2])
    path = house.path(f"disagreements/{task}")
    assert reviewer.client.get(path).status_code == 403
    shown = other.client.get(path).text
    assert house.post(reviewer.client, path, form(shown, 1, 2)).status_code == 403
    assert count(house.store, kind="adjudication") == 1


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"place_B": ""}, 422),
        ({"place_B": "0"}, 422),
        ({"place_B": "12"}, 422),
        ({"place_B": "²"}, 422),
        ({"rationale": "  "}, 422),
        ({"rationale": "x" * 5001}, 422),
        ({"mark": "0" * 20}, 409),
        ({"key": "a:b"}, 422),
    ],
)
def test_a_form_that_cannot_be_stores_nothing(house, change, status):
    split(house)
    reviewer = house.person("reviewer")
    path = house.path("disagreements/1")
    sent = form(reviewer.client.get(path).text, 1, 2, 3) | change
    assert house.post(reviewer.client, path, sent).status_code == status
    assert count(house.store, kind="adjudication") == 0


def test_an_answer_revised_meanwhile_is_not_decided_unseen(house):
    _, bob = split(house)
    reviewer = house.person("reviewer")
    path = house.path("disagreements/1")
    sent = form(reviewer.client.get(path).text, 1, 2, 3)
    from tutelage.store.assignments import history

    (held,) = history(house.store, house.project.id, bob.name)
    order = [house_text(house, card[0]) for card in held.cards]
    tiers = [{"aa": 2, "bb": 1, "cc": 3}[t] for t in order]
    assert house.answer(bob, held.id, "key-revised", "revise", tiers=tiers).status_code == 200
    assert house.post(reviewer.client, path, sent).status_code == 409
    assert decide(house, reviewer).status_code == 303


def house_text(house, completion):
    from tutelage.store.completions import get_completion

    return get_completion(house.store, completion).text


def test_the_list_goes_on_where_a_page_ended(house, monkeypatch):
    monkeypatch.setattr("tutelage.label.pages.disagreements.PAGE", 2)
    for i in range(5):
        split(house, f"Question {i}?", key=f"key-{i}")
    reviewer, seen, path = house.person("reviewer"), [], "disagreements"
    while path:
        text = reviewer.client.get(house.path(path)).text
        seen += re.findall(r"Question \d\?", text)
        more = re.search(r'href="/p/house/([^"]*after=[^"]*)"', text)
        path = more[1].replace("&amp;", "&") if more else ""
    assert seen == [f"Question {i}?" for i in range(5)]
    assert reviewer.client.get(house.path("disagreements?after=x")).status_code == 422


def test_what_models_and_people_wrote_is_never_markup(house):
    split(house, EVIL, texts=(EVIL, "bb", "cc"))
    reviewer = house.person("reviewer")
    decide(house, reviewer, why=EVIL)
    lead = house.person("lead")
    for path in ("disagreements?show=decided", "disagreements/1", "disagreements/1/example"):
        text = lead.client.get(house.path(path)).text
        assert "<script>alert" not in text and "&lt;script&gt;alert" in text


def test_a_decision_becomes_an_example_of_the_guideline_once_it_is_confirmed(house):
    split(house)
    publish_guideline(house.store, house.project.id, "Be kind.")
    reviewer, lead = house.person("reviewer"), house.person("lead")
    path = house.path("disagreements/1/example")
    assert lead.client.get(path).status_code == 409  # nothing is decided yet
    assert decide(house, reviewer).status_code == 303
    assert reviewer.client.get(path).status_code == 403
    assert "example" not in reviewer.client.get(house.path("disagreements/1")).text
    shown = lead.client.get(path).text
    assert "## Example: Can I move my booking?" in shown and guideline(house.store, house.project.id).version == 1
    assert house.post(reviewer.client, path, {"text": "mine", "version": "1"}).status_code == 403
    assert house.post(lead.client, path, {"text": "## Example\r\n\r\nB is false.", "version": "1"}).status_code == 303
    newest = guideline(house.store, house.project.id)
    assert (newest.version, newest.text) == (2, "Be kind.\n\n## Example\n\nB is false.")
    assert house.post(lead.client, path, {"text": "again", "version": "1"}).status_code == 409
    assert house.post(lead.client, path, {"text": " \x00 ", "version": "2"}).status_code == 422
    assert guideline(house.store, house.project.id).version == 2


def test_an_example_can_be_the_first_guideline(house):
    split(house)
    decide(house, house.person("reviewer"))
    sent = {"text": "## Example", "version": "0"}
    assert house.post(house.owner.client, house.path("disagreements/1/example"), sent).status_code == 303
    assert guideline(house.store, house.project.id).text == "## Example"
