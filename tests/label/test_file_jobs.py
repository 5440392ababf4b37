"""Large files in the background: looked through, taken, dropped, cut off by a kill; with what the page says of each."""

import json
import re
import threading
import time

import pytest

from tutelage.label import file_jobs
from tutelage.label.file_jobs import last_job
from tutelage.label.uploads import FOLDER
from tutelage.label.worker import WORKS, Worker
from tutelage.store.access import audit_trail
from tutelage.store.db import chunks
from tutelage.store.tasks import list_tasks
from tutelage.store.tools import add_job, jobs, report_job, take_job

ROWS = [{"prompt": f"Question {i}?", "completions": [f"yes {i}", f"no {i}"]} for i in range(40)]


@pytest.fixture(autouse=True)
def everything_is_large(monkeypatch):
    monkeypatch.setattr("tutelage.label.uploads.LARGE", 10)


def bring(house, client, rows, name="many.jsonl", **form):
    data = "".join(json.dumps(r) + "\n" for r in rows).encode()
    answer = house.post(client, house.path("tasks/upload"), form, files={"file": (name, data)})
    assert answer.status_code == 303, answer.text
    return answer.headers["location"]


def work_off(house):
    """Runs the app's worker until no job is left."""
    running = Worker(house.app.state.label, every_s=0.01)
    running.start()
    until = time.monotonic() + 60
    while any(j.state in ("waiting", "running") for j in jobs(house.store, house.project.id)):
        assert time.monotonic() < until, "the jobs were not done"
        time.sleep(0.01)
    running.stop()


def take(house, client, where, rows="good"):
    answer = house.post(client, f"{where}/take", {"rows": rows})
    assert (answer.status_code, answer.headers["location"]) == (303, where)


def count(house):
    return len(list_tasks(house.store, house.project.id, limit=1000))


def test_a_large_file_is_looked_through_and_taken_behind_the_page(house):
    client = house.person("lead").client
    where = bring(house, client, [*ROWS, {"prompt": ""}])
    assert "In the queue" in client.get(where).text and "hx-refresh" not in client.get(f"{where}/progress").headers
    work_off(house)
    assert client.get(f"{where}/progress").headers["hx-refresh"] == "true"
    looked = client.get(where).text
    assert "What would become of many.jsonl" in looked and "Take the 40 good rows" in looked and count(house) == 0
    take(house, client, where)
    assert "is taken" in client.get(where).text and count(house) == 0
    work_off(house)
    assert "many.jsonl was taken" in client.get(where).text and count(house) == 40
    job = last_job(house.app.state.label, house.project.id, where.rpartition("/")[2])
    assert (job.done, job.total) == (82, 82)
    assert [e.object["rows"] for e in audit_trail(house.store, house.project.id) if e.action == "file taken"] == [40]


def test_all_or_nothing_is_nothing_when_one_row_is_bad(house):
    client = house.person("lead").client
    where = bring(house, client, [*ROWS, {"prompt": ""}])
    work_off(house)
    take(house, client, where, "all")
    work_off(house)
    assert "nothing was stored" in client.get(where).text and count(house) == 0


def test_a_file_that_is_no_data_says_so_on_its_page_and_leaves_nothing(house):
    client = house.person("lead").client
    answer = house.post(client, house.path("tasks/upload"), {}, files={"file": ("many.jsonl", b"{" * 100)})
    work_off(house)
    assert "many.jsonl, line 1: expected JSON" in client.get(answer.headers["location"]).text
    assert list((house.config.data / FOLDER).iterdir()) == []


def test_a_large_file_is_its_bringers_alone(house):
    lead, other = house.person("lead").client, house.person("lead").client
    where = bring(house, lead, ROWS)
    for path in (where, f"{where}/progress"):
        assert other.get(path).status_code == 404
        assert house.person("labeller").client.get(path).status_code == 403
    assert house.post(other, f"{where}/take", {"rows": "good"}).status_code == 404
    assert house.post(other, f"{where}/drop").status_code == 404


def test_a_file_dropped_in_the_queue_is_not_read(house):
    client = house.person("lead").client
    where = bring(house, client, ROWS)
    assert house.post(client, f"{where}/drop").status_code == 303
    assert list((house.config.data / FOLDER).iterdir()) == []
    work_off(house)
    assert "was dropped" in client.get(where).text


def test_a_step_ordered_twice_is_one_job(house):
    client = house.person("lead").client
    where = bring(house, client, ROWS)
    work_off(house)
    for _ in range(2):
        take(house, client, where)
    assert [j.request["step"] for j in jobs(house.store, house.project.id)] == ["take", "look"]


@pytest.mark.parametrize("step", ["look", "take"])
def test_a_job_that_a_kill_cut_off_ends_as_if_nothing_had_been(house, step, monkeypatch):
    client = house.person("lead").client
    where = bring(house, client, ROWS)
    if step == "take":
        work_off(house)
        take(house, client, where)
    job = take_job(house.store)
    assert job is not None and job.request["step"] == step
    cut = RuntimeError("killed")

    def killed(*args, done=None, **values):
        if done:
            raise cut
        report_job(*args, **values)

    house.app.state.label.stopping.clear()
    monkeypatch.setattr("tutelage.label.intake.chunks", lambda items: chunks(items, 10))
    monkeypatch.setattr(file_jobs, "TOLD_EVERY", 15 if step == "look" else 55)  # a take: of the second time
    monkeypatch.setattr(file_jobs, "report_job", killed)
    with pytest.raises(RuntimeError):
        file_jobs.file(house.app.state.label, job)
    assert count(house) == (10 if step == "take" else 0)
    monkeypatch.undo()
    monkeypatch.setattr("tutelage.label.uploads.LARGE", 10)
    work_off(house)  # takes up what was running
    if step == "look":
        assert re.search("Take 40 rows", client.get(where).text)
    else:
        assert count(house) == 40 and len({t.prompt_id for t, _ in list_tasks(house.store, house.project.id)}) == 40


def test_a_file_does_not_stand_in_line_behind_a_slow_model(house, monkeypatch):
    over = threading.Event()
    monkeypatch.setitem(WORKS, "generate", lambda app, job: {"n": int(over.wait(60))})
    add_job(house.store, house.project.id, "generate", {}, 1)
    client = house.person("lead").client
    where = bring(house, client, ROWS)
    running = Worker(house.app.state.label, every_s=0.01)
    running.start()
    until = time.monotonic() + 60
    while "hx-refresh" not in client.get(f"{where}/progress").headers:
        assert time.monotonic() < until, "the file was not looked through"
    assert {j.kind: j.state for j in jobs(house.store, house.project.id)}["generate"] in ("running", "waiting")
    over.set()
    running.stop()
