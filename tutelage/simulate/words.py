"""Words, sentences and the lists of common words: plain text helpers of this room. Knows no prompt and no score."""

import re

_FUNCTION_WORDS = """
a about after again all also am an and any are as at be been before being but by bye can cannot could did do does
doing done down each else few first for from get give go good goodbye got had has have having he hello her here hi
him his how i if in into is it its just know last let like me more most much my need no not now of off okay on one
only or other our out over own please put said same say see she should so some soon such take tell than thank thanks
that the their them then there these they thing this those to today too under until up us use very want was we well
were what when where which while who why will with would yes yet you your yours
"""
# They say nothing about the subject: two texts that share only these are not about the same thing.
FUNCTION_WORDS = frozenset(_FUNCTION_WORDS.split())

_WORD = re.compile(r"[a-z0-9]+(?:['\u2019-][a-z0-9]+)*")
_SENTENCE_END = re.compile(r"(?<=[.?!])\s+")


def words(text: str) -> list[str]:
    """The words of a text in lower case, without punctuation: `"Which day?"` gives `["which", "day"]`."""
    return _WORD.findall(text.lower())


def sentences(text: str) -> list[str]:
    """The sentences of a text, each with its mark: `"Of course. Which day?"` gives `["Of course.", "Which day?"]`."""
    return [s for s in _SENTENCE_END.split(text.strip()) if s]


def stem(word: str) -> str:
    """A word without the plural s, so that a table is about tables: `"tables"` gives `"table"`."""
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word


def content_stems(text: str) -> set[str]:
    """Stems of the words that say what a text is about."""
    return {stem(w) for w in words(text) if w not in FUNCTION_WORDS and not w.isdigit()}
