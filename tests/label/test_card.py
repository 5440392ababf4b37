"""The data card: counted from the judgements that stand, with nobody's name on it."""

import json

import pytest

from tutelage import __version__
from tutelage.label.card import data_card, readable
from tutelage.label.quality import Figures
from tutelage.store.feedback import head
from tutelage.store.lineage import add_model_version
from tutelage.store.projects import publish_guideline
from tutelage.store.tasks import NewTask, add_tasks
from tutelage.types import Completion, Message, ModelVersion, Prompt


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
            "alpha_nominal": None, "alpha_ordinal": None, "kendall_w": None, "kendall_tau": None,
        },
        "models": [{"id": "m|1", "texts": 1, "stage": None, "weights_sha": None, "parent": None, "snapshot": None}],
    }  # fmt: skip
    assert "| a\\|b c | ranking | 1 |" in readable(card)
    assert "| m\\|1 | 1 | not known | not known | not known | not known |" in readable(card)


def test_a_card_says_what_each_model_is_and_how_far_people_agree_beyond_chance(house):
    house.settings(overlap=2)
    add_model_version(house.store, ModelVersion(id="base-1", stage="base", weights_sha="b" * 64))
    sft = ModelVersion(id="sft-1", stage="sft", weights_sha="a" * 64, parent="base-1", snapshot="c" * 64)
    add_model_version(house.store, sft)
    prompt = Prompt(messages=(Message(role="user", content="q"),), source="round-1")
    models = ["sft-1", "sft-1", "unheard-of"]
    texts = [
        Completion(prompt_id=prompt.id, text=t, origin="model", model_version=m, sample=i)
        for i, (t, m) in enumerate(zip("abc", models, strict=True))
    ]
    made = NewTask(kind="rank", prompt=prompt, completions=tuple(texts), source="round-1", overlap=2)
    add_tasks(house.store, house.project.id, [made])
    for person, places in ((house.person(), {"a": 1, "b": 2, "c": 3}), (house.person(), {"a": 1, "b": 3, "c": 2})):
        held = house.next(person)
        tiers = [places[card["text"]] for card in held["cards"]]
        house.answer(person, held["id"], person.name.ljust(20, "k")[:20].replace(" ", "-"), tiers=tiers)
    card = data_card(house.store, house.project, ["round-1"], "")
    told = {"stage": "sft", "weights_sha": "a" * 64, "parent": "base-1", "snapshot": "c" * 64}
    assert card["models"] == [
        {"id": "sft-1", "texts": 2, **told},
        {"id": "unheard-of", "texts": 1, **dict.fromkeys(told)},
    ]
    # Of three pairs one is reversed. W: sums of ranks 2, 5, 5 -> S 6 of at most 8; tau (2 - 1) / 3.
    agreement = card["agreement"]
    assert (agreement["kendall_w"]["value"], agreement["kendall_w"]["units"]) == (pytest.approx(6 / 8), 1)
    assert agreement["kendall_tau"]["value"] == pytest.approx(1 / 3)
    assert agreement["alpha_nominal"]["units"] == agreement["alpha_ordinal"]["units"] == 3
    # As that of the quality page, which counts the same answers by task.
    assert agreement["alpha_nominal"]["value"] == pytest.approx(
        Figures().of(house.store, house.project.id, None).alpha_nominal.found.value
    )
    assert "| sft-1 | 2 | sft |" in readable(card) and "Kendall's W of rankings of three and more: 0.750" in readable(
        card
    )
