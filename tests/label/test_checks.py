"""How near an answer comes to the known one, and who is told."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tutelage.label.checks import score_check
from tutelage.store.assignments import Held
from tutelage.store.tasks import Task


def held(gold, order=None, *, practice=False) -> Held:
    """A check of as many completions as `gold` has tiers, its cards in this order."""
    tiers = gold["tiers"] if gold else [1, 2]
    ids = tuple(f"c{i}" for i in range(len(tiers)))
    of = Task(1, 1, "rank", "s", "p", ids, 1, 1, 0.0, gold, practice, "open")
    cards = [[ids[i]] for i in (order if order is not None else range(len(ids)))]
    return Held("a", of, "ann", "leased", cards, 0, 0, None, 0, "check", 1.0, False, None, None)


def test_the_known_answer_scores_one_and_its_reverse_nothing():
    gold = {"tiers": [1, 2, 3, 4]}
    assert score_check(held(gold), (1, 2, 3, 4)) == (1.0, None)
    assert score_check(held(gold), (4, 3, 2, 1)) == (0.0, None)
    # One of six pairs is turned round: tau = (5 - 1) / 6, and (1 + tau) / 2 = 5 / 6.
    assert score_check(held(gold), (2, 1, 3, 4))[0] == pytest.approx(5 / 6)


def test_the_score_is_of_the_completions_and_not_of_their_places():
    gold = {"tiers": [1, 2, 3]}
    # Shown as third, first, second: who ranks them 3, 1, 2 ranks them as known.
    assert score_check(held(gold, [2, 0, 1]), (3, 1, 2)) == (1.0, None)
    assert score_check(held(gold, [2, 0, 1]), (1, 2, 3))[0] < 1


@given(st.lists(st.integers(1, 4), min_size=2, max_size=9), st.data())
def test_a_score_lies_between_nothing_and_one(tiers, data):
    said = data.draw(st.lists(st.integers(1, 4), min_size=len(tiers), max_size=len(tiers)))
    score, _ = score_check(held({"tiers": tiers}), tuple(said))
    assert 0.0 <= score <= 1.0
    assert score_check(held({"tiers": tiers}), tuple(tiers))[0] == pytest.approx(1.0)


def test_an_answer_in_which_all_tie_scores_only_where_all_do_tie():
    assert score_check(held({"tiers": [1, 1, 1]}), (1, 1, 1))[0] == 1.0
    assert score_check(held({"tiers": [1, 2, 3]}), (1, 1, 1))[0] == 0.0


def test_only_practice_is_told_the_known_answer():
    gold = {"tiers": [2, 1], "explanation": "The second is true."}
    assert score_check(held(gold), (1, 2))[1] is None
    told = score_check(held(gold, [1, 0], practice=True), (1, 2))[1]
    assert told == {"score": 1.0, "tiers": [1, 2], "explanation": "The second is true."}
    assert score_check(held({"tiers": [1, 2]}, practice=True), (1, 2))[1]["explanation"] == ""


def test_what_is_no_check_has_no_score():
    assert score_check(held(None), (1, 2)) == (None, None)
    assert score_check(held({"tiers": [1, 2]}), None) == (None, None)


def test_over_http_a_check_tells_nothing_and_practice_tells_why(house):
    house.task(question="Practice?", gold={"tiers": [1, 2, 3, 4], "explanation": "Because."}, practice=True)
    who = house.person()
    first = house.next(who)
    assert first["practice"] is True
    tiers = [int(c["text"][-1]) + 1 for c in first["cards"]]  # "answer 2" is third
    said = house.answer(who, first["id"], "key-0001", tiers=tiers).json()
    assert said["practice"] == {"score": 1.0, "tiers": tiers, "explanation": "Because."}
    house.settings(gold_share=0.5)
    house.task(question="Check?", gold={"tiers": [1, 2, 3, 4], "explanation": "Because."})
    while (second := house.next(who)) is None:
        pass
    said = house.answer(who, second["id"], "key-0002").json()
    assert said["practice"] is None and "Because" not in str(said)
