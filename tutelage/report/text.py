"""Words and numbers as the page shows them. Model text is untrusted: what could hide or turn it is made visible."""

import difflib
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

MAX_SHOWN = 6000  # characters of one text on the page
MANY_NEW = 0.7  # share of new words above which marking them says nothing
_BIDI = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def clean(text: str) -> str:
    """The text without anything that acts instead of being read: control and bidi characters become `⟨U+202E⟩`."""
    text = text.replace("\r\n", "\n")
    if all(c == "\n" or c.isprintable() for c in text):
        return text
    return "".join(f"⟨U+{ord(c):04X}⟩" if _acts(c) else c for c in text)


def _acts(c: str) -> bool:
    # Cc: control, Cs: half a character that cannot be encoded, Co: private use, drawn as nothing.
    return c in _BIDI or (unicodedata.category(c) in ("Cc", "Cs") and c not in "\n\t") or c == "\ufeff"


def cut(text: str) -> str:
    """At most MAX_SHOWN characters, and how many were left out."""
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]} … ({len(text) - MAX_SHOWN:,} more characters)"


@dataclass(frozen=True, slots=True)
class Piece:
    """Part of a text. Example: `Piece("which day", True)` where the other text does not say so."""

    text: str
    is_new: bool


def marked(text: str, against: str | None) -> tuple[Piece, ...]:
    """The text in pieces, those marked that `against` lacks; none is marked where nearly all is new."""
    text = cut(text)
    if against is None or not text.strip():
        return (Piece(text, False),)
    ours, theirs = re.findall(r"\s*\S+\s*", text), re.findall(r"\S+", against)
    match = difflib.SequenceMatcher(None, [w.strip() for w in ours], theirs, autojunk=False)
    pieces = [Piece("".join(ours[i:j]), kind != "equal") for kind, i, j, _, _ in match.get_opcodes() if j > i]
    n_new = sum(j - i for kind, i, j, _, _ in match.get_opcodes() if kind != "equal")
    return (Piece(text, False),) if n_new > MANY_NEW * len(ours) else tuple(pieces)


def percent(share: float) -> str:
    """0.7831 as 78.3%."""
    return f"{share:.1%}"


def number(value: float, digits: int = 2) -> str:
    """With a true minus sign."""
    return f"{value:.{digits}f}".replace("-", "−")


def signed(value: float, digits: int = 2) -> str:
    """With its sign: +0.42, −1.30."""
    return f"{value:+.{digits}f}".replace("-", "−")


def span(low: float, high: float) -> str:
    """An interval of shares: 73.1% to 80.4%."""
    return f"{percent(low)} to {percent(high)}"


def duration(seconds: float) -> str:
    """42 s, 12 min, 3 h 05 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def counted(n: int, thing: str) -> str:
    """1 ranking, 1,200 rankings."""
    return f"{n:,} {thing}" if n == 1 else f"{n:,} {thing}s"


def listed(names: Sequence[str]) -> str:
    """a, b and c."""
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + f" and {names[-1]}" if names else ""
