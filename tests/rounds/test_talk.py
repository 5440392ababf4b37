"""Which weights a name means, samples that repeat, and a conversation that remembers as much as the model can see."""

import json
from dataclasses import replace

import pytest

from tutelage.engine.request import SamplingConfig
from tutelage.errors import ConfigError, DataError, ModelError
from tutelage.native.slots import PAGE
from tutelage.rounds import talk as talk_room
from tutelage.rounds.machines import complete
from tutelage.rounds.talk import Conversation, converse, open_speaker, resolve, sample, stages

SHORT = SamplingConfig(max_new_tokens=6)


def test_stages_are_the_published_policies_in_order(small_run):
    assert stages(small_run) == {
        "base": small_run / "base",
        "sft": small_run / "sft",
        "round-1": small_run / "round-1" / "ppo",
    }
    (small_run / "round-1" / "ppo" / "manifest.json").unlink()  # not published: not there
    assert list(stages(small_run)) == ["base", "sft"]


@pytest.mark.parametrize("name", ["sft", "SFT", "base", "round-1", "round 1", "Round 1"])
def test_a_stage_is_found_by_its_name_in_the_report_or_on_the_disk(small_run, name):
    assert resolve(str(small_run), name)[0] == name.lower().replace(" ", "-")


def test_without_a_stage_the_best_speaks_and_without_a_summary_the_newest(small_run):
    assert resolve(str(small_run)) == ("round-1", str(small_run / "round-1" / "ppo"))
    (small_run / "summary.json").write_text(json.dumps({"best_folder": "sft"}), encoding="utf-8")
    assert resolve(str(small_run)) == ("sft", str(small_run / "sft"))


def test_what_is_no_run_directory_is_taken_as_a_model(small_folder):
    assert resolve("bundled") == ("bundled", "bundled")
    with pytest.raises(ConfigError, match="is not a run directory, so it has no stage 'sft'"):
        resolve(str(small_folder()), "sft")


def test_a_stage_that_is_not_there_is_refused_with_those_that_are(small_run, tmp_path):
    with pytest.raises(ConfigError, match="no stage 'round-2'") as caught:
        resolve(str(small_run), "round-2")
    assert "There are base, sft, round-1." in str(caught.value)
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "config.toml").write_text("")
    with pytest.raises(ConfigError, match="no policy is published yet"):
        resolve(str(tmp_path / "new"))


def test_a_speaker_is_named_by_its_weights_where_lineage_tells_them(small_run, small_folder):
    assert open_speaker(str(small_run), "sft").version.startswith("sft-")
    assert open_speaker(folder := str(small_folder())).version == folder
    with pytest.raises(ModelError, match="no such model folder"):
        open_speaker("/nowhere/at/all")


@pytest.mark.parametrize(("is_fast", "precision"), [(True, "bf16"), (False, "fp32")])
def test_it_speaks_in_the_precision_that_is_fastest_here(is_fast, precision, small_run, monkeypatch):
    monkeypatch.setattr(talk_room, "has_fast_bf16", lambda device: is_fast)
    asked = []
    monkeypatch.setattr(talk_room, "complete", lambda *a, **kw: (asked.append(kw["precision"]), complete(*a, **kw))[1])
    Conversation(open_speaker(str(small_run)), SHORT, seed=1).answer("hello")
    assert asked == [precision]


def test_samples_stand_beside_their_prompts_and_do_not_depend_on_company(small_run, ask):
    prompts = [ask("Is the pool open?"), ask("Hello"), ask("kettle " * 200)]
    found = sample(str(small_run), prompts, n=2, sampling=SHORT, seed=1, refused={"empty text": 3})
    assert (found["prompts"], found["too_long"], found["n"]) == (2, 1, 4) and found["refused"] == {"empty text": 3}
    alone = sample(str(small_run), [ask("Hello")], n=2, sampling=SHORT, seed=1, refused={})
    assert [r["completion"] for r in found["samples"][2:]] == [r["completion"] for r in alone["samples"]]
    assert [r["prompt"][0]["content"] for r in found["samples"]] == ["Is the pool open?"] * 2 + ["Hello"] * 2
    assert all(r["tokens"] <= 6 and r["logp"] < 0 for r in found["samples"])


@pytest.fixture
def talk(small_run):
    return Conversation(open_speaker(str(small_run), "sft"), SHORT, seed=0)


def test_a_conversation_remembers_and_forgets_on_reset(talk):
    first = talk.answer("Hello")
    talk.answer("Is the pool open?")
    assert [m.role for m in talk.messages] == ["user", "assistant"] * 2
    assert talk.messages[1].content == first.text
    talk.reset()
    assert talk.messages == [] and talk.answer("Hello") == first


def test_history_is_seen_by_the_model(talk):
    talk.answer("Hello")
    after = talk.answer("Is the pool open?")
    talk.reset()
    assert talk.answer("Is the pool open?") != after


def test_a_turn_does_not_compute_again_what_was_said_before_it(small_run, passes):
    # In bf16 also where that is not the faster way.
    talk = Conversation(replace(open_speaker(str(small_run), "sft"), precision="bf16"), SHORT, seed=0)
    talk.answer("Where is the kettle? " * 2 + "hello " * 10)
    del passes[:]
    talk.answer("Hello")
    asked = talk.speaker.chat.prompt_ids(talk.messages[:-1])
    assert len(asked) > PAGE and passes[0] == len(asked) - PAGE


def test_the_oldest_exchange_goes_when_the_window_is_full(talk):
    words = "Is the pool open today?"
    replies = [talk.answer(words) for _ in range(8)]
    assert replies[0].n_forgotten == 0 and replies[-1].n_forgotten > 0
    assert all(r.n_forgotten % 2 == 0 for r in replies)
    assert len(talk.messages) == 16  # what was said stays said


@pytest.mark.parametrize(("words", "says"), [("kettle " * 200, "window of 96"), ("  ", "empty"), ("\udcff", "UTF-8")])
def test_words_that_cannot_be_answered_leave_the_conversation_as_it_was(talk, words, says):
    talk.answer("Hello")
    before = list(talk.messages)
    with pytest.raises(DataError, match=says):
        talk.answer(words)
    assert talk.messages == before


def test_two_speak_side_by_side_each_with_its_own_history(small_run, small_folder):
    talks = converse(str(small_run), "sft", "base", SHORT, seed=0)
    assert list(talks) == ["sft", "base"]
    assert talks["sft"].answer("Hello") != talks["base"].answer("Hello")
    assert talks["sft"].messages[1] != talks["base"].messages[1]
    one, two = small_folder(name="one"), small_folder(name="two", seed=1)
    assert list(converse(str(one), "", str(two), SHORT, seed=0)) == [str(one), str(two)]
    with pytest.raises(ConfigError, match="would speak anyway"):
        converse(str(small_run), "sft", "SFT", SHORT, seed=0)
