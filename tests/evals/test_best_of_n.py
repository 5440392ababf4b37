"""Best of n: the kept answer has the highest score of the first n."""

import math

import pytest

from tutelage.evals.best_of_n import best_of_n
from tutelage.types import Completion


def test_the_best_of_the_first_n_is_kept():
    answers = [Completion(prompt_id="p", text=str(i)) for i in range(8)]
    scores = [0.1, 0.5, 0.3, 0.9, 2.0, 1.0, 3.0, 0.0]
    two, four = (best_of_n(answers, scores, n, group=4) for n in (2, 4))
    assert [c.text for c in two.chosen] == ["1", "4"]
    assert [c.text for c in four.chosen] == ["3", "6"]
    # ln 4 - 3/4
    assert four.kl == pytest.approx(math.log(4) - 0.75)
