"""The gate promotes only when every line holds, and names each line that does not."""

import pytest

from tutelage.errors import ConfigError
from tutelage.evals.gate import GateConfig, decide

GOOD = {"win_low": 0.61, "changed": 0.9, "kl": 5.0, "unfinished": 0.01, "unique": 0.9}


def test_a_policy_that_holds_every_line_is_promoted():
    assert decide(GateConfig(), GOOD).promoted


@pytest.mark.parametrize(
    ("name", "value", "word"),
    [
        ("win_low", 0.49, "win rate"),
        ("changed", 0.0, "nothing better"),
        ("kl", 25.1, "nats"),
        ("unfinished", 0.11, "no end"),
        ("unique", 0.49, "differ"),
    ],
)
def test_one_broken_line_is_enough_and_is_named(name, value, word):
    verdict = decide(GateConfig(), GOOD | {name: value})
    assert not verdict.promoted
    assert len(verdict.reasons) == 1 and word in verdict.reasons[0]


def test_every_broken_line_is_named():
    assert (
        len(
            decide(GateConfig(), {"win_low": 0.1, "changed": 0.1, "kl": 99.0, "unfinished": 1.0, "unique": 0.0}).reasons
        )
        == 4
    )


def test_a_win_rate_of_one_is_no_setting():
    with pytest.raises(ConfigError, match=r"gate\.win_rate"):
        GateConfig(win_rate=1.0)
