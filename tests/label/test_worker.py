"""Background jobs: done once, failed with a reason, and taken up again after a kill."""

import threading

import pytest

from tutelage.errors import DataError
from tutelage.label import worker
from tutelage.label.worker import Worker, work
from tutelage.store.tools import add_job, jobs, report_job, take_job


@pytest.fixture
def works(monkeypatch):
    """Kinds of jobs that end with the test."""
    monkeypatch.setattr(worker, "WORKS", {})
    return worker.WORKS


class Done:
    """Waits for a number of calls."""

    def __init__(self, n: int) -> None:
        self._left, self._event = n, threading.Event()

    def __call__(self, *_) -> dict[str, object]:
        self._left -= 1
        if not self._left:
            self._event.set()
        return {"n": 1}

    def wait(self) -> None:
        assert self._event.wait(20), "the jobs were not done"


def run_until(house, done: Done) -> None:
    running = Worker(house.app.state.label, every_s=0.01)
    running.start()
    done.wait()
    running.stop()


def test_jobs_are_done_in_the_order_in_which_they_came(house, works):
    seen, done = [], Done(3)

    @work("count")
    def count(app, job):
        seen.append(job.request["i"])
        return done()

    for i in range(3):
        add_job(house.store, house.project.id, "count", {"i": i}, total=1)
    run_until(house, done)
    assert seen == [0, 1, 2]
    assert [(j.state, j.result) for j in jobs(house.store, house.project.id)] == [("done", {"n": 1})] * 3


def test_a_job_that_fails_says_why_and_the_next_one_runs(house, works, capsys):
    done = Done(1)

    @work("refused")
    def refused(app, job):
        raise DataError("the endpoint did not answer.")

    @work("broken")
    def broken(app, job):
        raise ZeroDivisionError("a secret detail")

    work("fine")(done)
    for kind in ("refused", "broken", "unknown", "fine"):
        add_job(house.store, house.project.id, kind, {}, total=1)
    run_until(house, done)
    found = {j.kind: (j.state, j.result) for j in jobs(house.store, house.project.id)}
    assert found["refused"] == ("failed", {"error": "the endpoint did not answer."})
    assert found["broken"] == ("failed", {"error": "ZeroDivisionError, see the log"})
    assert found["unknown"][0] == "failed" and found["fine"][0] == "done"
    assert "a secret detail" in capsys.readouterr().err


def test_a_job_that_a_kill_cut_off_is_taken_up_again(house, works):
    done = Done(1)
    work("again")(done)
    number = add_job(house.store, house.project.id, "again", {}, total=5)
    assert take_job(house.store).id == number and take_job(house.store) is None
    report_job(house.store, number, done=3)  # and here the server was killed
    run_until(house, done)
    assert [j.state for j in jobs(house.store, house.project.id)] == ["done"]


def test_a_worker_stops_between_two_jobs(house, works):
    first, go_on = threading.Event(), threading.Event()

    @work("slow")
    def slow(app, job):
        first.set()
        assert go_on.wait(20)
        return {}

    for _ in range(2):
        add_job(house.store, house.project.id, "slow", {}, total=1)
    running = Worker(house.app.state.label, every_s=0.01)
    running.start()
    assert first.wait(20)
    stopping = threading.Thread(target=running.stop)
    stopping.start()
    while not running._stop.is_set():
        pass
    go_on.set()
    stopping.join(20)
    assert sorted(j.state for j in jobs(house.store, house.project.id)) == ["done", "waiting"]


def test_the_app_starts_and_stops_its_worker(house, works):
    from starlette.testclient import TestClient

    done = Done(1)
    work("fine")(done)
    add_job(house.store, house.project.id, "fine", {}, total=1)
    with TestClient(house.app, base_url=house.config.address):
        done.wait()
    assert not [t for t in threading.enumerate() if t.name == "tutelage-jobs" and t.is_alive()]
