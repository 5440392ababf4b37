"""What a labeler is given next, and with which chance. Shares are counted over many draws with fixed seeds."""

import random
from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest

from tutelage.store import offers
from tutelage.store.assignments import answer, answer_mark, held_by
from tutelage.store.completions import add_completions
from tutelage.store.db import open_store
from tutelage.store.feedback import record
from tutelage.store.offers import COUNTED_S, offer
from tutelage.store.people import add_labeler
from tutelage.store.projects import ProjectSettings, create_project
from tutelage.store.tasks import CHECK_SLOTS, NewTask, add_tasks, close_tasks, get_task, list_tasks, prioritise
from tutelage.types import (
    Completion,
    DemonstrationGiven,
    Feedback,
    Labeler,
    Message,
    Prompt,
    RankedItem,
    Ranking,
)

DAY = 86400.0


class Clock:
    def __init__(self):
        self.at = datetime(2026, 1, 5, tzinfo=UTC)

    def __call__(self):
        return self.at

    def forward(self, seconds):
        self.at += timedelta(seconds=seconds)


class Table:
    """A store with labelers, and projects laid out as a test asks."""

    def __init__(self, store, clock):
        self.store, self.clock, self.n = store, clock, 0
        for name in "abcdefgh":
            add_labeler(store, Labeler(pseudonym=name, kind="human"))

    def project(self, **settings):
        self.n += 1
        return create_project(
            self.store, f"P{self.n}", settings=ProjectSettings(**({"gold_share": 0.0, "overlap": 9} | settings))
        )

    def task(self, project, name, kind="rank", n=None, **more):
        return self.tasks(project, [name], kind, n, **more)[0]

    def tasks(self, project, names, kind="rank", n=None, priorities=None, **more):
        """One task for each name, stored together."""
        count, made = {"rank": 4, "compare": 2, "demonstrate": 0, "correct": 1}[kind] if n is None else n, []
        for i, name in enumerate(names):
            prompt = Prompt(messages=(Message(role="user", content=name),))
            texts = tuple(Completion(prompt_id=prompt.id, text=f"answer {k}", sample=k) for k in range(count))
            wanted = {"overlap": 9, "source": project.slug, "priority": priorities[i] if priorities else 0.0, **more}
            made.append(NewTask(kind=kind, prompt=prompt, completions=texts, **wanted))
        add_tasks(self.store, project.id, made)
        return made

    def give(self, held, key):
        ids = [i for card in held.cards for i in card]
        items = tuple(RankedItem(completion_id=i, tier=t) for t, i in enumerate(ids, 1))
        said = Feedback(
            labeler=held.labeler, prompt_id=held.task.prompt_id, judgement=Ranking(items=items), idempotency_key=key
        )
        return answer(self.store, held, [said], mark=answer_mark(key, ""))


@pytest.fixture
def table(where):
    clock = Clock()
    with open_store(where, clock=clock) as store:
        yield Table(store, clock)


def test_what_is_held_comes_first_and_what_the_page_has_is_not_given_again(table):
    project = table.project()
    for name in "xyz":
        table.task(project, name)
    first = offer(table.store, project, "a")
    assert offer(table.store, project, "a").id == first.id
    second = offer(table.store, project, "a", have=[first.id])
    assert second.task.id != first.task.id


def test_the_order_of_the_cards_is_drawn_anew_for_everybody(table):
    project = table.project()
    table.task(project, "x", n=6)
    orders = {tuple(c[0] for c in offer(table.store, project, who).cards) for who in "abcdefgh"}
    assert len(orders) >= 6


def test_every_place_is_as_likely_for_every_completion(table):
    project, draw = table.project(), random.Random(1)
    table.task(project, "x", n=3)
    from tutelage.store.offers import shuffled_cards

    of = get_task(table.store, project.id, 1)
    with table.store.read() as conn:
        first = Counter(shuffled_cards(conn, of, draw)[0][0] for _ in range(900))
    # Each of three is first in 300 of 900, give or take four standard deviations of 14.
    assert len(first) == 3 and all(abs(n - 300) < 57 for n in first.values())


def test_completions_of_one_text_are_one_card(table):
    project = table.project()
    prompt = Prompt(messages=(Message(role="user", content="x"),))
    texts = ("same", " same\n", "other", "same")
    completions = tuple(Completion(prompt_id=prompt.id, text=t, sample=i) for i, t in enumerate(texts))
    add_tasks(table.store, project.id, [NewTask(kind="rank", prompt=prompt, completions=completions, source="s")])
    cards = offer(table.store, project, "a").cards
    assert sorted(len(c) for c in cards) == [1, 3]
    assert sorted(i for c in cards for i in c) == sorted(c.id for c in completions)


def test_nobody_ranks_a_prompt_that_she_answered_herself(table):
    project = table.project()
    made = table.task(project, "x")
    table.task(project, "x", "compare")
    own = Completion(prompt_id=made.prompt.id, text="my own", origin="human")
    add_completions(table.store, [own])
    given = DemonstrationGiven(completion_id=own.id)
    record(table.store, Feedback(labeler="a", prompt_id=made.prompt.id, judgement=given, idempotency_key="k"))
    assert offer(table.store, project, "a") is None
    assert offer(table.store, project, "b") is not None
    table.task(project, "x", "correct")  # to correct it she may be asked
    assert offer(table.store, project, "a").task.kind == "correct"


def test_closed_tasks_and_those_of_other_projects_are_not_offered(table):
    project, other = table.project(), table.project()
    table.task(project, "x")
    assert offer(table.store, other, "a") is None
    close_tasks(table.store, project.id, [1], state="closed")
    assert offer(table.store, project, "a") is None
    close_tasks(table.store, other.id, [1], state="open")  # not theirs to open
    assert offer(table.store, project, "a") is None
    close_tasks(table.store, project.id, [1], state="open")
    assert offer(table.store, project, "a") is not None


def test_the_mix_is_kept(table):
    project = table.project(mix={"rank": 3, "demonstrate": 1})
    table.tasks(project, [f"r{i}" for i in range(60)])
    table.tasks(project, [f"d{i}" for i in range(60)], "demonstrate")
    table.tasks(project, [f"c{i}" for i in range(20)], "compare")
    draw, seen = random.Random(0), Counter()
    for who in "abcdefgh":
        have = []
        for _ in range(6):
            held = offer(table.store, project, who, have=have, rng=draw)
            have.append(held.id)
            seen[held.task.kind] += 1
    # 48 draws, three quarters rankings: 36, give or take three standard deviations of 3; no kind of weight 0.
    assert set(seen) == {"rank", "demonstrate"} and abs(seen["rank"] - 36) <= 9


def test_a_kind_that_is_used_up_gives_way_to_the_others(table):
    project = table.project(mix={"rank": 1000, "demonstrate": 1})
    table.task(project, "d", "demonstrate")
    assert offer(table.store, project, "a").task.kind == "demonstrate"


# Chances.


def test_a_blind_choice_is_as_likely_as_it_says(table):
    """160 desks of four tasks each: which is offered first?"""
    draw, seen, said = random.Random(5), Counter(), set()
    for _ in range(160):
        project = table.project()
        table.tasks(project, [f"t{i}" for i in range(4)])
        held = offer(table.store, project, "a", rng=draw)
        said.add((held.policy, held.probability))
        seen[held.task.id % 4] += 1
    # 40 of 160 each, give or take five standard deviations of 5.5.
    assert said == {("random", 0.25)} and all(abs(seen[i] - 40) < 28 for i in range(4))


def test_the_first_by_priority_is_as_likely_as_it_says(table):
    draw, seen, said = random.Random(6), Counter(), {}
    for _ in range(160):
        project = table.project(random_share=0.4)
        table.tasks(project, [f"t{i}" for i in range(4)], priorities=[0.0, 1.0, 2.0, 3.0])
        held = offer(table.store, project, "a", rng=draw)
        seen[held.task.priority] += 1
        said[held.task.priority, held.policy] = held.probability
    # The best: 0.6 by priority, and a quarter of the blind 0.4. Each other one: a quarter of 0.4.
    assert said[3.0, "priority"] == said[3.0, "random"] == pytest.approx(0.7)
    assert all(p == pytest.approx(0.1) for (best, _), p in said.items() if best != 3.0)
    assert sum({b: p for (b, _), p in said.items()}.values()) == pytest.approx(1.0)
    assert abs(seen[3.0] - 112) < 29 and sum(seen.values()) == 160  # five standard deviations of 5.8


def test_a_priority_that_is_given_later_counts(table):
    project = table.project(random_share=0.2)
    made = [table.task(project, f"t{i}") for i in range(5)]
    assert prioritise(table.store, project.id, {made[3].prompt.id: 2.5, "unknown": 9.0}) == 1
    firsts = Counter(offer(table.store, project, who, rng=random.Random(ord(who))).task.priority for who in "abcdefgh")
    assert firsts[2.5] >= 4


# Checks and repeats.


def test_checks_come_as_often_as_was_set_and_never_run_out(table):
    draw, seen = random.Random(7), Counter()
    for _ in range(100):
        project = table.project(gold_share=0.25)
        table.task(project, "normal")
        table.task(project, "check", gold={"tiers": [1, 2, 3, 4]})
        seen[offer(table.store, project, "a", rng=draw).policy] += 1
    # 25 of 100, give or take five standard deviations of 4.3.
    assert set(seen) == {"check", "random"} and abs(seen["check"] - 25) < 22
    project = table.project(gold_share=0.5)
    table.task(project, "check", gold={"tiers": [1, 2, 3, 4]}, overlap=1)
    for who in "abcdefgh":
        found = None
        while found is None:
            found = offer(table.store, project, who, rng=draw)
        assert found.policy == "check" and found.task.slots > CHECK_SLOTS - 10
        table.give(found, f"key-{who}-{found.id}")
        assert offer(table.store, project, who, rng=random.Random(3)) is None  # once to each person


def test_practice_comes_first_and_once(table):
    project = table.project()
    table.task(project, "normal")
    for name in ("p1", "p2"):
        table.task(project, name, gold={"tiers": [1, 2, 3, 4]}, practice=True)
    seen = []
    for i in range(3):
        held = offer(table.store, project, "a")
        seen.append((held.policy, held.task.is_practice, held.probability))
        table.give(held, f"key-000{i}")
    assert seen == [("practice", True, 1.0)] * 2 + [("random", False, 1.0)]


def test_an_own_old_task_comes_again_once_and_takes_nobodys_place(table):
    project = table.project(repeat_share=0.5, repeat_after_days=7)
    table.task(project, "x", overlap=1)
    first = offer(table.store, project, "a", rng=random.Random(0))
    table.give(first, "key-0001")
    draw = random.Random(0)
    assert all(offer(table.store, project, "a", rng=draw) is None for _ in range(20))  # too early
    table.clock.forward(7 * DAY)
    again = None
    while again is None:
        again = offer(table.store, project, "a", rng=draw)
    assert (again.policy, again.repeat, again.task.id) == ("repeat", 1, first.task.id) and again.id != first.id
    assert get_task(table.store, project.id, 1).slots == 0
    table.give(again, "key-0002")
    table.clock.forward(7 * DAY)
    assert all(offer(table.store, project, "a", rng=draw) is None for _ in range(20))
    assert get_task(table.store, project.id, 1).slots == 0 and list_tasks(table.store, project.id)[0][1] == 2


def test_a_check_is_not_asked_again_as_a_repeat(table):
    project = table.project(repeat_share=0.5, gold_share=0.5, repeat_after_days=0)
    table.task(project, "check", gold={"tiers": [1, 2, 3, 4]})
    draw, held = random.Random(0), None
    while held is None:
        held = offer(table.store, project, "a", rng=draw)
    table.give(held, "key-0001")
    table.clock.forward(DAY)
    assert all(offer(table.store, project, "a", rng=draw) is None for _ in range(20))


def test_the_candidates_are_counted_as_one_by_one(table):
    """The chance of a blind choice is one in as many tasks as she could be given: counted here without an index."""
    draw, project = random.Random(11), table.project(overlap=1)
    made = table.tasks(project, [f"t{i}" for i in range(12)], overlap=2)
    table.tasks(project, [f"t{i}" for i in range(0, 12, 3)], "compare", overlap=1)
    for i, name in ((0, "a"), (5, "a"), (5, "b")):  # texts of their own
        own = Completion(prompt_id=made[i].prompt.id, text=f"{name} wrote it", origin="human")
        add_completions(table.store, [own])
        given = DemonstrationGiven(completion_id=own.id)
        said = Feedback(
            labeler=name, prompt_id=made[i].prompt.id, judgement=given, idempotency_key=f"own-{name}-{i:04d}"
        )
        record(table.store, said)
    close_tasks(table.store, project.id, [4], state="closed")
    seen: dict[str, set[int]] = {name: set() for name in "abc"}
    own_prompts = {"a": {made[0].prompt.id, made[5].prompt.id}, "b": {made[5].prompt.id}, "c": set()}
    for step in range(40):
        who = draw.choice("abc")
        tasks = [t for t, _ in list_tasks(table.store, project.id)]
        free = [
            t
            for t in tasks
            if t.state == "open" and t.slots > 0 and t.id not in seen[who] and t.prompt_id not in own_prompts[who]
        ]
        held = offer(table.store, project, who, rng=draw)
        if held is None:
            assert not free
            continue
        assert held.task.id in {t.id for t in free}
        assert held.probability == pytest.approx(1 / sum(t.kind == held.task.kind for t in free))
        seen[who].add(held.task.id)
        table.give(held, f"key-{step:05d}")
    assert sum(map(len, seen.values())) > 15


def held_in(table, project, labeler):
    with table.store.read() as conn:
        return held_by(conn, project.id, labeler)


def test_a_large_count_is_made_anew_every_few_seconds(table, monkeypatch):
    monkeypatch.setattr("tutelage.store.offers._SOME", offers._ALL)  # as if it had stopped counting at 6 of them
    monkeypatch.setattr("tutelage.store.offers.MANY", 6)
    project, draw = table.project(), random.Random(2)
    table.tasks(project, [f"t{i}" for i in range(6)])
    assert offer(table.store, project, "a", rng=draw).probability == pytest.approx(1 / 6)
    close_tasks(table.store, project.id, [1], state="closed")
    table.task(project, "late")
    table.task(project, "later")  # seven by now, and six are remembered: were it not so, she would see 7
    monkeypatch.setattr("tutelage.store.offers.MANY", 7)
    assert offer(table.store, project, "b", rng=draw).probability == pytest.approx(1 / 6)
    table.clock.forward(COUNTED_S)
    assert offer(table.store, project, "c", rng=draw).probability == pytest.approx(1 / 7)
    have = [h.id for h in held_in(table, project, "c")]
    assert offer(table.store, project, "c", have=have, rng=draw).probability == pytest.approx(1 / 6)  # hers is off
