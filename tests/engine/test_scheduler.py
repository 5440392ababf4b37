"""Slots are filled in order, without a hole, and every sample runs once."""

from hypothesis import given
from hypothesis import strategies as st

from tutelage.engine.request import Request
from tutelage.engine.scheduler import Scheduler


def test_waiting_samples_are_admitted_in_order_and_the_last_moves_into_the_hole():
    scheduler = Scheduler([Request((5,), (1, 2)), Request((6, 7), (3, 4))], n_slots=3)
    assert [(s.i_request, s.i_sample, s.seed, s.length) for s in scheduler.admit()] == [
        (0, 0, 1, 1),
        (0, 1, 2, 1),
        (1, 0, 3, 2),
    ]
    assert scheduler.admit() == []
    assert scheduler.release(0) == 2  # slot 2 moves into slot 0
    assert [s.seed for s in scheduler.running] == [3, 2]
    assert scheduler.release(1) is None
    assert [s.seed for s in scheduler.admit()] == [4]
    assert [s.seed for s in scheduler.running] == [3, 4]


@given(st.lists(st.integers(0, 4), min_size=1, max_size=6), st.integers(1, 5), st.randoms(use_true_random=False))
def test_every_sample_runs_once_and_no_more_than_the_slots_at_a_time(samples, n_slots, random):
    requests = [Request((5,) * (i + 1), tuple(range(10 * i, 10 * i + k))) for i, k in enumerate(samples)]
    scheduler = Scheduler(requests, n_slots)
    slots: dict[int, int] = {}  # what lies in each slot, kept as the engine keeps its cache
    seen = []
    while scheduler.waiting or scheduler.running:
        first = len(scheduler.running)
        for slot, sample in enumerate(scheduler.admit(), start=first):
            slots[slot] = sample.seed
            seen.append(sample.seed)
        assert len(scheduler.running) <= n_slots
        assert [slots[i] for i in range(len(scheduler.running))] == [s.seed for s in scheduler.running]
        slot = random.randrange(len(scheduler.running))
        moved = scheduler.release(slot)
        if moved is not None:
            slots[slot] = slots[moved]
    assert seen == [s for r in requests for s in r.seeds]
