"""Which tasks are in conflict, how badly, and how one is laid out and decided."""

import pytest

from tutelage.errors import DataError
from tutelage.label.disagreements import cards, conflicts, decided_items, example, reversals
from tutelage.label.markup import tree
from tutelage.store.quality_facts import Decision, GivenAnswer, QualityFacts
from tutelage.types import Completion, Message, Prompt

PROMPT = Prompt(messages=(Message(role="system", content="Be kind."), Message(role="user", content="Is it open?")))


def given(labeler, tiers, task=1, **more):
    placed = {c.id: tier for c, tier in zip(written(len(tiers)), tiers, strict=True)}
    fields = {"source": "s", "prompt_id": PROMPT.id, "tiers": placed, "event": f"event:{labeler}-{task}", **more}
    return GivenAnswer(key=f"{labeler}-{task}", task_id=task, kind="rank", labeler=labeler, **fields)


def written(n):
    return [Completion(prompt_id=PROMPT.id, text=f"answer {i}", sample=i) for i in range(n)]


def facts(*answers, decisions=None):
    return QualityFacts(9, tuple(answers), {}, decisions or {})


def decision(*answers, task=1, tiers=(1, 2)):
    placed = {c.id: tier for c, tier in zip(written(len(tiers)), tiers, strict=True)}
    return Decision(task, 8, "rev", placed, tuple(a.event for a in answers), "It is\ntrue.", "2026-01-01T00:00:00")


def test_only_a_strict_reversal_is_a_conflict():
    assert conflicts(facts(given("ann", (1, 2, 3)), given("bob", (1, 1, 2)))) == []
    assert conflicts(facts(given("ann", (1, 2)), given("bob", (2, 1), is_repeat=True))) == []
    assert conflicts(facts(given("ann", (1, 2)), given("bob", (2, 1), is_check=True))) == []
    (found,) = conflicts(facts(given("bob", (1, 3, 2)), given("ann", (1, 2, 3)), given("cat", (1, 2, 2))))
    assert (found.reversed, found.compared, found.severity) == (1, 9, 111)
    assert [a.labeler for a in found.answers] == ["ann", "bob", "cat"]


def test_the_worst_comes_first_and_of_equals_the_older():
    answers = [given("ann", (1, 2, 3), t) for t in (1, 2, 3)]
    answers += [given("bob", (1, 3, 2), 1), given("bob", (3, 2, 1), 2), given("bob", (2, 1, 3), 3)]
    assert [(c.task_id, c.severity) for c in conflicts(facts(*answers))] == [(2, 1000), (1, 333), (3, 333)]


def test_a_decided_task_is_open_again_when_somebody_says_something_else():
    ann, bob = given("ann", (1, 2)), given("bob", (2, 1))
    (open_,) = conflicts(facts(ann, bob))
    (closed,) = conflicts(facts(ann, bob, decisions={1: decision(ann, bob)}))
    revised = given("bob", (2, 1), event="event:bob-1:r1:0")
    (again,) = conflicts(facts(ann, revised, decisions={1: decision(ann, bob)}))
    assert (open_.is_open, closed.is_open, again.is_open) == (True, False, True)
    assert open_.mark == closed.mark != again.mark


def test_reversals_name_who_stands_on_which_side_the_most_divided_first():
    people = (("ann", (1, 2, 3)), ("bob", (1, 3, 2)), ("cat", (2, 1, 3)), ("dan", (1, 3, 2)))
    (found,) = conflicts(facts(*(given(name, tiers) for name, tiers in people)))
    shown = [(r.upper, r.lower, r.upper_first, r.lower_first) for r in reversals(found, [[c] for c in written(3)])]
    assert shown == [("B", "C", ("ann", "cat"), ("bob", "dan")), ("A", "B", ("ann", "bob", "dan"), ("cat",))]


def test_completions_of_one_text_are_one_card_and_one_place():
    same = Completion(prompt_id=PROMPT.id, text=" answer 0 ", sample=7)
    first, second = written(2)
    laid = cards([first, second, same])
    assert laid == [[first, same], [second]]
    items = decided_items(laid, [5, 2])
    assert [(i.completion_id, i.tier) for i in items] == [(first.id, 2), (same.id, 2), (second.id, 1)]
    with pytest.raises(DataError, match="2 answers are to be placed, and 1 have"):
        decided_items(laid, [1])


def test_an_example_quotes_everything_that_it_did_not_write():
    hostile = "# Publish this\n\n<script>alert(1)</script>\n- item"
    laid = [[Completion(prompt_id=PROMPT.id, text=t, sample=i)] for i, t in enumerate((hostile, "x" * 4000))]
    placed = {card[0].id: tier for card, tier in zip(laid, (2, 1), strict=True)}
    text = example(PROMPT, laid, Decision(1, 8, "rev", placed, (), "It is\ntrue.", ""))
    assert text.index("x" * 1500) < text.index("# Publish this") and "x" * 1501 not in text and "[…]" in text
    assert "**Why:** It is true." in text
    own = [line for line in text.splitlines() if line and not line.startswith(">")]
    assert own == [
        "## Example: Is it open?", "**System**", "**User**", "**Place 1**", "**Place 2**", "**Why:** It is true.",
    ]  # fmt: skip
    assert [node[0] for node in tree(text) if isinstance(node, list) and node[0].startswith("h")] == ["h4"]
