"""The desk over HTTP: what it tells a browser, what it takes from one, and what it takes twice."""

import json

import pytest

from tutelage.store.assignments import history
from tutelage.store.chain import verify_chain
from tutelage.store.feedback import current, events
from tutelage.store.projects import add_member
from tutelage.store.tasks import list_tasks
from tutelage.types import Completion, Message, Prompt

KEY = "key-0001"
ODD = ["\ud800", "\x00", "\u202e", "a" * 30_000, "\U0010ffff"]


def kinds(house) -> list[str]:
    return [e.feedback.judgement.kind for e in events(house.store)]


def given(house, kind="rank", **more):
    """(person, task as her browser sees it) of a task of this kind."""
    house.task(kind, **more)
    who = house.person()
    return who, house.next(who)


# What a browser is told.


def test_a_browser_learns_no_model_no_completion_and_no_sign_of_a_check(house):
    prompt = Prompt(messages=(Message(role="user", content="Which?"),))
    texts = [
        Completion(prompt_id=prompt.id, text=f"t{i}", model_version=f"model-{i}", sample=i, temperature=0.7)
        for i in range(4)
    ]
    house.task(prompt=prompt, completions=tuple(texts), source="round-7")
    house.task(prompt=prompt, completions=tuple(texts), source="round-8", gold={"tiers": [1, 2, 3, 4]})
    house.settings(gold_share=0.5)
    who = house.person()
    shown = [None, None]
    while shown[0] is None:
        shown[0] = house.next(who)
    while shown[1] is None:  # a check comes now and then
        shown[1] = house.next(who, shown[0]["id"])
    known = {frozenset(t) for t in shown}
    assert known == {frozenset(("id", "kind", "state", "practice", "prompt", "cards", "near", "draft"))}
    for task in shown:
        assert {frozenset(c) for c in task["cards"]} == {frozenset(("text", "nodes"))}
        for secret in ("model-", "round-", "gold", "check", "tiers", *(t.id for t in texts)):
            assert secret not in json.dumps(task), secret
    page = who.client.get(house.path("work")).text
    assert "gold" not in page and "repeat_share" not in page and "random_share" not in page


def test_cards_come_in_the_order_that_is_kept_and_stay_in_it(house):
    who, task = given(house)
    first = [c["text"] for c in task["cards"]]
    again = who.client.get(house.path(f"desk/{task['id']}")).json()["task"]
    assert [c["text"] for c in again["cards"]] == first and house.next(who)["id"] == task["id"]
    house.answer(who, task["id"], KEY)
    (said,) = events(house.store)
    of = {c.id: c.text for c in house.task().completions}
    assert [of[i] for i in said.feedback.shown] == first


def test_two_people_do_not_see_the_cards_in_one_order(house):
    house.settings(overlap=50)
    house.task(texts=[f"t{i}" for i in range(8)], overlap=50)
    orders = {tuple(c["text"] for c in house.next(house.person())["cards"]) for _ in range(6)}
    assert len(orders) >= 5


def test_an_empty_desk_says_so(house):
    assert house.next(house.person()) is None


def test_the_page_carries_its_facts_as_data_and_not_as_code(house):
    house.settings(aspects=[{"key": "a", "label": "</script><script>alert(1)</script>"}])
    page = house.person().client.get(house.path("work")).text
    assert "</script><script>alert" not in page and "\\u003c/script\\u003e" in page


# Answers.


def test_an_answer_sent_twice_is_one(house):
    who, task = given(house)
    first = house.answer(who, task["id"], KEY)
    second = house.answer(who, task["id"], KEY)
    assert first.status_code == second.status_code == 200 and first.json() == second.json()
    assert kinds(house) == ["ranking"]


def test_another_answer_under_the_same_key_or_another_is_a_conflict(house):
    who, task = given(house)
    house.answer(who, task["id"], KEY)
    for key in (KEY, "key-0002"):
        assert house.answer(who, task["id"], key, tiers=[4, 3, 2, 1]).status_code == 409
    assert house.answer(who, task["id"], "key-0003", "skip", reason="other").status_code == 409
    assert [i.tier for e in events(house.store) for i in e.feedback.judgement.items] == [1, 2, 3, 4]


def test_a_key_that_another_person_used_is_a_conflict_and_tells_nothing_of_it(house):
    who, task = given(house, overlap=2)
    other = house.person()
    house.answer(who, task["id"], KEY)
    answer = house.answer(other, house.next(other)["id"], KEY)
    assert answer.status_code == 409 and who.name not in answer.text
    assert house.answer(other, house.next(other)["id"], "key-0002").status_code == 200


WRONG = {
    "rank": [
        {"tiers": [1, 2, 3]}, {"tiers": []}, {"tiers": [1, 2, 3, 5]}, {"tiers": [0, 1, 2, 3]}, {"tiers": [2, 2, 2, 2]},
        {"tiers": [1, 2, 3, 4, 5]}, {"tiers": [1, 2, 3, -1]}, {"tiers": None}, {"tiers": [1, 2, 3, 10**30]},
        {"tiers": ["a", 2, 3, 4]}, {"outcome": "left"}, {"text": "x"},
        *({"tiers": [1, 2, 3, 4], **more} for more in (
            {"unknown": 1}, {"ratings": {"x": [1] * 4}}, {"ratings": {"overall": [1, 2, 3]}},
            {"ratings": {"overall": [1, 2, 3, 8]}}, {"flags": [{"card": 7, "category": "false"}]},
            {"flags": [{"card": 0, "category": "nothing"}]}, {"flags": [{"card": 0, "category": "false"}] * 41},
            {"critiques": [{"card": 0, "text": "   "}]}, {"critiques": [{"card": 0, "text": "x", "span": [3, 2]}]},
            {"critiques": [{"card": 0, "text": "x", "span": [0, 10**9]}]}, {"critiques": [{"card": 8, "text": "x"}]},
            {"critiques": [{"card": 8, "text": "x", "span": [0, 1]}]}, {"corrections": [{"card": 0, "text": "  "}]},
            {"corrections": [{"card": 0, "text": "a\x00"}]}, {"active_ms": -1}, {"active_ms": 10**12},
        )),
    ],
    "compare": [{}, {"outcome": "x"}, {"outcome": "left", "strength": 4}],
    "demonstrate": [{}, {"text": "   "}, {"text": "a\x00b"}, {"text": "\ud800"}, {"text": "x" * 20_001}],
    "correct": [{"text": "better"}, {"text": "answer 0", "card": 0}, {"text": "b", "card": 1},
                {"text": " answer 0 ", "card": 0}],
    "critique": [{}, {"critiques": []}, {"critiques": [{"card": 0, "text": "\n"}]}],
}  # fmt: skip


@pytest.mark.parametrize("kind", WRONG)
def test_what_the_task_did_not_ask_is_refused_and_nothing_is_stored(house, kind):
    who, task = given(house, kind)
    for body in WRONG[kind]:
        answer = raw(house, who, task["id"], {"key": KEY, **body})
        assert answer.status_code == 422 and answer.json()["error"], body
    assert kinds(house) == [] and house.next(who)["id"] == task["id"]


def raw(house, who, number, body, verb="answer", method="POST"):
    """Sends JSON with whatever is in it, lone surrogates too."""
    headers = {
        "sec-fetch-site": "same-origin", "x-form-mark": house.mark(who.client), "accept": "application/json",
        "content-type": "application/json",
    }  # fmt: skip
    content = json.dumps(body, allow_nan=True).encode()
    return who.client.request(method, house.path(f"desk/{number}/{verb}"), content=content, headers=headers)


def test_an_odd_key_is_refused(house):
    who, task = given(house)
    for key in ("", "short", "x" * 65, "key 0001", "key:0001", "key-0001\n", "é" * 8, "\ud800" * 8, None, 1):
        assert raw(house, who, task["id"], {"key": key, "tiers": [1, 2, 3, 4]}).status_code == 422, key


def test_an_odd_number_is_refused(house):
    who, _ = given(house)
    for number in ("", "x", "0" * 23, "0" * 25, "G" * 24, "0" * 24 + "%0A", "%00" * 24, "%ff" * 24, "0" * 24, "%2e%2e"):
        assert who.client.get(house.path(f"desk/{number}")).status_code in (404, 405, 422), number


def test_what_is_no_answer_at_all_is_refused(house):
    who, task = given(house)
    headers = {
        "sec-fetch-site": "same-origin",
        "x-form-mark": house.mark(who.client),
        "content-type": "application/json",
    }
    for content in (b"", b"[", b"null", b"[]", b'"x"', b"\xff\xfe", b"{" * 500, b"[" * 100_000, b"NaN"):
        answer = who.client.post(house.path(f"desk/{task['id']}/answer"), content=content, headers=headers)
        assert answer.status_code in (400, 422), content[:20]


@pytest.mark.parametrize("word", ODD, ids=ascii)
def test_odd_words_are_kept_as_they_are_or_refused(house, word):
    who, task = given(house)
    body = {
        "key": KEY, "tiers": [1, 2, 3, 4], "flags": [{"card": 0, "category": "false", "note": word[:2000]}],
        "critiques": [{"card": 1, "text": f"x{word}"}], "corrections": [{"card": 2, "text": f"y{word}"}],
    }  # fmt: skip
    answer = raw(house, who, task["id"], body)
    assert answer.status_code in (200, 422)
    if answer.status_code == 200:
        assert kinds(house) == ["ranking", "correction", "flag", "critique"]
        verify_chain(house.store)
        again = who.client.get(house.path(f"desk/{task['id']}")).json()["task"]["answer"]
        assert again["critiques"][0]["text"] == f"x{word}" and again["flags"][0]["note"] == word[:2000]
    else:
        assert kinds(house) == []


def test_an_odd_draft_comes_back_as_it_was_or_is_refused(house):
    who, task = given(house)
    kept, odd = None, [float("nan"), float("inf"), 10**400, {"a": {"b": ["\ud800"]}}, {"\ud800": 1}, None]
    for value in [*ODD, *odd]:
        answer = raw(house, who, task["id"], {"body": {"text": value}}, "draft", "PUT")
        assert answer.status_code in (200, 422), answer.text
        kept = {"text": value} if answer.status_code == 200 else kept
        shown = who.client.get(house.path(f"desk/{task['id']}"))
        assert shown.status_code == 200 and shown.json()["task"]["draft"] == kept


# Drafts, skips, late answers, revisions.


def test_a_draft_is_there_again_until_the_answer_is(house):
    who, task = given(house)
    path = house.path(f"desk/{task['id']}/draft")
    for body in ({"tiers": [1]}, {"tiers": [1, 2]}):
        assert house.send(who.client, path, {"body": body}, "PUT").status_code == 200
    assert house.next(who)["draft"] == {"tiers": [1, 2]}
    house.answer(who, task["id"], KEY)
    assert house.send(who.client, path, {"body": {}}, "PUT").status_code == 409
    assert who.client.get(house.path(f"desk/{task['id']}")).json()["task"]["draft"] is None


def test_a_skipped_task_goes_to_somebody_else_and_does_not_come_back(house):
    who, task = given(house)
    assert house.answer(who, task["id"], KEY, "skip", reason="distressing", note="n").status_code == 200
    assert house.answer(who, task["id"], KEY, "skip", reason="distressing", note="n").status_code == 200
    assert house.next(who) is None and house.next(house.person()) is not None
    assert [e.feedback.judgement.reason for e in events(house.store)] == ["distressing: n"]
    assert house.answer(who, task["id"], "key-0002", "skip", reason="bored").status_code == 422


def test_an_answer_after_the_lease_is_taken_and_marked(house):
    who, task = given(house)
    house.clock.forward(31 * 60)
    other = house.person()
    theirs = house.next(other)
    assert theirs is not None and theirs["id"] != task["id"]
    assert house.answer(who, task["id"], KEY).status_code == 200
    assert house.answer(other, theirs["id"], "key-0002").status_code == 200
    assert [h.is_late for h in history(house.store, house.project.id, who.name)] == [True]
    assert [h.is_late for h in history(house.store, house.project.id, other.name)] == [False]
    assert house.next(house.person()) is None


def test_a_lease_that_is_renewed_stays(house):
    who, task = given(house)
    for _ in range(4):
        house.clock.forward(20 * 60)
        assert house.send(who.client, house.path(f"desk/{task['id']}/renew"), {}).json() == {"held": True}
        assert house.next(house.person()) is None
    house.answer(who, task["id"], KEY)
    assert house.send(who.client, house.path(f"desk/{task['id']}/renew"), {}).json() == {"held": False}


def test_a_revision_is_a_new_event_and_the_old_one_stays(house):
    who, task = given(house)
    house.answer(who, task["id"], KEY)
    for _ in range(2):  # sent twice
        assert house.answer(who, task["id"], "revise-1", "revise", tiers=[4, 3, 2, 1]).status_code == 200
    assert kinds(house) == ["ranking", "ranking"]
    (now,) = current(house.store)
    assert [i.tier for i in now.feedback.judgement.items] == [4, 3, 2, 1] and now.feedback.supersedes == 1


def test_an_answer_taken_back_counts_no_more(house):
    who, task = given(house)
    house.answer(who, task["id"], KEY)
    path = house.path(f"desk/{task['id']}/withdraw")
    assert house.send(who.client, path, {"key": "withdraw1"}).json() == {"withdrawn": True}
    assert [e.feedback.judgement.kind for e in current(house.store)] == ["skip"]
    assert kinds(house)[0] == "ranking"


def test_an_old_answer_cannot_be_revised(house):
    house.settings(revise_minutes=60)
    who, task = given(house)
    assert house.answer(who, task["id"], "revise-0", "revise").status_code == 409  # nothing was said yet
    house.answer(who, task["id"], KEY)
    house.clock.forward(61 * 60)
    assert house.answer(who, task["id"], "revise-1", "revise", tiers=[4, 3, 2, 1]).status_code == 409
    path = house.path(f"desk/{task['id']}/withdraw")
    assert house.send(who.client, path, {"key": "withdraw1"}).status_code == 409
    assert kinds(house) == ["ranking"]


def test_nobody_takes_more_tasks_than_she_can_hold(house):
    for i in range(9):
        house.task(question=f"Question {i}?")
    who, have = house.person(), []
    for _ in range(6):
        have.append(house.next(who, *have)["id"])
    answer = who.client.get(house.path(f"desk/next?have={','.join(have)}"))
    assert answer.status_code == 409
    assert len(set(have)) == 6


def test_the_desk_offers_what_was_asked_for(house):
    house.task("rank")
    house.task("demonstrate", question="Write.")
    who = house.person()
    found = house.next(who, kind="demonstrate")
    assert found["kind"] == "demonstrate"
    assert house.next(who, found["id"], kind="compare") is None
    assert who.client.get(house.path("desk/next?kind=x")).status_code == 422


def test_a_task_of_one_project_is_not_offered_in_another(house):
    elsewhere = house.another_project()
    house.task()
    who = house.person()
    add_member(house.store, elsewhere.id, who.account.id, "labeller")
    assert who.client.get(house.path("desk/next", elsewhere)).json() == {"task": None}


def test_each_kind_of_answer_becomes_its_judgement(house):
    bodies = {
        "rank": ({"tiers": [1, 1, 2, 3], "ratings": {"overall": [7, None, 1, 2]}}, ["ranking"] + ["rating"] * 3),
        "compare": ({"outcome": "both_bad"}, ["ranking"]),
        "demonstrate": ({"text": "An ideal answer."}, ["demonstration"]),
        "correct": ({"text": "Better.", "card": 0}, ["correction"]),
        "critique": ({"critiques": [{"card": 0, "text": "Good.", "span": [0, 3]}]}, ["critique"]),
    }
    who, seen = house.person(), 0
    for kind, (body, wanted) in bodies.items():
        house.task(kind, question=f"To {kind}?")
        task = house.next(who, kind=kind)
        assert house.answer(who, task["id"], f"key-{kind}", **body).status_code == 200
        assert kinds(house)[seen:] == wanted
        seen += len(wanted)
        again = who.client.get(house.path(f"desk/{task['id']}")).json()["task"]["answer"]
        for name, value in body.items():
            if name in again:
                assert again[name] == value, (kind, name)
    assert len(list_tasks(house.store, house.project.id)) == 5


def test_own_keys_are_kept_and_odd_ones_refused(house):
    who = house.person()
    path = house.path("desk/keys/own")
    assert house.send(who.client, path, {"keys": {"submit": "x"}}, "PUT").status_code == 200
    assert '"submit": "x"' in who.client.get(house.path("work")).text
    for odd in ({f"k{i}": "x" for i in range(41)}, {"k" * 31: "x"}, {"k": "x" * 13}, {"k": 1}, [], None):
        assert house.send(who.client, path, {"keys": odd}, "PUT").status_code == 422
