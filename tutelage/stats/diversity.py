"""How varied texts are, and how repetitive one is. A text is a sequence of tokens: words or token ids.

A set of identical texts scores about 1 / size, not 0; what pools tokens depends on how many there are, so compare
equal budgets only.
"""

import math
import zlib
from collections import Counter
from collections.abc import Hashable, Iterator, Sequence

from tutelage.stats.order_statistics import best_of_weights

Text = Sequence[Hashable]


def _ngrams(text: Text, n: int) -> Iterator[tuple[Hashable, ...]]:
    return (tuple(text[i : i + n]) for i in range(len(text) - n + 1))


def _count(texts: Sequence[Text], n: int) -> Counter[tuple[Hashable, ...]]:
    return Counter(gram for text in texts for gram in _ngrams(text, n))


def distinct_n(texts: Sequence[Text], n: int) -> float:
    """Different n-grams over all n-grams, pooled over texts; 0 where there is none. Li et al. 2016."""
    count = _count(texts, n)
    return len(count) / count.total() if count else 0.0


def ead_n(texts: Sequence[Text], n: int, *, vocabulary: int) -> float:
    """Different n-grams over the number expected of as many even draws from `vocabulary`; 0 where there is none.

    N / (V (1 - ((V - 1) / V)^C)), Liu et al. 2022 (arXiv:2202.13587), with V for n-grams of any n, as Kirk
    et al. 2023 use it. Unlike distinct-n it does not fall with length alone.
    """
    count = _count(texts, n)
    if not count:
        return 0.0
    return len(count) / (vocabulary * (1 - (1 - 1 / vocabulary) ** count.total()))


def ead(texts: Sequence[Text], *, vocabulary: int, n_max: int = 5) -> float:
    """Mean of `ead_n` over n = 1 .. n_max. Kirk et al. 2023 (arXiv:2310.06452), with V = 50257."""
    return sum(ead_n(texts, n, vocabulary=vocabulary) for n in range(1, n_max + 1)) / n_max


def bleu(hypothesis: Text, references: Sequence[Text], *, n_max: int = 4) -> float:
    """BLEU of one text against references, 0 to 1, smoothed by method 1 of Chen and Cherry 2014 (.1 for 0 matches).

    Papineni et al. 2002: geometric mean of clipped precisions, times the penalty for brevity. 0 without a common word.
    """
    log_precision = 0.0
    for n in range(1, n_max + 1):
        count = Counter(_ngrams(hypothesis, n))
        most: Counter[tuple[Hashable, ...]] = Counter()
        for reference in references:
            most |= Counter(_ngrams(reference, n))
        n_match = (count & most).total()
        if n == 1 and n_match == 0:
            return 0.0
        log_precision += math.log((n_match or 0.1) / max(1, count.total())) / n_max
    closest = min((len(r) for r in references), key=lambda length: (abs(length - len(hypothesis)), length))
    return math.exp(log_precision + min(0.0, 1 - closest / len(hypothesis)))


def self_bleu(texts: Sequence[Text], *, n_max: int = 4) -> float | None:
    """Mean BLEU of each text against all others: 1 where they are the same; report 1 - it as diversity.

    None for fewer than two texts. Zhu et al. 2018 (arXiv:1802.01886).
    """
    if len(texts) < 2:
        return None
    others = ([*texts[:i], *texts[i + 1 :]] for i in range(len(texts)))
    return sum(bleu(text, rest, n_max=n_max) for text, rest in zip(texts, others, strict=True)) / len(texts)


def max_ngram_repeat(tokens: Text, n: int = 3) -> int:
    """How often the commonest n-gram occurs; 1 where none repeats, 0 where the text is too short."""
    return max(Counter(_ngrams(tokens, n)).values(), default=0)


def zlib_ratio(text: str) -> float:
    """UTF-8 bytes over zlib bytes: about 1 to 3 for prose, far above for a loop; 0 for an empty text."""
    raw = text.encode()
    return len(raw) / len(zlib.compress(raw, 9))


def unbiased_max_of_k(values: Sequence[float], k: int) -> float:
    """Mean over all subsets of size k of the greatest value, so that samples of different sizes can be compared."""
    return float(best_of_weights(len(values), k) @ sorted(values))
