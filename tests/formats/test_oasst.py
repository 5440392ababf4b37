"""Open-Assistant trees."""

import pytest

from tutelage.formats import oasst
from tutelage.formats.fields import Refused
from tutelage.types import Demonstration, Prompt, RankedGroup


def said(text, *replies, role="assistant", **more):
    return {"text": text, "role": role, "replies": list(replies), **more}


def asked(text, *replies, **more):
    return said(text, *replies, role="prompter", **more)


def read(root):
    return list(oasst.read({"message_tree_id": "t", "prompt": root}))


def test_reply_groups_with_ranks_are_rankings_and_the_best_is_a_demonstration():
    tree = asked("q", said("b", rank=1), said("a", asked("more?"), rank=0), said("gone", rank=2, deleted=True))
    ranking, demo, prompt = read(tree)
    assert isinstance(ranking, RankedGroup)
    assert (ranking.texts, ranking.tiers) == (("b", "a"), (2, 1))
    assert isinstance(demo, Demonstration)
    assert demo.text == "a"
    assert isinstance(prompt, Prompt)
    assert [m.content for m in prompt.messages] == ["q", "a", "more?"]


def test_an_only_answer_is_a_demonstration_unless_a_model_wrote_it():
    assert [type(i) for i in read(asked("q", said("a")))] == [Demonstration]
    assert read(asked("q", said("a", synthetic=True))) == []
    assert read(asked("q", said("a"), said("b"))) == []  # two without ranks: which is the better is not known


def test_ranks_with_a_gap_become_tiers():
    ranking, _ = read(asked("q", said("a", rank=0), said("x", rank=1, review_result=False), said("c", rank=4)))
    assert ranking.tiers == (1, 2)


def test_a_chain_of_many_turns_is_refused_not_a_crash():
    tree = said("end")
    for i in range(5000):
        tree = asked(str(i), tree) if i % 2 == 0 else said(str(i), tree)
    with pytest.raises(Refused, match="too deep"):
        read(asked("q", tree))


@pytest.mark.parametrize("tree", [None, "x", {"role": "poet", "text": "x"}, asked(""), asked("q", "x")])
def test_what_is_no_tree_is_refused(tree):
    with pytest.raises(Refused):
        read(tree)
