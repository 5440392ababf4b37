"""What a reviewer of demonstrations is told to look at: repeats, personal data, harsh words, length, format.

Each finding is a hint with the place that it is about, never a decision. Names and addresses of people are not looked
for: no list of patterns finds them.
"""

import ipaddress
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from tutelage.stats.dedupe import near_duplicates, normalise
from tutelage.store.candidates import NewCandidate, texts
from tutelage.store.completions import get_completions
from tutelage.store.db import Store
from tutelage.store.feedback import completions_named, current
from tutelage.store.projects import Project
from tutelage.store.sources import sources_of
from tutelage.types import CorrectionGiven, Prompt

Finding = dict[str, Any]  # {"kind", "detail", "span": [start, end] where there is a place}

SHORT_WORDS, LONG_WORDS = 3, 1500
ECHO_WORDS = 8  # a shorter prompt may well be repeated in its answer
MOST = 40  # findings of one kind in one text

EMAIL = re.compile(r"[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,4}")
PHONE = re.compile(
    r"(?<![\w.])(?:(?:\+|00)\d{1,4}(?:[ ./()-]{0,3}\d{2,8}){1,5}|\(?\d{1,4}\)?(?:[ ./()-]{1,2}\d{2,8}){2,5})(?!\w)"
)
CARD = re.compile(r"(?<!\d)\d(?:[ -]?\d){12,18}(?!\d)")
IBAN = re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]){11,30}\b")
ADDRESS = re.compile(r"(?<![\w.:])(?:\d{1,3}(?:\.\d{1,3}){3}|[0-9A-Fa-f]{0,4}(?::[0-9A-Fa-f]{0,4}){2,7})(?![\w.:]\w)")
TURN = re.compile(r"^[ \t]{0,8}(?:user|assistant|human|system|ai)[ \t]?:", re.IGNORECASE | re.MULTILINE)
MARKS = re.compile(r"<\|[\w-]{1,40}\|>|\[/?INST\]|</?s>")
FENCE = re.compile(r"^[ ]{0,3}(`{3,}|~{3,})", re.MULTILINE)
BOILERPLATE = re.compile(
    r"\bas an? (?:ai|artificial intelligence)(?: language)? (?:model|assistant)\b"
    r"|\bi(?:'m| am) (?:just |only )?an? (?:ai|language) (?:language )?(?:model|assistant)\b"
    r"|\bi(?:'m| am) sorry,? but i (?:can(?:'|no)t|can not|am (?:not able|unable))\b"
    r"|\bi can(?:'|no)t (?:assist|help) with (?:that|this)\b"
    r"|\bmy (?:knowledge cut-?off|training data)\b",
    re.IGNORECASE,
)
# A few words that are seldom meant well. A hint and no more: it misses most harm, and marks some harmless text.
HARSH = re.compile(
    r"\b(?:idiots?|idiotic|morons?|imbeciles?|retard(?:s|ed)?|scum|vermin|subhumans?"
    r"|shut up|go die|drop dead|kill (?:yourself|himself|herself|themselves|you|them all)|i(?:'ll| will) kill"
    r"|(?:gas|exterminate|lynch) (?:the|them|those|all)|rap(?:e|ed|ing|ist)|beat (?:her|him|them|you) up"
    r"|bastards?|bitch(?:es)?|whores?|sluts?|cunts?|faggots?|assholes?|fuck(?:s|ed|er|ers|ing)?|shit(?:ty|head)?)\b",
    re.IGNORECASE,
)
KINDS = {
    "duplicate": "Near duplicate",
    "personal": "Personal data",
    "harsh": "Harsh words (a hint)",
    "short": "Very short",
    "long": "Very long",
    "format": "Off format",
}


def findings(text: str, prompt: Prompt, others: Sequence[str] = ()) -> list[Finding]:
    """All that is pointed out in one demonstration. `others`: what it must not repeat."""
    return [*_repeats([text], others, [None])[0], *_within(text, prompt)]


def _within(text: str, prompt: Prompt) -> list[Finding]:
    return [*_personal(text), *_marked("harsh", HARSH, text, ""), *_length(text), *_format(text, prompt)]


def with_findings(store: Store, project: Project, given: Sequence[NewCandidate]) -> list[NewCandidate]:
    """The proposals with what is pointed out in each, also against each other and what the project holds."""
    others = known_texts(store, project)
    new = [one.text for one in given]
    repeats = _repeats(new, [*others, *new], [len(others) + i for i in range(len(new))])
    return [
        replace(one, findings=(*found, *_within(one.text, one.prompt)))
        for one, found in zip(given, repeats, strict=True)
    ]


def known_texts(store: Store, project: Project, *, besides: int = 0) -> list[str]:
    """The project's candidates but for one, and its demonstrations."""
    proposed = [text for _, text in texts(store, project.id, besides=besides)]
    given = current(store, kinds=["demonstration", "correction"], sources=sources_of(store, project))
    ids = []
    for stored in given:
        j = stored.feedback.judgement
        ids.append(j.corrected_id if isinstance(j, CorrectionGiven) else completions_named(j)[0])
    return [*proposed, *(c.text for c in get_completions(store, ids))]


def _repeats(new: Sequence[str], others: Sequence[str], own: Sequence[int | None]) -> list[list[Finding]]:
    """For each new text, the other that it repeats most, if one. `own`: which of the others is itself."""
    best: dict[int, tuple[float, int]] = {}
    for pair in near_duplicates(new, others):
        if pair.i_right == own[pair.i_left] or not normalise(new[pair.i_left]):
            continue
        if pair.i_left not in best or pair.jaccard > best[pair.i_left][0]:
            best[pair.i_left] = (pair.jaccard, pair.i_right)
    found: list[list[Finding]] = [[] for _ in new]
    for i, (share, other) in best.items():
        start = " ".join(others[other].split())
        quoted = start[:120] + ("…" if len(start) > 120 else "")
        found[i].append({"kind": "duplicate", "detail": f"{share:.0%} the same as: “{quoted}”"})
    return found


def _marked(kind: str, pattern: re.Pattern[str], text: str, detail: str) -> Iterator[Finding]:
    for n, match in enumerate(pattern.finditer(text)):
        if n == MOST:
            return
        yield {"kind": kind, "detail": detail or f"“{match.group()[:60]}”", "span": list(match.span())}


# Personal data.


def _personal(text: str) -> Iterator[Finding]:
    taken: list[tuple[int, int]] = []
    checks = (
        ("an e-mail address", EMAIL, lambda _: True),
        ("a bank account (IBAN)", IBAN, is_iban),
        ("a card number", CARD, is_card),
        ("a network address", ADDRESS, _is_address),
        ("a telephone number", PHONE, _is_phone),
    )
    for what, pattern, holds in checks:
        n = 0
        for match in pattern.finditer(text):
            start, end = match.span()
            if n < MOST and holds(match.group()) and not any(a < end and start < b for a, b in taken):
                taken.append((start, end))
                n += 1
                yield {"kind": "personal", "detail": what, "span": [start, end]}


def is_card(found: str) -> bool:
    """Luhn's check over 13 to 19 digits, of which not all are the same."""
    digits = [int(c) for c in found if c.isdigit()]
    if not 13 <= len(digits) <= 19 or len(set(digits)) == 1:
        return False
    doubled = (2 * d - 9 * (d > 4) for d in digits[-2::-2])
    return (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0


def is_iban(found: str) -> bool:
    """The check of ISO 13616: the country and check digits moved to the end, letters as 10 to 35, modulo 97 is 1."""
    plain = found.replace(" ", "")
    if not 15 <= len(plain) <= 34:
        return False
    return int("".join(str(int(c, 36)) for c in plain[4:] + plain[:4])) % 97 == 1


def _is_address(found: str) -> bool:
    """An address of one machine in the world: those that every network has name nobody."""
    try:
        return ipaddress.ip_address(found).is_global
    except ValueError:
        return False


def _is_phone(found: str) -> bool:
    n = sum(c.isdigit() for c in found)
    is_date = re.fullmatch(r"\d{4}[-./]\d{1,2}[-./]\d{1,2}|\d{1,2}[-./]\d{1,2}[-./]\d{2,4}", found) is not None
    return 8 <= n <= 15 and not is_date


# Length and format.


def _length(text: str) -> Iterator[Finding]:
    n = len(text.split())
    if n < SHORT_WORDS:
        yield {"kind": "short", "detail": f"{n} words; fewer than {SHORT_WORDS} seldom teach anything"}
    if n > LONG_WORDS:
        yield {"kind": "long", "detail": f"{n} words; more than {LONG_WORDS} may be cut off in training"}


def _format(text: str, prompt: Prompt) -> Iterator[Finding]:
    yield from _marked("format", TURN, text, "a turn of a conversation stands in the answer")
    yield from _marked("format", MARKS, text, "a mark of a chat template stands in the answer")
    yield from _marked("format", BOILERPLATE, text, "the stock phrases of a refusal")
    asked = prompt.messages[-1].content.strip()
    if len(asked.split()) >= ECHO_WORDS and text.lstrip().startswith(asked):
        start = len(text) - len(text.lstrip())
        yield {"kind": "format", "detail": "the answer begins with the prompt", "span": [start, start + len(asked)]}
    open_fence = ""
    place = (0, 0)
    for match in FENCE.finditer(text):
        mark = match.group(1)
        if not open_fence:
            open_fence, place = mark, match.span(1)
        elif mark[0] == open_fence[0] and len(mark) >= len(open_fence):
            open_fence = ""
    if open_fence:
        yield {"kind": "format", "detail": "a block of code is opened and never closed", "span": list(place)}


def pieces(text: str, found: Sequence[Finding]) -> list[tuple[str, str]]:
    """The text cut at the findings' places: (piece, what it is marked for, or nothing)."""
    cuts: list[tuple[str, str]] = []
    done = 0
    for one in sorted((f for f in found if "span" in f), key=lambda f: (f["span"][0], -f["span"][1])):
        start, end = max(done, one["span"][0]), one["span"][1]
        if start >= end:
            continue
        cuts += [(text[done:start], "")] if start > done else []
        cuts.append((text[start:end], f"{KINDS[one['kind']]}: {one['detail']}"))
        done = end
    return [*cuts, (text[done:], "")] if done < len(text) else cuts
