"""The list of tasks, one task, checks, and files on their way in."""

import json
import re

import pytest

from tutelage.label.uploads import FOLDER
from tutelage.store.access import audit_trail
from tutelage.store.candidates import counts as proposals
from tutelage.store.feedback import count
from tutelage.store.tasks import get_task, list_tasks

TASK = {"prompt": "Name a river.", "completions": ["The Rhine.", {"text": "Rome.", "model": "sft-1"}]}
PAIR = {"prompt": "Why?", "chosen": "Because.", "rejected": "No."}


def jsonl(*rows: object) -> bytes:
    return "".join(json.dumps(r) + "\n" for r in rows).encode()


def bring(house, client, data: bytes, name: str = "mine.jsonl", **form: str):
    return house.post(client, house.path("tasks/upload"), form, files={"file": (name, data)})


def token_of(page) -> str:
    found = re.search(r"/tasks/upload/([0-9a-f]{32})/take", page.text)
    assert found, page.text
    return found.group(1)


def take(house, client, page, rows: str = "good"):
    return house.post(client, house.path(f"tasks/upload/{token_of(page)}/take"), {"rows": rows})


def tasks_of(house, **more: object):
    return [t for t, _ in list_tasks(house.store, house.project.id, **more)]


# The list.


def test_the_list_shows_the_newest_first_page_by_page(house):
    for i in range(53):
        house.task("compare", question=f"question {i}")
    client = house.person("lead").client
    first = client.get(house.path("tasks")).text
    assert "question 52" in first and "question 3" in first and "question 2<" not in first
    more = re.search(r'href="(\?before=[^"]*)"', first)
    assert more
    second = client.get(house.path("tasks") + more.group(1).replace("&amp;", "&")).text
    assert "question 2<" in second and "question 0" in second and "question 52" not in second
    assert "Older tasks" not in second


def test_the_list_is_filtered_by_kind_and_state(house):
    house.task("rank", question="ranked one")
    house.task("demonstrate", question="written one")
    house.task("compare", question="checked one", gold={"tiers": [1, 2]})
    client = house.owner.client
    assert "written one" not in client.get(house.path("tasks?kind=rank")).text
    only = client.get(house.path("tasks?show=checks")).text
    assert "checked one" in only and "ranked one" not in only
    assert "There are no such tasks" in client.get(house.path("tasks?show=closed")).text


@pytest.mark.parametrize("query", ["kind=poll", "show=1 or 1=1", "before=0", "before=99999999999999999999", "before=x"])
def test_a_filter_outside_its_set_is_refused(house, query):
    assert house.owner.client.get(house.path(f"tasks?{query}")).status_code == 422


def test_progress_counts_tasks_and_answers_by_source(house):
    house.task("compare", overlap=3)
    house.task("compare", question="other", gold={"tiers": [1, 2]})
    person = house.person()
    house.answer(person, house.next(person)["id"], "a" * 20, outcome="tie")
    part = house.owner.client.get(house.path("tasks/progress")).text
    assert "round-1" in part and "1 of 3" in part and "<html" not in part
    assert "by how their tasks were chosen: random: 1." in part


def test_the_list_is_for_owners_and_leads(house):
    for role, status in (("lead", 200), ("reviewer", 403), ("labeller", 403)):
        client = house.person(role).client
        assert client.get(house.path("tasks/progress")).status_code == status
        assert client.get(house.path("tasks")).status_code == status
        assert client.get(house.path("tasks/upload")).status_code == status
    assert house.stranger().client.get(house.path("tasks")).status_code == 404


def test_ticked_tasks_are_closed_and_opened_again(house):
    for i in range(3):
        house.task("compare", question=f"q{i}")
    first, *_ = numbers = [t.id for t in tasks_of(house)]
    client = house.owner.client
    assert house.post(client, house.path("tasks/state"), {"state": "closed", "task": numbers[:2]}).status_code == 303
    assert [t.id for t in tasks_of(house, show="closed")] == numbers[:2]
    house.post(client, house.path("tasks/state"), {"state": "open", "task": first})
    assert len(tasks_of(house, show="open")) == 2
    assert house.post(client, house.path("tasks/state"), {"state": "closed"}).status_code == 422
    assert house.post(client, house.path("tasks/state"), {"state": "gone", "task": first}).status_code == 422
    assert house.post(client, house.path("tasks/state"), {"state": "closed", "task": 2**63}).status_code == 422


def test_a_task_of_another_project_is_neither_seen_nor_closed(house):
    other = house.another_project()
    house.task("rank", project=other)
    number = list_tasks(house.store, other.id)[0][0].id
    client = house.person("lead").client
    assert client.get(house.path(f"tasks/{number}")).status_code == 404
    house.post(client, house.path("tasks/state"), {"state": "closed", "task": number})
    assert house.post(client, house.path(f"tasks/{number}/check"), {"tier": [1, 2, 3, 4]}).status_code == 404
    found = get_task(house.store, other.id, number)
    assert found is not None and found.state == "open"


# One task.


def test_one_task_shows_its_models_and_who_said_what(house):
    house.task("compare", texts=["left one", "right <b>one</b>"])
    person = house.person()
    held = house.next(person)
    house.answer(person, held["id"], "a" * 16, outcome="left", active_ms=4200)
    page = house.owner.client.get(house.path(f"tasks/{tasks_of(house)[0].id}")).text
    assert person.name in page and "left one" in page and "&lt;b&gt;" in page and "<b>one" not in page
    assert house.person("reviewer").client.get(house.path(f"tasks/{tasks_of(house)[0].id}")).status_code == 403
    assert house.owner.client.get(house.path("tasks/999")).status_code == 404


def test_a_check_is_made_of_a_task_hidden_or_for_practice(house):
    house.task("rank")
    number, client = tasks_of(house)[0].id, house.owner.client
    path = house.path(f"tasks/{number}/check")
    assert house.post(client, path, {"tier": [2, 1, 1, 3]}).status_code == 303
    told = {"tier": [1, 2, 3, 4], "practice": "true", "explanation": "The first one answers."}
    assert house.post(client, path, told).status_code == 303
    practice, hidden = tasks_of(house, show="checks")
    assert (hidden.gold, hidden.is_practice) == ({"tiers": [2, 1, 1, 3]}, False)
    assert practice.gold == {"tiers": [1, 2, 3, 4], "explanation": "The first one answers."} and practice.is_practice
    assert hidden.source == "house/made/checks"
    assert "The first one answers." in client.get(house.path(f"tasks/{practice.id}")).text


@pytest.mark.parametrize(
    "form",
    [
        {"tier": [1, 2, 3]},
        {"tier": [1, 2, 4, 5]},
        {"tier": [0, 1, 2, 3]},
        {"tier": ["a", "b", "c", "d"]},
        {"tier": [1, 2, 3, 4], "practice": "true"},
        {},
    ],
)
def test_a_check_that_is_no_order_is_refused(house, form):
    house.task("rank")
    assert house.post(house.owner.client, house.path("tasks/1/check"), form).status_code == 422
    assert tasks_of(house, show="checks") == []


def test_a_check_of_what_is_no_ranking_is_refused(house):
    house.task("critique")
    assert house.post(house.owner.client, house.path("tasks/1/check"), {"tier": [1, 1]}).status_code == 422


# Files.


def test_a_file_is_looked_through_first_and_stored_when_it_is_taken(house):
    client = house.person("lead").client
    page = bring(house, client, jsonl(TASK, {**TASK, "overlap": "many"}, TASK))
    assert page.status_code == 200
    assert ("line 2" in page.text and "expected 1 to 50" in page.text) or "got &#39;many&#39;" in page.text
    assert tasks_of(house) == []
    done = take(house, client, page)
    assert done.status_code == 200 and "was taken" in done.text
    (made,) = tasks_of(house)
    assert (made.kind, made.source, len(made.completions)) == ("compare", "house/mine", 2)
    assert not list((house.config.data / FOLDER).iterdir())
    again = bring(house, client, jsonl(TASK))
    assert "Every row is there already" in again.text
    assert any(e.action == "file taken" for e in audit_trail(house.store, house.project.id))


def test_all_or_nothing_takes_nothing_of_a_file_with_one_bad_row(house):
    client = house.owner.client
    page = bring(house, client, jsonl(TASK, {"prompt": ""}))
    refused = take(house, client, page, "all")
    assert refused.status_code == 422 and "nothing was stored" in refused.text
    assert tasks_of(house) == []
    assert take(house, client, page, "good").status_code == 200
    assert len(tasks_of(house)) == 1


@pytest.mark.parametrize(
    ("rows", "kinds"),
    [
        ([{"prompt": "q"}], ["demonstrate"]),
        ([{"prompt": "q", "completions": ["a"]}], ["correct"]),
        ([PAIR], ["compare"]),
        ([{"prompt": "q", "completions": [{"text": t, "tier": i} for i, t in enumerate("abcd", 1)]}], ["rank"]),
        ([{"prompt": "q", "completions": ["a", "b", "c"], "kind": "critique"}], ["critique"]),
    ],
)
def test_tasks_are_made_of_what_a_row_is_good_for(house, rows, kinds):
    take(house, house.owner.client, bring(house, house.owner.client, jsonl(*rows)))
    assert [t.kind for t in tasks_of(house)] == kinds


def test_the_order_that_a_file_gives_is_forgotten(house):
    rows = [{**PAIR, "chosen": a, "rejected": b} for a, b in (("alpha", "beta"), ("beta", "alpha"))]
    page = bring(house, house.owner.client, jsonl(*rows))
    take(house, house.owner.client, page)
    assert len(tasks_of(house)) == 1, "the two say the same but for the order"
    assert count(house.store) == 0


def test_judgements_go_into_the_log_under_the_projects_name(house):
    client = house.owner.client
    page = bring(
        house, client, jsonl(PAIR, {**PAIR, "source": "elsewhere/theirs", "rejected": "Never."}), what="judgements"
    )
    assert take(house, client, page).status_code == 200
    assert count(house.store, sources=["house/mine"]) == 2
    assert tasks_of(house) == []


def test_demonstrations_go_into_the_review_queue(house):
    client = house.owner.client
    rows = [
        {"prompt": "q", "completion": "Call me at jo@example.org."},
        {"messages": [{"role": "user", "content": "q"}]},
    ]
    page = bring(house, client, jsonl(*rows), what="demonstrations", by="model")
    take(house, client, page)
    assert proposals(house.store, house.project.id) == {"pending": 1}
    assert count(house.store) == 0


@pytest.mark.parametrize("name", ["a.exe", "a", "../../x.pickle"])
def test_a_file_of_no_known_kind_is_refused_by_name(house, name):
    page = bring(house, house.owner.client, jsonl(TASK), name)
    assert page.status_code == 422 and "its name ends in none of" in page.text


def test_a_form_without_a_file_or_with_an_unknown_choice_is_refused(house):
    client = house.owner.client
    assert house.post(client, house.path("tasks/upload"), {"what": "tasks"}).status_code == 422
    assert bring(house, client, jsonl(TASK), what="everything").status_code == 422
    assert bring(house, client, jsonl(TASK), format="pickle").status_code == 422
    assert bring(house, client, jsonl(TASK), source="x" * 81).status_code == 422


def test_only_the_one_who_brought_a_file_can_take_or_drop_it(house):
    page = bring(house, house.person("lead").client, jsonl(TASK))
    other = house.person("lead").client
    assert take(house, other, page).status_code == 404
    assert house.post(other, house.path(f"tasks/upload/{token_of(page)}/drop")).status_code == 404
    assert house.post(other, house.path(f"tasks/upload/{'0' * 32}/take"), {"rows": "good"}).status_code == 404
    assert house.post(other, house.path("tasks/upload/..%2f..%2fx/take"), {"rows": "good"}).status_code in (404, 422)


def test_a_dropped_file_is_gone(house):
    client = house.owner.client
    page = bring(house, client, jsonl(TASK))
    assert house.post(client, house.path(f"tasks/upload/{token_of(page)}/drop")).status_code == 303
    assert not list((house.config.data / FOLDER).iterdir())
    assert take(house, client, page).status_code == 404


def test_a_file_from_another_site_is_refused(house):
    sent = house.owner.client.post(
        house.path("tasks/upload"), data={"form_mark": "x"}, files={"file": ("a.jsonl", jsonl(TASK))}
    )
    assert sent.status_code == 403


def test_a_file_beyond_the_limit_is_refused_before_it_is_read(house):
    data = b"x" * ((house.config.max_upload_mb << 20) + 1)
    sent = bring(house, house.owner.client, data)
    assert sent.status_code == 413
