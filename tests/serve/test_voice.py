"""Messages to tokens and tokens to answers: room in the window, seeds, and words that grow."""

import pytest

from tutelage.errors import DataError
from tutelage.native.slots import PAGE
from tutelage.serve.voice import LETTERS, Spelling
from tutelage.types import Message

ASK = (Message(role="user", content="Is the pool open?"),)


def asked(voice, messages=ASK, **changed):
    return voice.understand(messages, **({"n": 1, "most": 8, "temperature": 1.0, "top_p": 1.0, "seed": 3} | changed))


def test_an_answer_is_no_longer_than_asked_nor_than_the_window_has_room(voice):
    short = asked(voice, most=8)
    assert short.sampling.max_new_tokens == 8
    assert asked(voice, most=10**6).sampling.max_new_tokens == voice.chat.window - len(short.prompt_ids)


def test_a_conversation_without_room_for_an_answer_is_refused(voice):
    with pytest.raises(DataError, match="no room is left"):
        asked(voice, (Message(role="user", content="a b c d e f g h " * 30),))
    with pytest.raises(DataError, match="never fit"):  # before it is made into tokens at all
        asked(voice, (Message(role="user", content="x" * (LETTERS * voice.chat.window + 1)),))


def test_seeds_differ_by_answer_and_come_again_with_the_same_root(voice):
    some = asked(voice, n=4)
    assert len(set(some.seeds)) == 4 and some.seeds == asked(voice, n=4).seeds
    assert some.seeds[:2] == asked(voice, n=2).seeds  # asked for more, the first are the same
    assert some.seeds != asked(voice, n=4, seed=4).seeds
    assert asked(voice, seed=None).seeds != asked(voice, seed=None).seeds


def test_what_is_said_names_its_weights_and_how_it_was_drawn(voice):
    wanted = asked(voice, n=3)
    answers = voice.speak(wanted)
    assert [a.sample for a in answers] == [0, 1, 2] and [a.seed for a in answers] == list(wanted.seeds)
    for a in answers:
        assert (a.prompt_id, a.model_version, a.temperature) == (wanted.prompt.id, "sft-0123456789ab", 1.0)
        assert a.text == voice.chat.text(a.token_ids) and len(a.token_ids) == len(a.logp) <= 8
    assert voice.speak(wanted) == answers


def test_a_growing_answer_never_shows_half_a_character_and_adds_up_to_the_whole(voice):
    chat = voice.chat
    whole = "The café — naïve ☕ costs 3 €"
    ids = chat.prompt_ids(asked(voice, (Message(role="user", content=whole),)).prompt)
    spelling, said = Spelling(chat, 1), ""
    for k in range(1, len(ids) + 1):
        new = spelling.grown(0, ids[:k])
        assert "\ufffd" not in new
        said += new
    said += spelling.rest(0, chat.text(ids))
    assert said == chat.text(ids)


def test_answers_side_by_side_grow_apart(voice):
    spelling = Spelling(voice.chat, 2)
    assert spelling.rest(0, "ab") == "ab" and spelling.rest(1, "x") == "x"
    assert spelling.rest(0, "abc") == "c" and spelling.rest(1, "x") == ""
    assert spelling.rest(0, "other") == ""  # what was said cannot be taken back


@pytest.mark.parametrize("voice", ["bf16"], indirect=True)
def test_what_was_asked_before_is_not_computed_again(voice, passes):
    first = (Message(role="user", content="Where is the kettle? " * 2 + "hello " * 11),)
    [answer] = voice.speak(asked(voice, first, most=2))
    then = (*first, Message(role="assistant", content=answer.text), Message(role="user", content="Hello"))
    before, next_turn = len(asked(voice, first).prompt_ids), asked(voice, then, most=2)
    assert len(next_turn.prompt_ids) > before > PAGE
    del passes[:]
    voice.speak(next_turn)
    assert passes[0] == len(next_turn.prompt_ids) - PAGE
