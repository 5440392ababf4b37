"""What a policy's answers are like: how long, how varied, how often unfinished or refusing. Knows no reward."""

import re
from collections.abc import Sequence

import numpy as np

from tutelage.stats.diversity import distinct_n, ead, max_ngram_repeat, self_bleu
from tutelage.types import Completion

# Openings by which an answer declines. A phrase list errs both ways: read the samples before trusting a change.
_REFUSES = re.compile(
    r"^\W*("
    r"i('m| am) (sorry|afraid)[^.?!]*\b(can('|no)t|unable|not able)"
    r"|i (can('|no)t|won't|am unable|am not able to)\b"
    r"|sorry,? (but )?i can('|no)t"
    r")",
    re.IGNORECASE,
)
SELF_BLEU_SAMPLE = 100  # answers: each is held against all others


def refuses(text: str) -> bool:
    """Whether an answer opens by declining."""
    return bool(_REFUSES.match(text.replace("\u2019", "'")))


def describe(completions: Sequence[Completion], *, vocabulary: int) -> dict[str, float]:
    """Figures over one sample of each prompt: comparable only at equal numbers and limits."""
    texts = [c.text.split() for c in completions]
    lengths = [len(c.token_ids or ()) for c in completions]
    spread = self_bleu(texts[:SELF_BLEU_SAMPLE])
    return {
        "length": float(np.mean(lengths)),
        "words": float(np.mean([len(t) for t in texts])),
        "unfinished": float(np.mean([c.finish_reason == "length" for c in completions])),
        "empty": float(np.mean([not t for t in texts])),
        "unique": len({c.text for c in completions}) / len(completions),
        "refusals": float(np.mean([refuses(c.text) for c in completions])),
        "distinct_1": distinct_n(texts, 1),
        "distinct_2": distinct_n(texts, 2),
        "ead": ead(texts, vocabulary=vocabulary),
        "self_bleu": -1.0 if spread is None else spread,
        "repetition": float(np.mean([max_ngram_repeat(t) for t in texts])),
    }
