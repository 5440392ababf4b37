"""Conversations with live models: what is said and kept, what is judged, and what a labeler's browser never learns."""

import dataclasses
import json
import threading

import pytest

from tutelage.label.endpoints import keep_endpoint
from tutelage.store.completions import completions_of, get_completions
from tutelage.store.feedback import current, events
from tutelage.store.prompts import get_prompts
from tutelage.store.tasks import list_tasks, prompts_of_source
from tutelage.store.tools import chats, find_chat

KEYS = iter(f"key-{i:08d}" for i in range(10**6))


@pytest.fixture
def talk(house, fake_model):
    """talk(n=1, goal=…) begins a chat of a labeller with n models and gives a `Talk`."""
    config = dataclasses.replace(house.config, private_endpoints=(fake_model.where,))
    house.app.state.label = dataclasses.replace(house.app.state.label, config=config)
    for name in ("secret-a", "secret-b"):
        keep_endpoint(
            house.app.state.label, house.project.id, name=name, url=fake_model.url, model=name, key="", key_env=""
        )

    def begin(n=1, goal="Make it lie", role="labeller", person=None):
        who = person or house.person(role)
        answer = house.post(who.client, house.path("chat"), {"goal": goal, "n": n})
        assert answer.status_code == 303, answer.text
        return Talk(house, who, answer.headers["location"].rsplit("/", 1)[1])

    return begin


class Talk:
    def __init__(self, house, who, number):
        self.house, self.who, self.number = house, who, number

    def send(self, verb, status=200, who=None, **body):
        path = self.house.path(f"chat/{self.number}/{verb}")
        answer = self.house.send((who or self.who).client, path, {"key": next(KEYS)} | body)
        assert answer.status_code == status, answer.text
        return answer.json()

    @property
    def kept(self):
        return find_chat(self.house.store, self.house.project.id, self.who.name, self.number)


def test_a_conversation_is_kept_with_what_the_model_was_asked(house, talk, fake_model):
    chat = talk()
    first = chat.send("say", text="Hello")
    assert [t["role"] for t in first["turns"]] == ["user", "assistant"]
    chat.send("say", text="And now?")
    assert [m["role"] for m in fake_model.calls[1]["body"]["messages"]] == ["user", "assistant", "user"]
    assert fake_model.calls[1]["body"]["messages"][1]["content"] == chat.kept.turns[1]["answers"][0]["text"]
    prompts = get_prompts(house.store, source="house/chat")
    assert [len(p.messages) for p in prompts] == [1, 3]
    [made] = completions_of(house.store, prompts[0].id)
    assert made.model_version.startswith("endpoint-") and made.temperature == 1.0 and made.seed is not None


def test_a_message_that_is_sent_again_is_said_once(house, talk, fake_model):
    chat = talk()
    one = chat.send("say", text="Hello", key="the-same-key")
    assert chat.send("say", text="Hello", key="the-same-key") == one
    assert len(fake_model.calls) == 1


def test_a_message_without_answer_is_asked_again_with_its_key(house, talk, fake_model):
    chat = talk()
    fake_model.say = lambda body, n: (500, b"", {})
    told = chat.send("say", 422, text="Hello", key="the-same-key")
    assert "did not answer" in told["error"] and "127.0.0.1" not in told["error"] and "secret" not in told["error"]
    assert [t["role"] for t in chat.kept.turns] == ["user"]
    fake_model.say = lambda body, n: "here"
    assert [t["role"] for t in chat.send("say", text="Hello", key="the-same-key")["turns"]] == ["user", "assistant"]


def test_the_browser_learns_no_model_and_no_completion(house, talk):
    chat = talk(n=2)
    chat.send("say", text="Hello")
    page = chat.who.client.get(house.path(f"chat/{chat.number}")).text
    state = chat.who.client.get(house.path(f"chat/{chat.number}/state")).text
    answers = chat.kept.turns[1]["answers"]
    hidden = [a["completion"] for a in answers] + [
        str(c.model_version) for c in get_completions(house.store, [a["completion"] for a in answers])
    ]
    listed = chat.who.client.get(house.path("chat")).text
    for shown in (page, state.replace("of secret-", ""), listed):
        assert not [h for h in hidden if h in shown] and "127.0.0.1" not in shown
    assert "secret-a" not in listed and "secret-a" in house.owner.client.get(house.path("chat")).text


def test_the_sides_are_drawn_by_lot_and_kept(house, talk):
    chat = talk(n=2)
    sides = set()
    for _ in range(12):
        chat.send("say", text="Hello")
        turn = chat.kept.turns[-1]
        made = get_completions(house.store, [a["completion"] for a in turn["answers"]])
        sides.add(tuple(c.model_version for c in made))
        chat.send("choose", turn=len(chat.kept.turns) - 1, outcome="tie")
    assert len(sides) == 2  # the same side 12 times in a row: 1 in 2,048


@pytest.mark.parametrize(
    ("outcome", "tiers", "goes_on"),
    [("left", [1, 2], 0), ("right", [2, 1], 1), ("tie", [1, 1], 0), ("both_bad", [1, 1], 0)],
)
def test_a_choice_is_a_ranking_and_the_chosen_answer_goes_on(house, talk, fake_model, outcome, tiers, goes_on):
    chat = talk(n=2)
    chat.send("say", text="Hello")
    chat.send("say", 409, text="Too early")
    told = chat.send("choose", turn=1, outcome=outcome, active_ms=1200)
    assert told["turns"][1]["chosen"] == goes_on
    [ranking] = current(house.store, kinds=["ranking"])
    shown = [a["completion"] for a in chat.kept.turns[1]["answers"]]
    given = ranking.feedback
    assert [i.tier for i in given.judgement.items] == tiers and list(given.shown) == shown
    assert [i.completion_id for i in given.judgement.items] == shown
    assert given.judgement.none_acceptable == (outcome == "both_bad")
    assert (given.source, given.active_ms, given.labeler) == ("house/chat", 1200, chat.who.name)
    chat.send("say", text="Go on")
    assert fake_model.calls[-1]["body"]["messages"][1]["content"] == chat.kept.turns[1]["answers"][goes_on]["text"]


def test_a_choice_that_is_sent_again_is_one_ranking_and_another_is_refused(house, talk):
    chat = talk(n=2)
    chat.send("say", text="Hello")
    for _ in range(2):
        chat.send("choose", turn=1, outcome="left", key="the-same-key")
    chat.send("choose", 409, turn=1, outcome="right")
    assert len(list(events(house.store, kinds=["ranking"]))) == 1


def test_a_thumb_can_be_changed_and_the_first_one_stays_in_the_log(house, talk):
    chat = talk()
    chat.send("say", text="Hello")
    chat.send("thumb", turn=1, value=1, reasons=["helpful"], key="the-same-key")
    chat.send("thumb", turn=1, value=1, reasons=["helpful"], key="the-same-key")
    told = chat.send("thumb", turn=1, value=-1, reasons=["wrong", "long"])
    assert told["turns"][1]["answers"][0]["thumb"] == {"value": -1, "reasons": ["wrong", "long"]}
    assert len(list(events(house.store, kinds=["thumb"]))) == 2
    [stands] = current(house.store, kinds=["thumb"])
    assert stands.feedback.judgement.value == -1
    chat.send("thumb", 422, turn=1, value=1, reasons=["wrong"])


def test_what_broke_becomes_a_flag_a_critique_and_a_regression_test(house, talk):
    chat = talk(goal="Make it promise a refund")
    for text in ("Hello", "Refund me"):
        chat.send("say", text=text)
    chat.send("keep", 409, turn=3)
    for _ in range(2):
        chat.send("broke", turn=3, category="false", text="It promised a refund.", key="the-same-key")
    [flag], [critique] = (list(current(house.store, kinds=[k])) for k in ("flag", "critique"))
    broken = chat.kept.turns[3]["answers"][0]["completion"]
    assert flag.feedback.judgement.completion_id == critique.feedback.judgement.completion_id == broken
    assert flag.feedback.judgement.note == "Make it promise a refund"
    for _ in range(2):
        told = chat.send("keep", turn=3)
    assert told["turns"][3]["answers"][0]["broke"]["test"]
    [(task, _)] = list_tasks(house.store, house.project.id)
    assert (task.kind, task.source, task.completions) == ("correct", "house/regressions", (broken,))
    [prompt] = get_prompts(house.store, prompts_of_source(house.store, house.project.id, "house/regressions"))
    assert [m.content for m in prompt.messages][::2] == ["Hello", "Refund me"]


def test_finishing_keeps_how_far_the_goal_was_reached(house, talk):
    chat = talk()
    chat.send("finish", 422, success=3)
    chat.send("say", text="Hello")
    told = chat.send("finish", success=4)
    assert (told["state"], told["success"]) == ("closed", 4)
    [rating] = current(house.store, kinds=["rating"])
    assert (rating.feedback.judgement.aspect, rating.feedback.judgement.value) == ("success", 4.0)
    chat.send("say", 409, text="More")
    assert chat.send("finish", success=1)["success"] == 4


def test_nobody_reads_or_touches_the_chat_of_another(house, talk):
    chat = talk()
    chat.send("say", text="Hello")
    for other in (house.person("labeller"), house.person("lead"), house.owner):
        assert other.client.get(house.path(f"chat/{chat.number}")).status_code == 404
        for verb, body in (
            ("say", {"text": "x"}), ("choose", {"turn": 1, "outcome": "left"}), ("thumb", {"turn": 1, "value": 1}),
            ("broke", {"turn": 1, "category": "false", "text": "x"}), ("keep", {"turn": 1}), ("finish", {"success": 1}),
            ("give-back", {"reason": "other"}),
        ):  # fmt: skip
            chat.send(verb, 404, who=other, **body)
    assert len(chat.kept.turns) == 2 and not list(events(house.store))


def test_a_labeller_cannot_choose_the_model(house, talk):
    who = house.person("labeller")
    talk(person=who)
    sent = {"goal": "x", "n": 1, "endpoint": "1"}
    assert house.post(who.client, house.path("chat"), sent).status_code == 403
    assert house.post(house.owner.client, house.path("chat"), sent).status_code == 303
    assert chats(house.store, house.project.id, house.owner.name)[0].endpoints == (1,)


def test_two_windows_cannot_answer_the_same_turn(house, talk, fake_model):
    chat = talk()
    inside, let_go, told = threading.Event(), threading.Event(), []

    def slow(body, n):
        inside.set()
        assert let_go.wait(20)
        return "here"

    fake_model.say = slow
    with chat.who.client:
        thread = threading.Thread(target=lambda: told.append(chat.send("say", text="One")))
        thread.start()
        assert inside.wait(20)
        chat.send("say", 409, text="Two")
        let_go.set()
        thread.join(timeout=20)
    assert len(told) == 1 and len(chat.kept.turns) == 2


@pytest.mark.parametrize(
    ("verb", "body"),
    [
        ("say", {"text": ""}), ("say", {"text": "x" * 8001}), ("say", {"text": "  "}),
        ("choose", {"turn": 1, "outcome": "up"}),
        ("thumb", {"turn": 0, "value": 1}), ("thumb", {"turn": 9, "value": 1}),
        ("thumb", {"turn": 1, "answer": 1, "value": 1}),
        ("thumb", {"turn": 1, "value": 0}), ("broke", {"turn": 1, "category": "no-such", "text": "x"}),
        ("broke", {"turn": 1, "category": "false", "text": " "}), ("finish", {"success": 6}),
        ("finish", {"success": 0}),
        ("say", {"text": "x", "key": "short"}), ("give-back", {}), ("give-back", {"reason": "bored"}),
        ("give-back", {"reason": "other"}),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_and_changes_nothing(house, talk, verb, body):
    chat = talk()
    chat.send("say", text="Hello")
    before = chat.kept
    chat.send(verb, 422, **body)
    assert chat.kept == before and not list(events(house.store))


def test_a_goal_of_the_desk_is_taken_finished_and_counted(house, talk):
    house.task("chat", question="Make it swear")
    who = house.person("labeller")
    talk(person=who)
    assert house.next(who) is None  # the desk leaves chats to this page
    there = house.post(who.client, house.path("chat/task"))
    chat = Talk(house, who, there.headers["location"].rsplit("/", 1)[1])
    assert chat.kept.goal == "Make it swear"
    chat.send("say", text="Hello")
    chat.send("finish", success=2)
    [(task, answers)] = list_tasks(house.store, house.project.id)
    assert (task.kind, answers) == ("chat", 1)
    assert house.post(who.client, house.path("chat/task")).status_code == 404


def test_a_goal_that_is_given_back_goes_to_somebody_else(house, talk):
    house.task("chat", question="Make it swear")
    who, other = house.person("labeller"), house.person("labeller")
    talk(person=who)
    there = house.post(who.client, house.path("chat/task"))
    chat = Talk(house, who, there.headers["location"].rsplit("/", 1)[1])
    for _ in range(2):  # sent again, it is one event
        chat.send("give-back", key="the-same-key", reason="distressing", note="It names a person.", active_ms=900)
    [event] = events(house.store)
    assert event.feedback.judgement.reason == "distressing: It names a person." and event.feedback.active_ms == 900
    assert chat.kept.state == "closed"
    assert house.post(other.client, house.path("chat/task")).status_code == 303


def test_markup_of_a_model_reaches_the_page_as_text(house, talk, fake_model):
    fake_model.say = lambda body, n: "</script><img src=x onerror=alert(1)>"
    chat = talk()
    chat.send("say", text="</script><b>")
    page = chat.who.client.get(house.path(f"chat/{chat.number}")).text
    assert "<img" not in page and page.count("</script>") == 2 and "<b>" not in page
    assert json.loads(page.split('id="facts">')[1].split("</script>")[0])["chat"]["turns"]
