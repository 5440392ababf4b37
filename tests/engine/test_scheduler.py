"""Slots are filled in order, without a hole, and every sample runs once."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tutelage.engine.request import Request
from tutelage.engine.scheduler import Scheduler


def seeds(scheduler, samples):
    return [int(scheduler.draws.seed_R[s.row]) for s in samples]


def draw(scheduler, token, first=0):
    """The same token for all running samples from a slot on."""
    n = scheduler.n_running - first
    scheduler.append(first, np.full(n, token), np.full(n, -1.0))


def test_waiting_samples_are_admitted_in_order_and_the_last_moves_into_the_hole():
    scheduler = Scheduler([Request((5,), (1, 2)), Request((6, 7), (3, 4))], n_slots=3, limit=9)
    taken = scheduler.admit()
    assert [(s.i_request, s.i_sample) for s in taken] == [(0, 0), (0, 1), (1, 0)] and seeds(scheduler, taken) == [
        1,
        2,
        3,
    ]
    assert scheduler.admit() == [] and (scheduler.n_waiting, scheduler.next_requests(5)) == (1, [1])
    draw(scheduler, 8)
    assert scheduler.release(0) == (2, 3)  # slot 2 with its two prompt tokens and a third moves into slot 0
    assert seeds(scheduler, scheduler.running) == [3, 2]
    assert scheduler.release(1) is None
    assert seeds(scheduler, scheduler.admit()) == [4] and scheduler.next_requests(5) == []
    assert seeds(scheduler, scheduler.running) == [3, 4]


@given(st.lists(st.integers(0, 4), min_size=1, max_size=6), st.integers(1, 5), st.randoms(use_true_random=False))
def test_every_sample_runs_once_and_no_more_than_the_slots_at_a_time(samples, n_slots, random):
    requests = [Request((5,) * (i + 1), tuple(range(10 * i, 10 * i + k))) for i, k in enumerate(samples)]
    scheduler = Scheduler(requests, n_slots, limit=9)
    slots: dict[int, int] = {}  # what lies in each slot, kept as the engine keeps its cache
    seen = []
    while scheduler.n_waiting or scheduler.n_running:
        first = scheduler.n_running
        for slot, seed in enumerate(seeds(scheduler, scheduler.admit()), start=first):
            slots[slot] = seed
            seen.append(seed)
        assert scheduler.n_running <= n_slots
        assert [slots[i] for i in range(scheduler.n_running)] == seeds(scheduler, scheduler.running)
        slot = random.randrange(scheduler.n_running)
        if moved := scheduler.release(slot):
            slots[slot] = slots[moved[0]]
    assert seen == [s for r in requests for s in r.seeds]


def test_what_a_step_asks_of_each_slot_follows_its_sample():
    scheduler = Scheduler([Request((5,), (11, 12)), Request((6, 7, 8), (13,), max_new_tokens=2)], n_slots=3, limit=9)
    scheduler.admit()
    scheduler.append(0, np.array([20, 21, 22]), np.array([-0.5, -1.5, -2.5]))
    assert [x.tolist() for x in scheduler.last()] == [[20, 21, 22], [1, 1, 3]]
    assert scheduler.rows().tolist() == [0, 1, 2] and scheduler.rows(2).tolist() == [2]
    assert scheduler.over(end_id=20) == [0] and scheduler.over(end_id=99) == []
    assert scheduler.release(0) == (2, 4)  # the last sample takes everything along
    assert [x.tolist() for x in scheduler.last()] == [[22, 21], [3, 1]]
    scheduler.append(0, np.array([30, 31]), np.array([-3.0, -4.0]))
    assert [s.token_ids for s in scheduler.running] == [[22, 30], [21, 31]]
    assert [s.logp for s in scheduler.running] == [[-2.5, -3.0], [-1.5, -4.0]]
    assert scheduler.last()[1].tolist() == [4, 2]
    assert scheduler.over(end_id=99) == [0]  # the limit of its request is lower than that of all
    assert scheduler.over(end_id=31) == [1, 0]


def test_a_limit_of_a_request_may_only_be_lower():
    assert [Request((5,), (1,), max_new_tokens=n).limit(4) for n in (None, 2, 9)] == [4, 2, 4]


def test_many_slots_are_filled_together_and_the_last_samples_are_not_kept_waiting():
    scheduler = Scheduler([Request((5,), tuple(range(70)))], n_slots=64, limit=9)
    assert len(scheduler.admit()) == 64
    for n_free, taken, few in (
        (1, 0, 60),
        (2, 0, 60),
        (3, 0, 60),
        (4, 4, 62),
        (1, 0, 62),
        (2, 2, 0),
    ):  # 6 wait: 4 at once, and then the 2 that are left
        scheduler.release(0)
        assert len(scheduler.admit()) == taken and scheduler.few == few, n_free
    for _ in range(64):
        scheduler.release(0)
    assert not scheduler.n_running and not scheduler.n_waiting
