"""The page of the run that waits for labels: what it counts, and what it says of what it does not count."""

import dataclasses
import json

import pytest

from tutelage.label.app import create_app
from tutelage.store.adjudications import decide
from tutelage.store.tasks import get_task
from tutelage.types import Adjudication, RankedItem


@pytest.fixture
def waiting(house, tmp_path):
    """The house on a run directory whose first round waits for three labels."""
    entries = {"round-1/labels": {"state": "waiting", "what": "waiting for labels: 0 of 3"}}
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "state.json").write_text(json.dumps({"stages": entries}))
    house.app = create_app(dataclasses.replace(house.config, run=tmp_path / "run"), house.store)
    return house


def test_rankings_count_and_decisions_are_told_apart(waiting):
    house = waiting
    house.settings(overlap=2)
    house.task(overlap=2, texts=["aa", "bb"])
    for i in range(2):
        person = house.person()
        task = house.next(person)
        first = task["cards"][0]["text"] == "aa"
        house.answer(person, task["id"], f"key-{i:06}", tiers=[1, 2] if first == (i == 0) else [2, 1])
    lead, reviewer = house.person("lead"), house.person("reviewer")
    shown = lead.client.get(house.path("run/live")).text
    assert "Waiting for labels: 2 of 3" in shown and "1 more, then the round goes on" in shown
    assert "decision" not in shown
    of = get_task(house.store, house.project.id, 1)
    items = tuple(RankedItem(completion_id=c, tier=t) for t, c in enumerate(of.completions, 1))
    said = Adjudication(items=items, decided=("event:key-000000", "event:key-000001"), rationale="True.")
    decide(house.store, of, reviewer.name, said, key="decision-1")
    shown = lead.client.get(house.path("run")).text
    assert "Waiting for labels: 2 of 3" in shown and "1 decision of reviewers besides" in shown


def test_without_a_run_the_page_says_how_to_have_one(house):
    assert "tutelage label RUN" in house.person("lead").client.get(house.path("run")).text
