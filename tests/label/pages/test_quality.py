"""The quality page over HTTP: who sees it, what it says, and that it shows pseudonyms alone."""

import json
import re

import pytest

from tutelage.label.app import create_app


def ranked_by(house, *tiers_of):
    """One task, ranked by as many new people; their pseudonyms."""
    house.settings(overlap=len(tiers_of))
    house.task(overlap=len(tiers_of), texts=["aa", "bb"])
    people = [house.person() for _ in tiers_of]
    for i, (person, first) in enumerate(zip(people, tiers_of, strict=True)):
        task = house.next(person)
        tiers = [1, 2] if (task["cards"][0]["text"] == "aa") == (first == "aa") else [2, 1]
        assert house.answer(person, task["id"], f"key-{i:06}", tiers=tiers).status_code == 200
    return [p.name for p in people]


@pytest.mark.parametrize("path", ["quality", "quality.json"])
def test_only_staff_sees_the_figures(house, path):
    assert house.owner.client.get(house.path(path)).status_code == 200
    assert house.person("lead").client.get(house.path(path)).status_code == 200
    for role in ("reviewer", "labeller"):
        assert house.person(role).client.get(house.path(path)).status_code == 403
    assert house.stranger().client.get(house.path(path)).status_code == 404
    assert house.nobody().get(house.path(path)).status_code in (303, 401)
    other = house.another_project()
    assert house.person("lead", other).client.get(house.path(path)).status_code == 404


def test_an_empty_project_says_what_will_come(house):
    text = house.owner.client.get(house.path("quality")).text
    assert "Nobody has answered a task yet" in text


def test_the_page_shows_agreement_and_pseudonyms_and_no_address(house):
    names = ranked_by(house, "aa", "aa", "bb")
    text = house.owner.client.get(house.path("quality")).text
    assert "Same choice" in text and "33 %" in text
    assert "too few tasks for a range" in text and "33–33" not in text  # one task alone says nothing of its spread
    assert all(name in text for name in names)
    assert "@example.org" not in text and "nan" not in text.lower()


def test_the_least_agreed_tasks_are_linked(house):
    ranked_by(house, "aa", "bb")
    house.task(overlap=2, texts=["aa", "bb"], question="Nobody has ranked this one.")
    text = house.owner.client.get(house.path("quality")).text
    (link,) = re.findall(r'href="([^"]*/tasks/\d+)">Task \d+</a></th><td>rank</td><td class="num">2</td>', text)
    assert house.owner.client.get(link).status_code == 200


def test_unanimity_is_said_in_words(house):
    ranked_by(house, "aa", "aa")
    assert "undefined: everyone gave the same answer" in house.owner.client.get(house.path("quality")).text


def test_json_holds_the_same_figures(house):
    names = ranked_by(house, "aa", "bb")
    answer = house.owner.client.get(house.path("quality.json"))
    found = json.loads(answer.text)
    assert found["agreed"]["half"] == {"value": 0.0, "low": 0.0, "high": 0.0, "n": 1}
    assert sorted(names) == [p["labeler"] for p in found["people"]]
    assert found["answers"] == 2 and "example.org" not in answer.text


def test_a_new_answer_is_counted_at_once_in_a_small_project(house):
    ranked_by(house, "aa")
    seen = house.owner.client.get(house.path("quality.json")).json()["answers"]
    house.task(texts=["cc", "dd"], question="And the pool?", overlap=1)
    person = house.person()
    house.answer(person, house.next(person)["id"], "key-later", tiers=[1, 2])
    after = house.owner.client.get(house.path("quality.json")).json()["answers"]
    assert (seen, after) == (1, 2)


def test_the_reward_model_of_the_run_stands_beside_the_person(house, tmp_path):
    import dataclasses

    from fastapi.testclient import TestClient

    (name,) = ranked_by(house, "aa")
    folder = tmp_path / "run" / "round-1" / "reward-0"
    folder.mkdir(parents=True)
    person = {"n": 40, "accuracy": 0.77, "low": 0.6, "high": 0.9}
    whole = {"accuracy": 0.71, "accuracy_low": 0.6, "accuracy_high": 0.8, "n": 90, "by_labeler": {name: person}}
    (folder / "reward.json").write_text(json.dumps({"card": whole}), "utf-8")
    app = create_app(dataclasses.replace(house.config, run=tmp_path / "run"), house.store)
    client = TestClient(app, base_url=house.config.address, cookies=dict(house.owner.client.cookies))
    text = client.get(house.path("quality")).text
    assert "Reward model" in text and "77 %" in text and "71 %" in text and "round-1/reward-0" in text


def test_a_version_with_a_hostile_name_is_text(house):
    from tutelage.store.tasks import NewTask, add_tasks
    from tutelage.types import Completion, Message, Prompt

    prompt = Prompt(messages=(Message(role="user", content="Hi"),), source="round-1")
    evil = "<img src=x onerror=alert(1)>"
    two = tuple(Completion(prompt_id=prompt.id, text=t, sample=i, model_version=v)
                for i, (t, v) in enumerate((("a", evil), ("b", "sft"))))  # fmt: skip
    add_tasks(house.store, house.project.id, [NewTask(kind="rank", prompt=prompt, completions=two, source="round-1")])
    person = house.person()
    house.answer(person, house.next(person)["id"], "key-of-hers", tiers=[1, 2])
    text = house.owner.client.get(house.path("quality")).text
    assert evil not in text and "&lt;img src=x" in text
