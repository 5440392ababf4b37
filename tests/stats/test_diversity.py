"""Published and hand-worked diversity, then what must hold for identical and for repeated texts."""

import itertools
import math
import random

import pytest

from tutelage.stats.diversity import (
    bleu,
    distinct_n,
    ead,
    ead_n,
    max_ngram_repeat,
    self_bleu,
    unbiased_max_of_k,
    zlib_ratio,
)


def words(text):
    return text.split()


TEXTS = [words("a b c d"), words("a b c e")]


@pytest.mark.parametrize(("n", "distinct", "expectation_adjusted"), [(1, 0.625, 0.877913), (2, 0.666667, 0.853681)])
def test_distinct_and_ead(n, distinct, expectation_adjusted):
    assert distinct_n(TEXTS, n) == pytest.approx(distinct, abs=1e-6)
    assert ead_n(TEXTS, n, vocabulary=10) == pytest.approx(expectation_adjusted, abs=1e-6)


def test_ead_is_the_mean_over_n_and_empty_lengths_count_nought():
    parts = [ead_n(TEXTS, n, vocabulary=10) for n in range(1, 6)]
    assert parts[4] == 0  # no text has five tokens
    assert ead(TEXTS, vocabulary=10) == pytest.approx(sum(parts) / 5)
    assert distinct_n([], 1) == ead([], vocabulary=10) == 0


def test_k_identical_texts_are_one_kth_distinct():
    assert distinct_n([["a", "b", "c"]] * 8, 2) == pytest.approx(1 / 8)


def test_ead_does_not_fall_with_length_alone_as_distinct_does():
    rng = random.Random(0)
    short, long = ([[rng.randrange(50) for _ in range(n)]] for n in (40, 400))
    assert distinct_n(long, 1) < 0.3 * distinct_n(short, 1)
    assert ead_n(long, 1, vocabulary=50) == pytest.approx(1, abs=0.02)
    assert ead_n(short, 1, vocabulary=50) == pytest.approx(1, abs=0.15)


def test_bleu_by_hand():
    # "a b c d e" against "a b c d f": precisions 4/5, 3/4, 2/3, 1/2, equal lengths.
    got = bleu(words("a b c d e"), [words("a b c d f")])
    assert got == pytest.approx((4 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** 0.25)


def test_bleu_smooths_orders_without_a_match_and_clips_repeats():
    # "a a a a" against "a b": precisions 1/4 (clipped), then .1/3, .1/2, .1/1.
    got = bleu(words("a a a a"), [words("a b")])
    assert got == pytest.approx((1 / 4 * 0.1 / 3 * 0.1 / 2 * 0.1) ** 0.25)


def test_bleu_penalises_brevity_against_the_closest_reference():
    # Four tokens, references of 6 and 9: closest 6, penalty exp(1 - 6/4); every n-gram matches.
    got = bleu(words("a b c d"), [words("a b c d e f"), words("x x x x x x x x x")])
    assert got == pytest.approx(math.exp(1 - 6 / 4))
    assert bleu(words("a b c d"), [words("w x y z")]) == 0


def test_self_bleu_runs_from_the_same_text_to_nothing_shared():
    assert self_bleu([words("a b c d")] * 3) == pytest.approx(1)
    assert self_bleu([words("a b c d"), words("e f g h")]) == 0
    assert self_bleu([words("a b c d")]) is None
    first, second = TEXTS
    assert self_bleu(TEXTS) == pytest.approx((bleu(first, [second]) + bleu(second, [first])) / 2)


def test_self_bleu_ignores_the_order_of_texts():
    texts = [t.split() for t in ("a b c d e", "a b c x y", "a q c d e f", "b c d")]
    want = self_bleu(texts)
    assert all(self_bleu(order) == pytest.approx(want) for order in itertools.permutations(texts))


def test_repeats_of_an_ngram():
    loop = words("I am here . I am here . I am here .")
    assert max_ngram_repeat(loop, 3) == 3
    assert max_ngram_repeat(words("a a a a"), 3) == 2
    assert max_ngram_repeat(words("a b c d"), 3) == 1
    assert max_ngram_repeat(words("a b"), 3) == 0


def test_a_loop_compresses_and_prose_does_not():
    prose = "A loop compresses well; a sentence such as this, with few words said twice, does not."
    assert zlib_ratio("over and " * 100) > 20 > 2 > zlib_ratio(prose) > 0.5
    assert zlib_ratio("") == 0


def test_greatest_of_k_by_hand():
    assert unbiased_max_of_k([1, 2, 3, 4], 2) == pytest.approx(3.333333, abs=1e-6)
    rows = [[0.1, 0.6, 0.2], [0.1, 0.2, 0.3]]
    assert sum(unbiased_max_of_k(row, 2) for row in rows) / 2 == pytest.approx(0.366667, abs=1e-6)
    assert sum(unbiased_max_of_k(row, 3) for row in rows) / 2 == pytest.approx(0.45)


@pytest.mark.parametrize("k", [1, 2, 3, 4, 5])
def test_greatest_of_k_is_the_mean_over_all_subsets(k):
    values = [0.3, -1.0, 2.0, 0.3, 0.7]
    want = [max(s) for s in itertools.combinations(values, k)]
    assert unbiased_max_of_k(values, k) == pytest.approx(sum(want) / len(want))
