"""HH transcripts, in and out."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tutelage.errors import DataError
from tutelage.formats import hh
from tutelage.formats.fields import Refused
from tutelage.types import Message

START = "\n\nHuman: hi\n\nAssistant: hello\n\nHuman: two\nlines?\n\nAssistant:"


def test_two_transcripts_are_a_pair():
    (group,) = hh.read({"chosen": f"{START} yes", "rejected": f"{START} no"})
    assert [(m.role, m.content) for m in group.prompt.messages] == [
        ("user", "hi"),
        ("assistant", "hello"),
        ("user", "two\nlines?"),
    ]
    assert (group.texts, group.tiers) == (("yes", "no"), (1, 2))


@pytest.mark.parametrize(
    ("chosen", "rejected", "why"),
    [
        (f"{START} yes", "\n\nHuman: other\n\nAssistant: no", "transcripts that part early"),
        ("hi", "ho", "no transcript"),
        ("\n\nHuman: hi", "\n\nHuman: ho", "the transcript does not end with the assistant's turn"),
        ("\n\nAssistant: a", "\n\nAssistant: b", "the prompt does not end with the user's turn"),
        (f"{START} ", f"{START} no", "empty text"),
    ],
)
def test_what_is_no_pair_of_transcripts_is_refused(chosen, rejected, why):
    with pytest.raises(Refused) as e:
        list(hh.read({"chosen": chosen, "rejected": rejected}))
    assert e.value.why == why


words = st.text(min_size=1).filter(str.strip)


@given(words, words, words)
def test_what_can_be_written_is_read_as_it_was(asked, one, two):
    messages = (Message(role="user", content=asked),)
    try:
        row = {"chosen": hh.transcript(messages, one), "rejected": hh.transcript(messages, two)}
    except DataError:
        return
    if one != two:
        (group,) = hh.read(row)
        assert (group.prompt.messages, group.texts) == (messages, (one, two))


def test_what_a_transcript_cannot_hold_is_not_written():
    with pytest.raises(DataError, match="system message"):
        hh.transcript((Message(role="system", content="s"), Message(role="user", content="u")), "a")
    with pytest.raises(DataError, match="mark of a turn"):
        hh.transcript((Message(role="user", content="u"),), "a\n\nHuman: b")
