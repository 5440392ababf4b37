"""Endpoints, chats and jobs in the store."""

import threading

import pytest
import sqlalchemy as sa

from tutelage.errors import ConflictError, StoreError
from tutelage.store.people import add_labeler
from tutelage.store.projects import create_project
from tutelage.store.tools import (
    add_endpoint,
    add_job,
    change_chat,
    chats,
    endpoints,
    find_chat,
    jobs,
    open_chat,
    remove_endpoint,
    report_job,
    take_job,
    take_up_again,
)
from tutelage.types import Labeler


@pytest.fixture
def project(store):
    for name in "ab":
        add_labeler(store, Labeler(pseudonym=name, kind="human"))
    return create_project(store, "P")


def test_an_endpoint_that_is_removed_leaves_no_key_behind(store, project):
    other = create_project(store, "Other")
    number = add_endpoint(store, project.id, name="n", url="https://x", model="m", key_sealed="sealed-key")
    (found,) = endpoints(store, project.id)
    assert (found.id, found.key_sealed, found.key_env) == (number, "sealed-key", None) and endpoints(
        store, other.id
    ) == []
    assert not remove_endpoint(store, other.id, number) and endpoints(store, project.id)
    assert remove_endpoint(store, project.id, number) and endpoints(store, project.id) == []
    with store.read() as conn:
        assert "sealed-key" not in str(conn.execute(sa.text("select * from endpoint")).all())


def test_an_endpoint_that_cannot_be_stored_is_refused(store, project):
    for name in ("name", "url", "model"):
        with pytest.raises(StoreError, match="NUL"):
            add_endpoint(store, project.id, **{"name": "n", "url": "u", "model": "m", name: "a\x00"})


def test_a_chat_is_its_labelers_and_its_projects_alone(store, project):
    other = create_project(store, "Other")
    chat = open_chat(store, project.id, "a", "a goal\x00", (3, 1))
    assert find_chat(store, project.id, "a", chat.id) == chat and chat.endpoints == (3, 1) and chat.goal == "a goal\x00"
    assert find_chat(store, project.id, "b", chat.id) is None and find_chat(store, other.id, "a", chat.id) is None
    assert chats(store, project.id, "b") == [] and len(chats(store, project.id, "a")) == 1


def test_a_chat_that_went_on_elsewhere_is_not_overwritten(store, project):
    seen = open_chat(store, project.id, "a", "", (1,))
    change_chat(store, seen, turns=[{"role": "user", "text": "one"}])
    with pytest.raises(ConflictError, match="another window"):
        change_chat(store, seen, turns=[{"role": "user", "text": "two"}])
    now = find_chat(store, project.id, "a", seen.id)
    assert now.turns == [{"role": "user", "text": "one"}]
    change_chat(store, now, state="closed", success=4)
    assert (lambda c: (c.state, c.success))(find_chat(store, project.id, "a", seen.id)) == ("closed", 4)


def test_jobs_are_taken_oldest_first_and_each_by_one(store, project):
    numbers = [add_job(store, project.id, "k", {"i": i}, total=3) for i in range(6)]
    start, taken = threading.Barrier(8), []

    def take():
        start.wait()
        job = take_job(store)
        if job:
            taken.append(job.id)

    threads = [threading.Thread(target=take) for _ in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert sorted(taken) == numbers and take_job(store) is None
    assert {j.state for j in jobs(store, project.id)} == {"running"}


def test_a_job_reports_and_one_that_was_cut_off_waits_again(store, project):
    first = add_job(store, project.id, "k", {}, total=3)
    second = add_job(store, project.id, "k", {}, total=3)
    assert take_job(store).id == first
    report_job(store, first, state="done", done=3, result={"n": 1})
    assert take_job(store).id == second
    report_job(store, second, done=2)
    assert take_up_again(store) == 1 and take_up_again(store) == 0
    newest, oldest = jobs(store, project.id)
    assert (newest.state, newest.done) == ("waiting", 2) and (oldest.state, oldest.result) == ("done", {"n": 1})
    assert jobs(store, create_project(store, "Other").id) == []
