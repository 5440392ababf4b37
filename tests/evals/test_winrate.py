"""Win rates by hand, and what must hold for any two policies."""

import pytest

from tutelage.evals.winrate import win_rate
from tutelage.types import Completion, Message, Prompt

PROMPTS = [Prompt(messages=(Message(role="user", content=f"question {i}"),)) for i in range(8)]


def _answers(texts):
    return [Completion(prompt_id=p.id, text=t) for p, t in zip(PROMPTS, texts, strict=True)]


def _by_number(prompts, completions):
    return [float(c.text.split()[0]) for c in completions]


def test_wins_count_one_and_ties_half():
    # 5 wins, 1 tie (same words), 2 losses: (5 + .5) / 8.
    ours = _answers(["1 a", "1 b", "1 c", "1 d", "1 e", "0 f", "0 g", "0 h"])
    theirs = _answers(["0 a", "0 b", "0 c", "0 d", "0 e", "0 f", "1 g", "1 h"])
    found = win_rate(PROMPTS, ours, theirs, _by_number)
    assert found.rate == pytest.approx(5.5 / 8)
    assert (found.wins, found.ties, found.losses, found.n) == (5, 1, 2, 8)
    assert found.low < found.rate < found.high


def test_swapping_the_policies_mirrors_everything():
    ours, theirs = (
        _answers(["3", "1", "2", "5", "1", "0", "7", "2"]),
        _answers(["1", "1 x", "3", "2", "9", "0", "1", "4"]),
    )
    a, b = win_rate(PROMPTS, ours, theirs, _by_number), win_rate(PROMPTS, theirs, ours, _by_number)
    assert a.rate == pytest.approx(1 - b.rate)
    assert a.length_controlled == pytest.approx(1 - b.length_controlled, abs=1e-6)
    assert (a.wins, a.losses) == (b.losses, b.wins)


def test_the_same_words_are_a_tie_even_for_a_judge_that_rounds():
    calls = iter([0.0, 1e-7])

    def rounding(prompts, completions):
        offset = next(calls)
        return [offset for _ in completions]

    same = _answers(["a", "b", "c", "d", "e", "f", "g", "h"])
    assert win_rate(PROMPTS, same, same, rounding).rate == 0.5


def test_scores_within_the_tie_width_are_ties():
    ours, theirs = _answers(["1.0"] * 8), _answers(["0.95"] * 8)
    assert win_rate(PROMPTS, ours, theirs, _by_number, tie_width=0.1).ties == 8
    assert win_rate(PROMPTS, ours, theirs, _by_number).wins == 8
