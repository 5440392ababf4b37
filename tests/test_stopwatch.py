"""Phases add up to the whole, what lies inside is counted once, and a watch that is off reads nothing."""

from itertools import count

import pytest

from tutelage.stopwatch import OFF, Stopwatch


class Hand:
    """A clock and a memory that stand until they are moved."""

    def __init__(self):
        self.now, self.held, self.most = 100.0, 10, 10

    def runs(self, seconds, *, up_to=0):
        self.now += seconds
        self.most = max(self.most, up_to)

    def peak(self):
        most, self.most = self.most, self.held
        return most

    def watch(self):
        return Stopwatch(lambda: self.now, self.peak)


def seconds(watch):
    return {place: spent.seconds for place, spent in watch.spent().items()}


def test_the_inner_phase_alone_counts_its_time():
    hand = Hand()
    watch = hand.watch()
    hand.runs(1)
    with watch.phase("sampling"):
        hand.runs(2)
        with watch.phase("prefill"):
            hand.runs(4)
        hand.runs(8)
    hand.runs(16)
    assert seconds(watch) == {(): 17, ("sampling",): 10, ("sampling", "prefill"): 4}


def test_what_lies_deep_is_a_part_of_the_outermost_phase():
    hand = Hand()
    watch = hand.watch()
    with watch.phase("evaluation"), watch.phase("sampling"):
        hand.runs(1)
        with watch.phase("prefill"):
            hand.runs(2)
    assert seconds(watch) == {(): 0, ("evaluation",): 0, ("evaluation", "sampling"): 1, ("evaluation", "prefill"): 2}


def test_phases_add_up_to_all_that_has_passed():
    ticks = count()
    watch = Stopwatch(lambda: float(next(ticks)), lambda: 0)  # every look at the clock takes a second
    for _ in range(3):
        with watch.phase("update"):
            for name in ("forward", "backward", "forward"):
                with watch.phase(name):
                    pass
    total = sum(s.seconds for s in watch.spent().values())
    assert total == next(ticks) - 1 and total > 20
    assert list(watch.spent()) == [(), ("update",), ("update", "forward"), ("update", "backward")]


def test_a_peak_is_that_of_the_phase_and_of_what_it_lies_in():
    hand = Hand()
    watch = hand.watch()
    with watch.phase("update"):
        hand.runs(1, up_to=50)
        with watch.phase("forward"):
            hand.runs(1, up_to=90)
        with watch.phase("backward"):
            hand.runs(1, up_to=70)
    hand.runs(1, up_to=20)
    peaks = {place: spent.peak for place, spent in watch.spent().items()}
    assert peaks == {(): 20, ("update",): 90, ("update", "forward"): 90, ("update", "backward"): 70}


def test_what_raises_ends_its_phase():
    hand = Hand()
    watch = hand.watch()
    with pytest.raises(ValueError), watch.phase("update"):
        hand.runs(1)
        raise ValueError
    hand.runs(2)
    assert seconds(watch) == {(): 2, ("update",): 1}


def test_restart_forgets():
    hand = Hand()
    watch = hand.watch()
    with watch.phase("evaluation"):
        hand.runs(5, up_to=99)
    watch.restart()
    hand.runs(1)
    assert seconds(watch) == {(): 1} and watch.spent()[()].peak == 10


def test_off_is_one_context_that_does_nothing():
    assert OFF.phase("sampling") is OFF.phase("update")  # nothing is made, so nothing can read a clock
    with OFF.phase("sampling"), OFF.phase("sampling"):
        pass
