"""Normal forms by hand; near duplicates against the slow way."""

import random
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tutelage.stats.dedupe import NearDuplicate, near_duplicates, normalise


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("  What is\n\tRLHF?! ", "what is rlhf"),
        ("what is rlhf", "what is rlhf"),
        ("\uff37\uff48\uff41\uff54\u00a0\ufb01ts", "what fits"),  # full-width letters, no-break space, ligature
        ("2 + 2", "2 + 2"),
        ("2 - 2", "2 - 2"),
        ("Don't stop, now.", "don't stop, now"),
        ("?!", "?!"),
        ("", ""),
        (" \n", ""),
        ("( 'quoted' )", "quoted"),
    ],
)
def test_normal_forms(text, want):
    assert normalise(text) == want


@given(st.text(max_size=40))
def test_white_space_around_and_doubled_within_changes_nothing(text):
    assert normalise(f"\n {text} ") == normalise(text) == normalise(text.replace(" ", " \t"))
    assert "  " not in normalise(text)


def words(n, start=0):
    return " ".join(f"w{i}" for i in range(start, start + n))


def test_jaccard_of_eight_grams_by_hand():
    # 30 words have 23 eight-grams. Two words more at the end: 25, of which 23 are shared: .92.
    assert near_duplicates([words(30)], [words(32)]) == [NearDuplicate(0, 0, pytest.approx(23 / 25))]
    # 27 of 23 + 10 words: 20 of 30 shared: below .8.
    assert near_duplicates([words(30)], [words(37, start=3)]) == []
    assert near_duplicates([words(30)], [words(37, start=3)], threshold=0.6)[0].jaccard == pytest.approx(20 / 33)


def test_equal_but_for_case_and_spaces_is_a_duplicate_of_any_length():
    assert near_duplicates(["Hello  THERE!"], ["hello there"]) == [NearDuplicate(0, 0, 1.0)]
    assert near_duplicates(["hello there"], ["hello you"]) == []
    assert near_duplicates([""], [""]) == []


def test_finds_what_comparing_every_pair_finds():
    rng = random.Random(0)
    base = [[f"w{rng.randrange(30)}" for _ in range(rng.randrange(9, 40))] for _ in range(25)]

    def spoil(text):
        return " ".join(w if rng.random() > 0.02 else "new" for w in text)

    left, right = ([spoil(rng.choice(base)) for _ in range(60)] for _ in range(2))

    def grams(text):
        w = text.split()
        return {tuple(w[i : i + 3]) for i in range(max(1, len(w) - 2))}

    for threshold in (0.5, 0.8, 1.0):
        slow = [
            (i, j)
            for i, a in enumerate(left)
            for j, b in enumerate(right)
            if len(grams(a) & grams(b)) / len(grams(a) | grams(b)) >= threshold
        ]
        got = [(d.i_left, d.i_right) for d in near_duplicates(left, right, n=3, threshold=threshold)]
        assert got == slow and slow


def test_either_side_may_be_left():
    rng = random.Random(1)
    left, right = ([words(rng.randrange(20, 40), rng.randrange(3)) for _ in range(20)] for _ in range(2))
    there = {(d.i_left, d.i_right, d.jaccard) for d in near_duplicates(left, right)}
    back = {(d.i_right, d.i_left, d.jaccard) for d in near_duplicates(right, left)}
    assert there == back and there


def test_thousands_of_texts_with_one_preamble_take_seconds():
    # Every text opens with the same 40 words: indexed in full, each gram of them would list every text.
    rng = random.Random(2)
    left, right = (
        [words(40) + " " + " ".join(str(rng.random()) for _ in range(40)) for _ in range(2000)] for _ in range(2)
    )
    right[7] = left[11]
    start = time.perf_counter()
    assert near_duplicates(left, right) == [NearDuplicate(11, 7, 1.0)]
    assert time.perf_counter() - start < 20
