"""Live generation: who answers what, what is tried again, and that nothing is paid for twice."""

import dataclasses
import threading
import time
from collections import Counter

import pytest

from tutelage.errors import DataError
from tutelage.label import generate as generation
from tutelage.label.endpoints import Sampling, keep_endpoint
from tutelage.label.generate import generate, lines_as_prompts, order
from tutelage.label.worker import Cut, Worker
from tutelage.store.completions import completions_of, get_completions
from tutelage.store.tasks import get_task, list_tasks
from tutelage.store.tools import find_job, remove_endpoint, take_job, take_up_again


@pytest.fixture
def label(house, fake_model, monkeypatch):
    config = dataclasses.replace(house.config, private_endpoints=(fake_model.where,))
    house.app.state.label = dataclasses.replace(house.app.state.label, config=config)
    monkeypatch.setattr(generation, "PAUSE_S", 0.001)
    return house.app.state.label


def models(house, label, fake_model, *names):
    return [
        keep_endpoint(label, house.project.id, name=n, url=fake_model.url, model=n, key="", key_env="") for n in names
    ]


def ordered(house, label, endpoint_ids, *, n=4, prompts="one\ntwo\nthree", kind="rank", nonce="n"):
    asked = lines_as_prompts(prompts, "house/prompts")
    number = order(
        label, house.project, asked, endpoint_ids=endpoint_ids, n=n, sampling=Sampling(temperature=0.7), kind=kind,
        source="house/generated", nonce=nonce,
    )  # fmt: skip
    job = take_job(house.store)
    assert job is not None and job.id == number
    return asked, job


def tasks(house):
    return [get_task(house.store, house.project.id, t.id) for t, _ in list_tasks(house.store, house.project.id)]


def test_each_prompt_becomes_a_task_of_so_many_answers(house, label, fake_model):
    asked, job = ordered(house, label, models(house, label, fake_model, "m"))
    assert generate(label, job) == {"tasks": 3, "incomplete": 0, "alike": 0, "error": ""}
    assert len(fake_model.calls) == 12
    assert {(t.kind, t.source, t.prompt_id) for t in tasks(house)} == {("rank", "house/generated", p.id) for p in asked}
    for task in tasks(house):
        made = get_completions(house.store, task.completions)
        assert len(made) == 4 == len({c.seed for c in made})
        assert all(c.temperature == 0.7 and c.finish_reason == "stop" and c.model_version for c in made)
    found = find_job(house.store, house.project.id, job.id)
    assert (found.done, found.total) == (12, 12)


def test_several_models_share_the_answers_of_every_prompt(house, label, fake_model):
    prompts = "\n".join(f"prompt {i}" for i in range(6))
    _, job = ordered(house, label, models(house, label, fake_model, "a", "b", "c"), n=4, prompts=prompts)
    generate(label, job)
    asked = Counter(c["body"]["model"] for c in fake_model.calls)
    assert asked == {"a": 8, "b": 8, "c": 8}  # 24 answers; who answers twice changes from prompt to prompt
    for task in tasks(house):
        assert len({c.model_version for c in get_completions(house.store, task.completions)}) == 3


def test_a_job_that_was_killed_pays_for_nothing_twice(house, label, fake_model):
    ids = models(house, label, fake_model, "m")
    asked, job = ordered(house, label, ids, prompts="one\ntwo\nthree\nfour")

    def stored():
        return sum(len(completions_of(house.store, p.id)) for p in asked)

    def killed(body, n):
        if n == 7:
            until = time.monotonic() + 20
            while stored() < 3 and time.monotonic() < until:
                time.sleep(0.005)
            label.stopping.set()
        return f"answer {n}"

    fake_model.say = killed
    with pytest.raises(Cut):
        generate(label, job)
    label.stopping.clear()
    kept = {c.seed for p in asked for c in completions_of(house.store, p.id)}
    assert 3 <= len(kept) < 16 and not tasks(house)
    assert take_up_again(house.store) == 1
    again = take_job(house.store)
    assert generate(label, again)["tasks"] == 4
    paid = Counter(c["body"]["seed"] for c in fake_model.calls)
    assert len(paid) == 16 == stored()
    assert all(paid[seed] == 1 for seed in kept)  # what was on its way at the kill is lost, and nothing else
    # Done once more, it asks for nothing and lays nothing out twice.
    n_calls = len(fake_model.calls)
    generate(label, again)
    assert len(fake_model.calls) == n_calls and len(tasks(house)) == 4


def test_the_same_order_again_is_another_draw(house, label, fake_model):
    ids = models(house, label, fake_model, "m")
    for nonce in ("first", "second"):
        _, job = ordered(house, label, ids, prompts="one", nonce=nonce)
        generate(label, job)
    assert len(fake_model.calls) == 8 == len({c["body"]["seed"] for c in fake_model.calls})


@pytest.mark.parametrize("status", [429, 500, 502, 503, 529])
def test_a_server_that_is_busy_is_asked_again(house, label, fake_model, status):
    _, job = ordered(house, label, models(house, label, fake_model, "m"), prompts="one")
    fake_model.say = lambda body, n: (status, b"", {"Retry-After": "0"}) if n <= 3 else f"answer {n}"
    assert generate(label, job)["tasks"] == 1
    assert len(fake_model.calls) == 7


def test_a_server_that_says_no_is_not_asked_again_and_ends_the_job(house, label, fake_model):
    _, job = ordered(house, label, models(house, label, fake_model, "m"), prompts="one\ntwo\nthree")
    fake_model.say = lambda body, n: (401, b"", {})
    with pytest.raises(DataError, match=r"status 401.*0 answers are kept"):
        generate(label, job)
    assert len(fake_model.calls) < generation.GIVE_UP + generation.CALLS


def test_a_prompt_that_one_model_refuses_is_left_out_and_the_others_go_on(house, label, fake_model):
    _, job = ordered(house, label, models(house, label, fake_model, "m"), n=2, prompts="one\ntwo\nthree")
    fake_model.say = lambda body, n: (400, b"", {}) if body["messages"][0]["content"] == "two" else f"answer {n}"
    told = generate(label, job)
    assert (told["tasks"], told["incomplete"]) == (2, 1) and "status 400" in told["error"]


def test_answers_that_are_all_alike_make_no_task(house, label, fake_model):
    _, job = ordered(house, label, models(house, label, fake_model, "m"), prompts="one\ntwo")
    fake_model.say = lambda body, n: "same" if body["messages"][0]["content"] == "one" else f"answer {n}"
    assert generate(label, job) == {"tasks": 1, "incomplete": 0, "alike": 1, "error": ""}


def test_only_so_many_calls_run_at_once(house, label, fake_model, monkeypatch):
    _, job = ordered(house, label, models(house, label, fake_model, "m"), prompts="one\ntwo\nthree\nfour")
    real, lock, now, most = generation.ask, threading.Lock(), Counter(), Counter()

    def counted(*args, **more):
        with lock:
            now["calls"] += 1
            most["calls"] = max(most["calls"], now["calls"])
        time.sleep(0.02)
        try:
            return real(*args, **more)
        finally:
            with lock:
                now["calls"] -= 1

    monkeypatch.setattr(generation, "ask", counted)
    generate(label, job)
    assert 2 <= most["calls"] <= generation.CALLS


def test_a_mistake_of_ours_ends_the_job_and_does_not_hang_it(house, label, fake_model, monkeypatch):
    _, job = ordered(house, label, models(house, label, fake_model, "m"), prompts="one")

    def broken(*args, **more):
        raise ZeroDivisionError

    monkeypatch.setattr(generation, "ask", broken)
    with pytest.raises(ZeroDivisionError):
        generate(label, job)


def test_an_endpoint_that_was_removed_meanwhile_ends_the_job(house, label, fake_model):
    [number] = models(house, label, fake_model, "m")
    _, job = ordered(house, label, [number])
    remove_endpoint(house.store, house.project.id, number)
    with pytest.raises(DataError, match="removed meanwhile"):
        generate(label, job)


@pytest.mark.parametrize(
    ("changed", "why"),
    [({"n": 1}, "2 to 9"), ({"n": 10}, "2 to 9"), ({"kind": "compare", "n": 3}, "between 2"),
     ({"prompts": ""}, "0 prompts")],
)  # fmt: skip
def test_an_order_that_cannot_be_is_refused(house, label, fake_model, changed, why):
    ids = models(house, label, fake_model, "a")
    with pytest.raises(DataError, match=why):
        ordered(house, label, ids, **changed)


def test_an_endpoint_of_another_project_is_not_asked(house, label, fake_model):
    other = house.another_project()
    number = keep_endpoint(label, other.id, name="x", url=fake_model.url, model="m", key="", key_env="")
    with pytest.raises(DataError, match="this project's endpoints"):
        ordered(house, label, [number])


def test_lines_become_prompts_once_each():
    found = lines_as_prompts("a\r\n\n  b \na\n\x00", "s")
    assert [p.messages[-1].content for p in found] == ["a", "b"]
    with pytest.raises(DataError, match="prompt 1 has"):
        lines_as_prompts("x" * 20_001, "s")


def test_the_worker_takes_the_job_by_itself_and_a_stop_leaves_it_for_the_next_server(house, label, fake_model):
    ids = models(house, label, fake_model, "m")
    asked = lines_as_prompts("one\ntwo", "house/prompts")
    number = order(
        label, house.project, asked, endpoint_ids=ids, n=2, sampling=Sampling(), kind="compare",
        source="house/generated", nonce="n",
    )  # fmt: skip
    held = threading.Event()

    def slow(body, n):
        if n == 2:
            label.stopping.set()
            held.set()
        return f"answer {n}"

    fake_model.say = slow
    worker = Worker(label, every_s=0.01)
    worker.start()
    assert held.wait(20)
    worker.stop()
    assert find_job(house.store, house.project.id, number).state == "running"
    fake_model.say = lambda body, n: f"answer {n}"
    worker = Worker(label, every_s=0.01)
    worker.start()
    until = time.monotonic() + 20
    while find_job(house.store, house.project.id, number).state != "done" and time.monotonic() < until:
        time.sleep(0.01)
    worker.stop()
    assert find_job(house.store, house.project.id, number).result["tasks"] == 2
    assert {t.kind for t in tasks(house)} == {"compare"}
