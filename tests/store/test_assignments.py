"""Who holds which task. Whatever people, clocks and threads do: nobody too many, nothing lost, nothing twice."""

import random
import threading
from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from tutelage.errors import ConflictError, StoreError
from tutelage.store import desk_schema
from tutelage.store.assignments import (
    MAX_HELD,
    answer,
    answer_mark,
    answers_of,
    answers_to,
    drafts,
    find_held,
    history,
    renew,
    revise,
    save_draft,
    says_now,
)
from tutelage.store.chain import verify_chain
from tutelage.store.db import open_store
from tutelage.store.feedback import current, events
from tutelage.store.offers import offer
from tutelage.store.own_work import own_counts
from tutelage.store.people import add_labeler
from tutelage.store.projects import ProjectSettings, create_project
from tutelage.store.tasks import NewTask, add_tasks, get_task
from tutelage.types import Completion, Feedback, Flag, Labeler, Message, Prompt, RankedItem, Ranking, Skip

LEASE_S = 600.0
SETTINGS = ProjectSettings(gold_share=0.0, lease_minutes=LEASE_S / 60)


class Clock:
    def __init__(self):
        self.at = datetime(2026, 1, 5, tzinfo=UTC)

    def __call__(self):
        return self.at

    def forward(self, seconds):
        self.at += timedelta(seconds=seconds)


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def desk_store(where, clock):
    with open_store(where, clock=clock) as store:
        for name in "abcdefgh":
            add_labeler(store, Labeler(pseudonym=name, kind="human"))
        yield store


@pytest.fixture
def project(desk_store):
    return create_project(desk_store, "P", settings=SETTINGS)


def lay(store, project, n=1, *, overlap=1, **more):
    made = []
    for i in range(n):
        prompt = Prompt(messages=(Message(role="user", content=f"question {i}"),))
        texts = tuple(Completion(prompt_id=prompt.id, text=f"answer {k}", sample=k) for k in range(3))
        made.append(NewTask(kind="rank", prompt=prompt, completions=texts, source="s", overlap=overlap, **more))
    add_tasks(store, project.id, made)


def ranked(held, key, tiers=(1, 2, 3)) -> Feedback:
    ids = [i for card in held.cards for i in card]
    items = tuple(RankedItem(completion_id=i, tier=t) for i, t in zip(ids, tiers, strict=True))
    return Feedback(
        labeler=held.labeler, prompt_id=held.task.prompt_id, judgement=Ranking(items=items), idempotency_key=key,
        source=held.task.source, shown=tuple(ids),
    )  # fmt: skip


def give(store, held, key, tiers=(1, 2, 3)):
    return answer(store, held, [ranked(held, key, tiers)], mark=answer_mark(key, str(tiers)))


def pass_on(store, held, key):
    feedback = Feedback(
        labeler=held.labeler, prompt_id=held.task.prompt_id, judgement=Skip(reason="other"), idempotency_key=key
    )
    return answer(store, held, [feedback], mark=answer_mark(key, ""), state="skipped")


def slots(store, number=1) -> int:
    return get_task(store, 1, number).slots


# One by one.


def test_an_answer_and_its_assignment_are_stored_together_once(desk_store, project):
    lay(desk_store, project)
    held = offer(desk_store, project, "a")
    first, again = give(desk_store, held, "k" * 8), give(desk_store, held, "k" * 8)
    assert first == again and len(list(events(desk_store))) == 1
    found = find_held(desk_store, project.id, "a", held.id)
    assert found.state == "answered" and not found.is_late and slots(desk_store) == 0


def test_another_answer_to_the_same_assignment_is_a_conflict(desk_store, project):
    lay(desk_store, project)
    held = offer(desk_store, project, "a")
    give(desk_store, held, "k" * 8)
    for key, tiers in (("k" * 8, (3, 2, 1)), ("m" * 8, (1, 2, 3))):
        with pytest.raises(ConflictError, match="answered already"):
            give(desk_store, held, key, tiers)
    with pytest.raises(ConflictError):
        pass_on(desk_store, held, "m" * 8)
    assert len(list(events(desk_store))) == 1


def test_a_judgement_that_is_refused_leaves_the_task_in_hand(desk_store, project):
    lay(desk_store, project, 2)
    held = offer(desk_store, project, "a")
    save_draft(desk_store, project.id, "a", held.id, {"x": 1})
    wrong = ranked(held, "k" * 8).model_copy(update={"labeler": "nobody"})
    with pytest.raises(StoreError, match="no labeler"):
        answer(desk_store, held, [ranked(held, "m" * 8), wrong], mark=answer_mark("m" * 8, ""))
    assert list(events(desk_store)) == [] and drafts(desk_store, [held.id]) == {held.id: {"x": 1}}
    assert (
        find_held(desk_store, project.id, "a", held.id).state == "leased"
        and slots(desk_store) + slots(desk_store, 2) == 1
    )


def test_a_lease_that_ran_out_goes_to_another_and_a_late_answer_is_marked(desk_store, project, clock):
    lay(desk_store, project)
    first = offer(desk_store, project, "a")
    assert offer(desk_store, project, "b") is None
    clock.forward(LEASE_S + 1)
    second = offer(desk_store, project, "b")
    assert second is not None and offer(desk_store, project, "c") is None
    give(desk_store, first, "a" * 8)
    give(desk_store, second, "b" * 8)
    late = {h.labeler: h.is_late for h in answers_to(desk_store, 1)}
    assert late == {"a": True, "b": False} and slots(desk_store) == -1
    assert offer(desk_store, project, "c") is None


def test_ones_own_lease_that_ran_out_is_taken_up_again(desk_store, project, clock):
    lay(desk_store, project)
    first = offer(desk_store, project, "a")
    save_draft(desk_store, project.id, "a", first.id, {"tiers": [1]})
    clock.forward(LEASE_S + 1)
    offer(desk_store, project, "b", kinds=["compare"])  # somebody comes by, and the lease is taken back
    assert find_held(desk_store, project.id, "a", first.id).state == "expired"
    again = offer(desk_store, project, "a")
    assert again.id == first.id and drafts(desk_store, [again.id]) == {first.id: {"tiers": [1]}}
    give(desk_store, again, "a" * 8)
    assert [h.is_late for h in answers_to(desk_store, 1)] == [False]


def test_a_renewed_lease_holds_and_one_that_is_over_is_not_renewed(desk_store, project, clock):
    lay(desk_store, project)
    held = offer(desk_store, project, "a")
    for _ in range(3):
        clock.forward(LEASE_S - 1)
        assert renew(desk_store, project.id, "a", held.id, seconds=LEASE_S)
    assert not renew(desk_store, project.id, "b", held.id, seconds=LEASE_S)
    clock.forward(LEASE_S + 1)
    assert offer(desk_store, project, "b") is not None
    assert not renew(desk_store, project.id, "a", held.id, seconds=LEASE_S)


def test_an_assignment_is_its_labelers_and_its_projects_alone(desk_store, project):
    other = create_project(desk_store, "Other", settings=SETTINGS)
    lay(desk_store, project)
    held = offer(desk_store, project, "a")
    assert find_held(desk_store, project.id, "a", held.id).id == held.id
    assert find_held(desk_store, project.id, "b", held.id) is None
    assert find_held(desk_store, other.id, "a", held.id) is None
    with pytest.raises(StoreError, match="no such task"):
        save_draft(desk_store, project.id, "b", held.id, {})


def test_no_more_than_a_handful_is_held(desk_store, project):
    lay(desk_store, project, MAX_HELD + 2)
    have = []
    for _ in range(MAX_HELD):
        have.append(offer(desk_store, project, "a", have=have).id)
    assert len(set(have)) == MAX_HELD
    with pytest.raises(ConflictError, match="in your hands"):
        offer(desk_store, project, "a", have=have)
    assert offer(desk_store, project, "a").id in have  # what the page forgot is given again


def test_a_skipped_task_is_wanted_from_another(desk_store, project):
    lay(desk_store, project)
    pass_on(desk_store, offer(desk_store, project, "a"), "a" * 8)
    assert offer(desk_store, project, "a") is None and slots(desk_store) == 1
    give(desk_store, offer(desk_store, project, "b"), "b" * 8)
    assert own_counts(desk_store, project.id, "a") == [("rank", "skipped", 1)]
    assert own_counts(desk_store, project.id, "b") == [("rank", "answered", 1)]


# Revising.


def test_a_revision_replaces_what_it_says_anew_and_takes_back_the_rest(desk_store, project):
    lay(desk_store, project)
    held = offer(desk_store, project, "a")
    key = "k" * 8
    flag = Flag(category="false", completion_id=held.cards[0][0])
    second = ranked(held, f"{key}:1").model_copy(update={"judgement": flag})
    answer(desk_store, held, [ranked(held, key), second], mark=answer_mark(key, "x"))
    held = find_held(desk_store, project.id, "a", held.id)
    for _ in range(2):  # sent twice
        now = revise(desk_store, held, [ranked(held, "ignored", (3, 2, 1))], key="r1")
        assert [e.feedback.judgement.kind for e in now] == ["ranking", "skip"]
    assert [e.feedback.supersedes for e in events(desk_store)] == [None, None, 1, 2]
    assert revise(desk_store, held, [], key="r2")[0].feedback.judgement.kind == "skip"
    assert {e.feedback.judgement.kind for e in current(desk_store)} == {"skip"}
    again = revise(desk_store, held, [ranked(held, "ignored", (1, 1, 1))], key="r3")  # and said again after all
    assert "ranking" in [e.feedback.judgement.kind for e in again] and again == says_now(desk_store, held)
    verify_chain(desk_store)


def test_a_history_is_read_page_by_page(desk_store, project, clock):
    lay(desk_store, project, 5)
    for i in range(5):
        give(desk_store, offer(desk_store, project, "a"), f"key-000{i}")
        clock.forward(1)
    pages, before = [], None
    while page := history(desk_store, project.id, "a", before=before, limit=2):
        pages.append(len(page))
        before = page[-1].answered_at
    assert pages == [2, 2, 1] and len(answers_of(desk_store, project.id)) == 5


# A random walk of people and clocks.


class Walk:
    """People who take, answer, skip, renew and forget tasks, and what must hold after each step."""

    def __init__(self, store, project, clock, seed, overlaps):
        self.store, self.project, self.clock, self.draw = store, project, clock, random.Random(seed)
        self.overlaps, self.held, self.acknowledged, self.n = overlaps, [], {}, 0

    def step(self):
        who = self.draw.choice("abcdefgh")
        what = self.draw.choices(["take", "answer", "again", "skip", "renew", "wait"], [8, 6, 1, 1, 1, 2])[0]
        mine = [h for h in self.held if h.labeler == who]
        self.n += 1
        if what == "take":
            have = [h.id for h in mine if self.draw.random() < 0.7]
            try:
                got = offer(self.store, self.project, who, have=have, rng=self.draw)
            except ConflictError:
                return
            if got is not None:
                self.held = [h for h in self.held if h.id != got.id] + [got]
        elif what == "wait":
            self.clock.forward(self.draw.choice([1, LEASE_S / 2, LEASE_S + 1]))
        elif what == "again" and self.acknowledged:
            held, key = self.draw.choice(list(self.acknowledged.values()))
            assert give(self.store, held, key)[0].feedback.idempotency_key == key
        elif mine:
            held = self.draw.choice(mine)
            if what == "renew":
                renew(self.store, self.project.id, who, held.id, seconds=LEASE_S)
                return
            self.held.remove(held)
            key = f"key-{self.n:05d}"
            if what == "skip":
                pass_on(self.store, held, key)
            else:
                give(self.store, held, key)
                self.acknowledged[held.id] = (held, key)

    def check(self):
        table = desk_schema.assignment
        with self.store.read() as conn:
            rows = conn.execute(sa.select(table.c.task_id, table.c.labeler, table.c.state, table.c.is_late)).all()
        in_time, late = Counter(), Counter()
        for r in rows:
            late[r.task_id] += r.state == "answered" and r.is_late
            in_time[r.task_id] += r.state == "leased" or (r.state == "answered" and not r.is_late)
        assert len({(r.task_id, r.labeler) for r in rows}) == len(rows), "a task was given twice to one person"
        for number, overlap in self.overlaps.items():
            assert in_time[number] <= overlap, f"task {number} is held by {in_time[number]}, and {overlap} were wanted"
            assert slots(self.store, number) == overlap - in_time[number] - late[number]
        stored = {e.feedback.idempotency_key for e in events(self.store, kinds=["ranking"])}
        assert stored == {key for _, key in self.acknowledged.values()}


@pytest.mark.parametrize("seed", range(4))
def test_no_task_is_held_by_too_many_lost_or_stored_twice(desk_store, project, clock, seed):
    lay(desk_store, project, 4, overlap=1)
    overlaps = dict.fromkeys(range(1, 5), 1)
    for i, overlap in ((5, 2), (6, 3)):
        prompt = Prompt(messages=(Message(role="user", content=f"wide {i}"),))
        texts = tuple(Completion(prompt_id=prompt.id, text=f"t{k}") for k in range(3))
        wide = NewTask(kind="rank", prompt=prompt, completions=texts, source="s", overlap=overlap)
        add_tasks(desk_store, project.id, [wide])
        overlaps[i] = overlap
    walk = Walk(desk_store, project, clock, seed, overlaps)
    for n in range(120):
        walk.step()
        if n % 5 == 4:
            walk.check()
    finish(walk)
    walk.check()
    verify_chain(desk_store)


def finish(walk):
    """Everybody who is left comes, and all is answered: no task was lost on the way."""
    walk.clock.forward(LEASE_S + 1)
    for who in "abcdefgh":
        while (held := offer(walk.store, walk.project, who)) is not None:
            walk.n += 1
            give(walk.store, held, f"key-{walk.n:05d}")
            walk.acknowledged[held.id] = (held, f"key-{walk.n:05d}")
    skipped = Counter(h.task.id for h in answers_of(walk.store, walk.project.id) if h.state == "skipped")
    for number, overlap in walk.overlaps.items():
        done = sum(h.state == "answered" for h in answers_to(walk.store, number))
        assert done >= min(overlap, 8 - skipped[number]), f"task {number} was lost"


# Threads.


def test_sixteen_at_once_take_no_task_twice(desk_store, project):
    for i in range(16):
        add_labeler(desk_store, Labeler(pseudonym=f"t{i}", kind="human"))
    lay(desk_store, project, 6, overlap=1)
    lay_wide(desk_store, project, 4, overlap=3)
    start, wrong, keys = threading.Barrier(16), [], []

    def work(name):
        start.wait()
        try:
            while (held := offer(desk_store, project, name)) is not None:
                key = f"key-{name}-{held.task.id}"
                give(desk_store, held, key)
                give(desk_store, held, key)  # the acknowledgement was lost, and the answer is sent again
                keys.append(key)
        except Exception as e:
            wrong.append(e)

    threads = [threading.Thread(target=work, args=(f"t{i}",)) for i in range(16)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong
    done = Counter(h.task.id for h in answers_of(desk_store, project.id))
    assert [done[i] for i in range(1, 11)] == [1] * 6 + [3] * 4
    stored = [e.feedback.idempotency_key for e in events(desk_store)]
    assert sorted(stored) == sorted(keys) and len(stored) == 6 + 12
    verify_chain(desk_store)


def lay_wide(store, project, n, *, overlap):
    made = []
    for i in range(n):
        prompt = Prompt(messages=(Message(role="user", content=f"wide {i}"),))
        texts = tuple(Completion(prompt_id=prompt.id, text=f"answer {k}", sample=k) for k in range(3))
        made.append(NewTask(kind="rank", prompt=prompt, completions=texts, source="s", overlap=overlap))
    add_tasks(store, project.id, made)


def test_one_answer_sent_by_sixteen_windows_is_stored_once(desk_store, project):
    lay(desk_store, project)
    held = offer(desk_store, project, "a")
    start, told, refused = threading.Barrier(16), [], []

    def send(i):
        start.wait()
        try:
            told.append(give(desk_store, held, f"key-{i % 2:05d}")[0].feedback.idempotency_key)
        except ConflictError:
            refused.append(i)

    threads = [threading.Thread(target=send, args=(i,)) for i in range(16)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(told) == len(refused) == 8 and len(set(told)) == 1 and len(list(events(desk_store))) == 1
