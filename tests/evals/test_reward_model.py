"""Accuracy of a reward model by hand, and the answers that must not look good."""

import pytest
import torch

from tutelage.errors import DataError
from tutelage.evals.reward_model import evaluate
from tutelage.types import Message, Prompt, RankedGroup


def _group(i, texts, tiers, labeler="ann", source="s"):
    prompt = Prompt(messages=(Message(role="user", content=f"question {i}"),))
    return RankedGroup(prompt=prompt, texts=tuple(texts), tiers=tuple(tiers), labeler=labeler, source=source)


GROUPS = [
    _group(0, ["5 good long answer", "1 bad", "1 worse"], [1, 2, 2]),  # two pairs with a winner, one tie
    _group(1, ["2 no", "4 yes indeed"], [2, 1], labeler="bob", source="t"),
    _group(2, ["1 first", "3 second answer"], [1, 2], labeler="bob", source="t"),  # the score orders this one wrongly
]


def _by_number(prompts, texts):
    return torch.tensor([float(t.split()[0]) for t in texts])


def test_accuracy_ties_and_strata_by_hand():
    report = evaluate(_by_number, GROUPS)
    assert (report.n, report.n_ties) == (4, 1)
    assert report.accuracy == pytest.approx(3 / 4)
    assert report.accuracy_better_second == report.accuracy
    assert report.by_source["s"].accuracy == 1.0 and report.by_source["t"].accuracy == 0.5
    assert report.by_labeler["bob"].n == 2
    # The better answer is longer in three of the four pairs.
    assert report.longer_wins_accuracy == pytest.approx(3 / 4)
    assert report.when_shorter_wins.n == 1 and report.when_shorter_wins.accuracy == 0.0
    assert report.agreement is None


def test_a_constant_reward_model_scores_nothing():
    report = evaluate(lambda prompts, texts: torch.zeros(len(texts)), GROUPS)
    assert report.accuracy == 0.0
    assert report.length_corr == 0.0


def test_a_reward_model_that_counts_characters_is_exactly_the_length_baseline():
    report = evaluate(lambda prompts, texts: torch.tensor([float(len(t)) for t in texts]), GROUPS)
    assert report.accuracy == pytest.approx(report.longer_wins_accuracy)
    assert report.length_corr == pytest.approx(1.0)


def test_turning_the_labels_round_turns_the_accuracy_round():
    turned = [g.model_copy(update={"tiers": tuple(max(g.tiers) + 1 - t for t in g.tiers)}) for g in GROUPS]
    assert evaluate(_by_number, turned).accuracy == pytest.approx(1 - evaluate(_by_number, GROUPS).accuracy)


def test_the_ceiling_is_what_two_labelers_agree_on():
    judged = [(0, [1, 2], "ann"), (0, [2, 1], "bob"), (1, [1, 2], "ann"), (1, [1, 2], "bob")]
    twice = [_group(i, ["1 a", "2 b"], tiers, who) for i, tiers, who in judged]
    assert evaluate(_by_number, twice).agreement == pytest.approx(0.5)


def test_calibration_of_margins_that_say_what_happens():
    # Margin 2: p = .8808; right in 3 of 4 pairs, so the error is |.75 - .8808|.
    groups = [_group(i, ["2 x", "0 y"], [1, 2] if i else [2, 1]) for i in range(4)]
    assert evaluate(_by_number, groups).ece == pytest.approx(0.8808 - 0.75, abs=1e-4)


def test_nothing_but_ties_is_an_error():
    with pytest.raises(DataError, match="no pair with a winner"):
        evaluate(_by_number, [_group(0, ["1 a", "2 b"], [1, 1])])
