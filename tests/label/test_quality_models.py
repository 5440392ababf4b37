"""The newest reward model's card is found and read, and a spoilt one is named."""

import json

import pytest

from tutelage.errors import DataError
from tutelage.label.quality_models import newest_reward_card
from tutelage.stats.agreement import Rate

CARD = {
    "accuracy": 0.7,
    "accuracy_low": 0.6,
    "accuracy_high": 0.8,
    "n": 90,
    "by_labeler": {"ann": {"n": 40, "accuracy": 0.75, "low": 0.6, "high": 0.85}},
}


def publish(run, i_round, facts):
    folder = run / f"round-{i_round}" / "reward-0"
    folder.mkdir(parents=True)
    (folder / "reward.json").write_text(facts if isinstance(facts, str) else json.dumps(facts), "utf-8")


def test_the_newest_round_with_a_reward_model_counts(tmp_path):
    assert newest_reward_card(tmp_path) is None
    publish(tmp_path, 2, {"card": CARD | {"accuracy": 0.5}})
    publish(tmp_path, 10, {"card": CARD})
    (tmp_path / "round-11").mkdir()
    (tmp_path / "round-x").mkdir()
    card = newest_reward_card(tmp_path)
    assert card.where == "round-10/reward-0" and card.whole == Rate(0.7, 0.6, 0.8, 90)
    assert card.by_labeler == {"ann": Rate(0.75, 0.6, 0.85, 40)}


def test_a_reward_model_that_was_not_measured_has_no_card(tmp_path):
    publish(tmp_path, 1, {"card": {}})
    assert newest_reward_card(tmp_path) is None


@pytest.mark.parametrize(
    "facts", ["{", "[]", {"other": 1}, {"card": {"accuracy": 0.7}}, {"card": CARD | {"n": "many"}}]
)
def test_a_spoilt_card_is_named(tmp_path, facts):
    publish(tmp_path, 1, facts)
    with pytest.raises(DataError, match=r"reward\.json is not the card of a reward model"):
        newest_reward_card(tmp_path)
