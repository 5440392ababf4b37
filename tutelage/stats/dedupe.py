"""Texts that occur twice: exactly after normalising, or nearly, by shared word n-grams.

Words are what white space divides, so a script without spaces is compared whole.
"""

import math
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

NGRAM = 8  # words
THRESHOLD = 0.8  # Jaccard

Grams = set[tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class NearDuplicate:
    """`left[i_left]` and `right[i_right]` share `jaccard` of their n-grams; 1 for texts equal once normalised."""

    i_left: int
    i_right: int
    jaccard: float


def normalise(text: str) -> str:
    """Lower case, Unicode form NFKC, single spaces, no punctuation at either end; a text of punctuation alone keeps it.

    `"  What is\\nRLHF?! "` and `"what is rlhf"` come out the same; `"2 + 2"` and `"2 - 2"` do not.
    """
    spaced = " ".join(unicodedata.normalize("NFKC", text).lower().split())
    is_edge = [unicodedata.category(c)[0] in "PZ" for c in spaced]
    if all(is_edge):
        return spaced
    return spaced[is_edge.index(False) : len(spaced) - is_edge[::-1].index(False)]


def _grams(text: str, n: int) -> Grams:
    """Word n-grams of the normalised text; a shorter text is one gram, an empty one has none."""
    words = normalise(text).split()
    if not words:
        return set()
    return {tuple(words[i : i + n]) for i in range(max(1, len(words) - n + 1))}


def _prefix(grams: Grams, count: Counter[tuple[str, ...]], threshold: float) -> list[tuple[str, ...]]:
    """The rarest grams, of which two texts above the threshold must share at least one.

    A pair with Jaccard >= t shares at least ceil(t * size) grams of each, so it cannot miss the first
    size - ceil(t * size) + 1 of both in one common order (Chaudhuri et al. 2006). Rarest first keeps boilerplate that
    all texts share out of the index.
    """
    n_shared = max(1, math.ceil(threshold * len(grams) - 1e-9))
    return sorted(grams, key=lambda gram: (count[gram], gram))[: len(grams) - n_shared + 1]


def near_duplicates(
    left: Sequence[str], right: Sequence[str], *, n: int = NGRAM, threshold: float = THRESHOLD
) -> list[NearDuplicate]:
    """Every pair of a left and a right text whose n-gram sets have Jaccard similarity of `threshold` or more.

    Sorted by i_left, then i_right. Exact: the inverted index only skips pairs that cannot reach the threshold.
    """
    assert 0 < threshold <= 1, f"threshold = {threshold}: above 0, or every pair counts; at most 1"
    left_grams, right_grams = [_grams(text, n) for text in left], [_grams(text, n) for text in right]
    count = Counter(gram for grams in (*left_grams, *right_grams) for gram in grams)
    index: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for i_right, grams in enumerate(right_grams):
        for gram in _prefix(grams, count, threshold):
            index[gram].append(i_right)
    found = []
    for i_left, grams in enumerate(left_grams):
        candidates = {i for gram in _prefix(grams, count, threshold) for i in index.get(gram, ())}
        for i_right in sorted(candidates):
            n_shared = len(grams & right_grams[i_right])
            jaccard = n_shared / (len(grams) + len(right_grams[i_right]) - n_shared)
            if jaccard >= threshold:
                found.append(NearDuplicate(i_left, i_right, jaccard))
    return found
