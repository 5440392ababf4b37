"""The data card: counted from the judgements that stand, with nobody's name on it."""

import json

from tutelage import __version__
from tutelage.label.card import data_card, readable
from tutelage.store.feedback import head
from tutelage.store.projects import publish_guideline


def test_an_empty_project_has_a_card_that_says_so(house):
    card = data_card(house.store, house.project, [], "")
    assert (card["judgements"], card["labelers"], card["licence"]) == ({}, {}, "not stated")
    assert card["chain"] == {"seq": 0, "hash": ""} and card["made_by"] == f"tutelage {__version__}"
    assert card["agreement"]["ties_count_half"] is None
    assert "not enough to say" in readable(card)


def test_a_card_counts_people_guidelines_and_agreement(house):
    house.settings(overlap=2)
    people = [house.person(email=f"named-{i}@example.org") for i in range(2)]
    tiers = {people[0].name: [1, 2], people[1].name: [1, 2]}
    for n in range(2):
        if n:
            publish_guideline(house.store, house.project.id, "Be brief.")
        house.task("compare", texts=["alpha", "beta"], question=f"q{n}", overlap=2)
        for person in people:
            held = house.next(person)
            left = held["cards"][0]["text"] == "alpha"
            outcome = "left" if left == (tiers[person.name] == [1, 2]) else "right"
            house.answer(person, held["id"], f"{person.name}{n}".ljust(20, "k"), outcome=outcome)
    card = data_card(house.store, house.project, ["round-1"], " MIT ")
    assert card["judgements"] == {"ranking": 4} and card["sources"] == {"round-1": {"ranking": 4}}
    assert card["labelers"] == {"human": {person.name: 2 for person in sorted(people, key=lambda p: p.name)}}
    assert [(g["version"], g["judgements"]) for g in card["guidelines"]] == [(1, 2), (None, 2)]
    assert card["agreement"]["prompts_judged_twice"] == 2
    assert card["agreement"]["ties_are_answers"]["value"] == 1.0
    assert card["chain"]["seq"] == head(house.store).seq == 4
    told = json.dumps(card) + readable(card)
    assert "named-" not in told and "100.0%" in told
    assert data_card(house.store, house.project, [], "")["judgements"] == {}


def test_a_name_with_a_bar_breaks_no_table():
    card = {
        "project": "P", "made_at": "2026-01-05T09:00:00", "made_by": "t", "licence": "x",
        "chain": {"seq": 1, "hash": "h"},
        "sources": {"a|b\nc": {"ranking": 1}}, "labelers": {}, "guidelines": [],
        "agreement": {
            "prompts_judged_twice": 0, "ties_are_answers": None, "ties_count_half": None, "without_ties": None,
        },
    }  # fmt: skip
    assert "| a\\|b c | ranking | 1 |" in readable(card)
