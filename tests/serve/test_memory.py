"""What is remembered: answers with their weights, the newest thumb of each, and nothing twice."""

import pytest

from tutelage.errors import ConflictError, DataError, StoreError
from tutelage.serve.memory import LABELER, SOURCE, Memory
from tutelage.serve.voice import Voice
from tutelage.serve.wire import FeedbackRequest
from tutelage.store.chain import verify_chain
from tutelage.store.completions import get_completion
from tutelage.store.feedback import current, events
from tutelage.store.lineage import model_versions
from tutelage.types import Message


@pytest.fixture
def memory(served_store, voice):
    return Memory(served_store, voice)


@pytest.fixture
def spoken(memory, voice):
    """An answer that was kept."""
    ask = (Message(role="user", content="Is the pool open?"),)
    asked = voice.understand(ask, n=1, most=6, temperature=1.0, top_p=1.0, seed=3)
    written = voice.speak(asked)
    memory.keep(asked, written)
    memory.keep(asked, written)  # the same question with the same seed
    return written[0]


def thumb(spoken, value=1, **more):
    return FeedbackRequest(completion_id=spoken.id, value=value, **more)


def test_an_answer_is_kept_once_with_the_version_that_wrote_it(spoken, served_store, voice):
    assert get_completion(served_store, spoken.id) == spoken
    (version,) = model_versions(served_store)
    assert (version.id, version.stage, version.weights_sha) == (voice.version, "sft", "0123")


def test_a_second_thought_replaces_the_first_and_the_same_again_is_nothing_new(memory, spoken, served_store):
    first = memory.thumb(thumb(spoken, 1, reasons=("helpful",)))
    assert memory.thumb(thumb(spoken, 1, reasons=("helpful",))) == first
    second = memory.thumb(thumb(spoken, -1))
    third = memory.thumb(thumb(spoken, 1, reasons=("helpful",)))  # back again: a new event, not the old one
    assert [e.feedback.supersedes for e in events(served_store)] == [None, first.seq, second.seq]
    (now,) = current(served_store)
    assert now == third and (now.feedback.labeler, now.feedback.source) == (LABELER, SOURCE)
    verify_chain(served_store)


def test_a_server_that_starts_again_goes_on_from_the_newest_thumb(memory, spoken, served_store, voice):
    first = memory.thumb(thumb(spoken, 1))
    again = Memory(served_store, voice)
    assert again.thumb(thumb(spoken, 1)) == first
    assert again.thumb(thumb(spoken, -1)).feedback.supersedes == first.seq
    assert len(model_versions(served_store)) == 1


def test_a_key_stands_for_one_thumb(memory, spoken):
    memory.thumb(thumb(spoken, 1, key="key-00001"))
    with pytest.raises(ConflictError, match="key-00001"):
        memory.thumb(thumb(spoken, -1, key="key-00001"))


def test_a_thumb_on_what_was_never_said_is_refused(memory):
    with pytest.raises(StoreError, match="there is no completion"):
        memory.thumb(FeedbackRequest(completion_id="0" * 20, value=1))


def test_a_model_from_elsewhere_is_external_and_an_odd_lineage_is_refused(served_store, small_causal, small_chat):
    Memory(served_store, Voice("x", "x-1", small_causal(), small_chat))
    assert [(v.id, v.stage) for v in model_versions(served_store)] == [("x-1", "external")]
    odd = Voice("x", "x-2", small_causal(), small_chat, lineage={"stage": "cooked", "weights": "0"})
    with pytest.raises(DataError, match="'cooked', which is unknown"):
        Memory(served_store, odd)
