"""What is pointed out in a demonstration, and what is not."""

import time

import pytest

from tutelage.label.review import LONG_WORDS, findings, is_card, is_iban, pieces, with_findings
from tutelage.store.candidates import NewCandidate, add_candidates
from tutelage.types import Message, Prompt

PROMPT = Prompt(messages=(Message(role="user", content="Please tell me in a few words what a tide is."),))
PLAIN = "A tide is the slow rise and fall of the sea, caused by the pull of the moon and the sun."


def found(text: str, others: tuple[str, ...] = ()) -> list[tuple[str, str]]:
    """Kind, and the text that is marked."""
    return [(f["kind"], text[slice(*f["span"])] if "span" in f else "") for f in findings(text, PROMPT, others)]


def test_nothing_is_pointed_out_in_a_plain_answer():
    assert found(PLAIN) == []


@pytest.mark.parametrize(
    ("text", "marked"),
    [
        ("Write to jo.doe+x@mail.example.org, please.", "jo.doe+x@mail.example.org"),
        ("Ring me on +49 30 901820 today.", "+49 30 901820"),
        ("Ring me on +4930901820 today.", "+4930901820"),
        ("Ring me on (030) 9018-2034 today.", "(030) 9018-2034"),
        ("Ring me on 020 7946 0958 today.", "020 7946 0958"),
        ("The card is 4111 1111 1111 1111 as ever.", "4111 1111 1111 1111"),
        ("The card is 378282246310005 as ever.", "378282246310005"),
        ("Send it to DE89 3704 0044 0532 0130 00 now.", "DE89 3704 0044 0532 0130 00"),
        ("Send it to GB82WEST12345698765432 now.", "GB82WEST12345698765432"),
        ("The host is 8.8.8.8 it says.", "8.8.8.8"),
        ("The host is 2001:4860:4860::8888 it says.", "2001:4860:4860::8888"),
    ],
)
def test_personal_data_is_marked_where_it_stands(text, marked):
    assert found(text) == [("personal", marked)]


@pytest.mark.parametrize(
    "text",
    [
        "The order number is 4111 1111 1111 1112, they said.",  # Luhn says no
        "Zeroes: 0000 0000 0000 0000 are no card at all.",
        "It was in 2019-2021, and on 2020-01-31 or 31.12.2020.",
        "The result is 3.14159265358979 and 1,000,000 or so.",
        "At 12:30:45 the host 192.168.0.1 and ::1 and 10.0.0.1 answered.",
        "DE89 3704 0044 0532 0130 01 has a wrong check digit.",
        "Use std::vector and a@b in your code.",
    ],
)
def test_numbers_that_name_nobody_are_left_alone(text):
    assert [f for f in found(text) if f[0] == "personal"] == []


def test_the_checks_of_cards_and_accounts_are_those_of_the_standards():
    # 79927398713 is Luhn's own example, and too short for a card: 1 + 2·7 … sums to 70.
    assert not is_card("79927398713")
    assert is_card("4012-8888-8888-1881") and not is_card("4012-8888-8888-1882")
    assert is_iban("FR14 2004 1010 0505 0001 3M02 606") and not is_iban("FR14 2004 1010 0505 0001 3M02 607")


def test_every_changed_digit_of_a_card_is_noticed():
    card = "4111111111111111"
    for i in range(len(card)):
        for d in "0123456789":
            assert is_card(card[:i] + d + card[i + 1 :]) == (d == card[i])


@pytest.mark.parametrize(
    ("text", "marked"),
    [
        ("A tide is a wave.\nUser: and what else?", "User:"),
        ("Assistant: A tide is a wave.", "Assistant:"),
        ("A tide <|im_end|> is a wave.", "<|im_end|>"),
        ("As an AI language model, I know of tides.", "As an AI language model"),
        ("I'm sorry, but I can't tell you of tides.", "I'm sorry, but I can't"),
        (f"{PROMPT.messages[0].content} A tide is a wave.", PROMPT.messages[0].content),
        ("Run this:\n```python\nprint(1)\n", "```"),
        ("Run this:\n````\n```\nstill open\n```\n", "````"),
    ],
)
def test_what_is_off_format_is_marked(text, marked):
    assert found(text) == [("format", marked)]


def test_closed_fences_and_a_short_prompt_that_is_repeated_are_fine():
    assert found("Run this:\n```python\nprint(1)\n```\nand\n~~~\n```\n~~~\nthat is all") == []
    short = Prompt(messages=(Message(role="user", content="Red or blue?"),))
    assert findings("Red or blue? Blue, of course.", short) == []


def test_very_short_and_very_long_answers_are_pointed_out():
    assert found("Yes.") == [("short", "")]
    assert found("word " * (LONG_WORDS + 1))[-1] == ("long", "")
    assert found("word " * LONG_WORDS) == []


def test_harsh_words_are_a_hint_on_whole_words():
    assert found("Only an idiot asks that about tides.") == [("harsh", "idiot")]
    assert found("The grapes of Scunthorpe are assessed in class.") == []


def test_a_near_duplicate_is_pointed_out_and_another_text_is_not():
    assert findings(PLAIN.upper() + "!!", PROMPT, [PLAIN, "Another text."])[0]["detail"].startswith("100% the same as")
    assert found(PLAIN, ("Tides are what they are, and nobody minds them much.",)) == []


def test_proposals_are_compared_with_each_other_and_with_what_is_there(house):
    def new(text: str, words: str) -> NewCandidate:
        prompt = Prompt(messages=(Message(role="user", content=words),))
        return NewCandidate(prompt=prompt, text=text, origin="import", author="a")

    add_candidates(house.store, house.project.id, [new(PLAIN, "one")])
    texts = (PLAIN, "Something quite else is said here.", "Twice the same words.", "Twice the same words.")
    given = [new(text, f"question {i}") for i, text in enumerate(texts)]
    marked = with_findings(house.store, house.project, given)
    assert [[f["kind"] for f in one.findings] for one in marked] == [["duplicate"], [], ["duplicate"], ["duplicate"]]


def test_the_pieces_are_the_text_whatever_overlaps():
    text = "Assistant: write to jo@example.org or User: x\nUser: 8.8.8.8"
    cut = pieces(text, findings(text, PROMPT))
    assert "".join(piece for piece, _ in cut) == text
    assert [piece for piece, what in cut if what] == ["Assistant:", "jo@example.org", "User:", "8.8.8.8"]
    crossing = [{"kind": "harsh", "detail": "a", "span": [2, 6]}, {"kind": "format", "detail": "b", "span": [4, 9]}]
    assert [p for p, _ in pieces("0123456789", crossing)] == ["01", "2345", "678", "9"]


@pytest.mark.parametrize(
    "text",
    ["1 " * 100_000, "a@" * 100_000, "+1" * 100_000, ":a" * 100_000, "DE89" + " A" * 100_000, "`" * 200_000,
     "```\n" * 50_000, "user" * 50_000, "1.1.1.1 " * 25_000, "as an ai " * 20_000, "9" * 200_000, "<|" * 100_000,
     "AB12 " * 40_000, "12-" * 66_000],
)  # fmt: skip
def test_no_text_takes_the_checks_long(text):
    began = time.process_time()
    findings(text, PROMPT)
    assert time.process_time() - began < 10, "a pattern that backtracks without end would take hours"
