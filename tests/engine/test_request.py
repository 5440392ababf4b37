"""What is asked and answered cannot be changed afterwards."""

from dataclasses import FrozenInstanceError

import pytest

from tutelage.engine.request import Request, Sample, SamplingConfig


@pytest.mark.parametrize(
    ("fact", "name"),
    [
        (Request((5,), (1,)), "seeds"),
        (Sample(0, 0, (5, 1), (-0.1, -0.2), "stop", 3), "version"),
        (SamplingConfig(), "temperature"),
    ],
)
def test_requests_samples_and_settings_are_frozen(fact, name):
    with pytest.raises(FrozenInstanceError):
        setattr(fact, name, 7)


def test_training_samples_from_the_policy_itself_unless_told_otherwise():
    assert SamplingConfig() == SamplingConfig(max_new_tokens=48, temperature=1.0, top_p=1.0, top_k=0)
    assert SamplingConfig().is_policy_itself
