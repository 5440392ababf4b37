"""Recording judgements: once each, whole, and only what fits; and reading them back."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tutelage.errors import StoreError
from tutelage.store.chain import verify_chain
from tutelage.store.completions import add_completions
from tutelage.store.db import open_store
from tutelage.store.feedback import count, current, events, find, head, record, record_many
from tutelage.types import Adjudication, Completion, CorrectionGiven, Critique, Flag, Rating, Skip, Thumb


def test_events_are_numbered_from_one_and_come_back_whole(desk):
    c = desk.completions[0][0].id
    given_ = [
        desk.ranking("a", 2, 1, 1, 3, shown=tuple(x.id for x in desk.completions[0]), active_ms=5, guideline="g1"),
        desk.feedback("b", Rating(completion_id=c, aspect="helpful", value=6.5)),
        desk.feedback("c", Thumb(completion_id=c, value=-1, reasons=("too long",))),
        desk.feedback("d", Critique(completion_id=c, text="no \x00 source", span=(0, 3)), source="other"),
        desk.feedback("e", Flag(category="private data")),
        desk.feedback("f", Skip(reason="not my field"), labeler="sim"),
    ]
    stored = record_many(desk.store, given_)
    assert [s.seq for s in stored] == [1, 2, 3, 4, 5, 6]
    assert [s.feedback for s in events(desk.store)] == given_
    assert list(events(desk.store)) == stored
    assert find(desk.store, ["c", "nope"]) == {"c": stored[2]}
    assert head(desk.store).hash == stored[-1].hash


def test_events_can_be_narrowed(desk):
    record_many(desk.store, [desk.ranking(f"k{i}", 1, 2, i_prompt=i % 3) for i in range(9)])
    record(desk.store, desk.ranking("s", 1, 2, labeler="sim"))
    record(desk.store, desk.feedback("own", Skip(reason="x"), source="mine"))
    assert [s.seq for s in events(desk.store, sources=["s1"])] == [2, 5, 8]
    assert [s.seq for s in events(desk.store, labelers=["sim"])] == [10]
    assert [s.seq for s in events(desk.store, kinds=["skip"], sources=["mine"])] == [11]
    assert [s.seq for s in events(desk.store, after_seq=3, upto_seq=5)] == [4, 5]
    assert list(events(desk.store, kinds=[])) == []
    assert count(desk.store, kind="ranking", sources=["s0"]) == 4
    assert count(desk.store) == 11


def test_reading_goes_page_by_page_while_others_write(desk, monkeypatch):
    monkeypatch.setattr("tutelage.store.feedback.BATCH", 4)
    record_many(desk.store, [desk.ranking(f"k{i}", 1, 2) for i in range(10)])
    seen = []
    for s in events(desk.store):
        seen.append(s.seq)
        record(desk.store, desk.ranking(f"later{s.seq}", 1, 2))
    assert seen == list(range(1, 11))


def test_the_same_judgement_sent_again_is_the_same_event(desk):
    first = record(desk.store, desk.ranking("k", 1, 2))
    assert record(desk.store, desk.ranking("k", 1, 2)) == first
    assert record_many(desk.store, [desk.ranking("k2", 1, 1), desk.ranking("k2", 1, 1)])[1].seq == 2
    assert count(desk.store) == 2


def test_one_key_never_stands_for_two_judgements(desk):
    record(desk.store, desk.ranking("k", 1, 2))
    with pytest.raises(StoreError, match="'k' already stands for event 1"):
        record(desk.store, desk.ranking("k", 2, 1))
    with pytest.raises(StoreError, match="'n' already"):
        record_many(desk.store, [desk.ranking("n", 1, 2), desk.ranking("n", 2, 1)])
    assert count(desk.store) == 1


def test_a_batch_is_stored_whole_or_not_at_all(desk):
    with pytest.raises(StoreError, match="'bad'"):
        record_many(desk.store, [desk.ranking("good", 1, 2), desk.ranking("bad", 1, 2, labeler="nobody")])
    assert count(desk.store) == 0


def test_eight_threads_sending_everything_thrice_leave_each_event_once(desk):
    wanted = [desk.ranking(f"k{i}", 1, 2, i_prompt=i % 3) for i in range(40)]
    got: list[list[tuple[str, int]]] = []

    def send(seed: int) -> None:
        mine = random.Random(seed).sample(wanted * 3, len(wanted) * 3)
        got.append([(f.idempotency_key, record(desk.store, f).seq) for f in mine])

    threads = [threading.Thread(target=send, args=(i,)) for i in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    seq_of = {s.feedback.idempotency_key: s.seq for s in events(desk.store)}
    assert sorted(seq_of.values()) == list(range(1, 41))
    assert sorted(seq_of) == sorted(f.idempotency_key for f in wanted)
    assert len(got) == 8
    assert all(seq_of[key] == seq for answers in got for key, seq in answers)
    verify_chain(desk.store)


def test_a_judgement_is_replaced_never_changed(desk):
    record(desk.store, desk.ranking("old", 1, 2))
    record(desk.store, desk.ranking("else", 1, 2, i_prompt=1))
    record(desk.store, desk.ranking("new", 2, 1, supersedes=1))
    assert [s.seq for s in events(desk.store)] == [1, 2, 3]
    assert [s.seq for s in current(desk.store)] == [2, 3]
    assert [s.seq for s in current(desk.store, upto_seq=2)] == [1, 2]  # as it was before the new one
    assert count(desk.store) == 2


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"labeler": "nobody"}, "no labeler 'nobody'"),
        ({"prompt_id": "nowhere"}, "no prompt 'nowhere'"),
        ({"shown": ("gone",)}, "no completion 'gone'"),
        ({"supersedes": 99}, "replaces event 99"),
        ({"supersedes": 1, "labeler": "sim"}, "another labeler"),
        ({"supersedes": 2}, "replaced by event 3"),
        ({"idempotency_key": "a\x00b"}, "NUL"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(desk, change, says):
    record_many(desk.store, [desk.ranking("1", 1, 2), desk.ranking("2", 1, 2), desk.ranking("3", 1, 2, supersedes=2)])
    with pytest.raises(StoreError, match=says):
        record(desk.store, desk.ranking("k", 1, 2).model_copy(update=change))
    assert count(desk.store) == 2


def test_a_ranking_covers_exactly_what_was_shown(desk):
    ids = tuple(c.id for c in desk.completions[0])
    with pytest.raises(StoreError, match="3 completions were shown and 2 ranked"):
        record(desk.store, desk.ranking("k", 1, 2, shown=ids[:3]))
    with pytest.raises(StoreError, match="not the same ones"):
        record(desk.store, desk.ranking("k", 1, 2, shown=(ids[0], ids[2])))
    with pytest.raises(StoreError, match="2 ranked"):
        record(desk.store, desk.ranking("k", 1, 2, shown=(ids[0], ids[1], ids[0])))
    record(desk.store, desk.ranking("k", 1, 2, shown=(ids[1], ids[0])))  # in any order


def test_a_completion_of_another_prompt_is_refused(desk):
    with pytest.raises(StoreError, match="another prompt"):
        record(desk.store, desk.ranking("k", 1, 2).model_copy(update={"prompt_id": desk.prompts[1].id}))


def test_a_correction_names_the_original_and_its_child(desk):
    old = desk.completions[0][0]
    new = Completion(prompt_id=old.prompt_id, text="better", origin="edited", parent=old.id)
    add_completions(desk.store, [new])
    record(desk.store, desk.feedback("k", CorrectionGiven(completion_id=old.id, corrected_id=new.id)))
    with pytest.raises(StoreError, match="not stored as a correction"):
        record(desk.store, desk.feedback("k2", CorrectionGiven(completion_id=new.id, corrected_id=old.id)))


def test_a_grade_is_a_finite_number(desk):
    bad = Rating(completion_id=desk.completions[0][0].id, aspect="x", value=float("nan"))
    with pytest.raises(StoreError, match="finite"):
        record(desk.store, desk.feedback("k", bad))


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 2), st.sampled_from(["ann", "sim"]), st.booleans()), max_size=25))
def test_the_current_view_is_what_a_replay_gives(tmp_path_factory, lay_desk, script):
    """A dictionary of what each labeler last said, kept by hand, is the current view."""
    with open_store(tmp_path_factory.mktemp("s") / "s.db") as store:
        desk = lay_desk(store)
        stands: list[int] = []
        for i, (i_prompt, labeler, replaces) in enumerate(script):
            mine = [s for s in current(store, labelers=[labeler]) if s.feedback.prompt_id == desk.prompts[i_prompt].id]
            old = mine[-1].seq if mine and replaces else None
            new = record(store, desk.ranking(f"k{i}", 1, 2, i_prompt=i_prompt, labeler=labeler, supersedes=old))
            stands = [seq for seq in stands if seq != old] + [new.seq]
        assert [s.seq for s in current(store)] == stands
        assert [s.seq for s in events(store)] == list(range(1, len(script) + 1))
        assert count(store) == len(stands)
        assert verify_chain(store) == head(store)


WRITER = """
import sys
from tutelage.store.db import open_store
from tutelage.store.feedback import record
from tutelage.types import Feedback, Skip
store = open_store(sys.argv[1])
for i in range(10**6):
    key = sys.argv[3] + "-" + str(i)
    record(store, Feedback(labeler="ann", prompt_id=sys.argv[2], judgement=Skip(reason="r"), idempotency_key=key))
    print(key, flush=True)
"""


def test_a_killed_writer_loses_nothing_that_it_acknowledged(where, lay_desk, tmp_path):
    with open_store(where) as store:
        prompt_id = lay_desk(store).prompts[0].id
    acknowledged: list[str] = []
    root = str(Path(__file__).parents[2])
    for trial in range(3):
        log = tmp_path / f"log{trial}"
        with log.open("w") as out:
            command = [sys.executable, "-c", WRITER, where, prompt_id, f"t{trial}"]
            writer = subprocess.Popen(command, stdout=out, env={**os.environ, "PYTHONPATH": root})
            until = time.monotonic() + 30
            while log.stat().st_size < 200 and time.monotonic() < until:
                time.sleep(0.01)
            time.sleep(random.Random(trial).random() / 10)
            writer.send_signal(signal.SIGKILL)
            writer.wait()
        acknowledged += [line for line in log.read_text().split("\n")[:-1] if line]
    with open_store(where) as store:
        stored = [s.feedback.idempotency_key for s in events(store)]
        assert verify_chain(store).seq == len(stored)
    assert len(acknowledged) > 30
    assert set(acknowledged) <= set(stored)
    assert len(stored) == len(set(stored)) <= len(acknowledged) + 3


def decision(desk, decided, *tiers, i_prompt=0):
    items = desk.ranking("-", *tiers, i_prompt=i_prompt).judgement.items
    return Adjudication(items=items, decided=tuple(decided), rationale="The second one is false.")


def test_a_decision_stands_beside_what_it_decides(desk):
    record_many(desk.store, [desk.ranking("a", 1, 2), desk.ranking("b", 2, 1, labeler="sim")])
    made = record(desk.store, desk.feedback("c", decision(desk, ["event:a", "event:b"], 1, 2)))
    assert [s.seq for s in current(desk.store)] == [1, 2, 3]
    assert list(events(desk.store, kinds=["adjudication"])) == [made]
    assert verify_chain(desk.store).seq == 3
    assert count(desk.store, kind="ranking") == 2


def test_a_decision_between_what_is_not_there_or_is_about_another_prompt_is_refused(desk):
    record_many(desk.store, [desk.ranking("a", 1, 2), desk.ranking("b", 2, 1, i_prompt=1, labeler="sim")])
    for decided, words in (
        (["event:a", "event:zz"], "no such judgement"),
        (["event:a", "a"], "no such judgement"),
        (["event:a", "event:b"], "another prompt"),
    ):
        with pytest.raises(StoreError, match=words):
            record(desk.store, desk.feedback("c", decision(desk, decided, 1, 2)))
    with pytest.raises(StoreError, match="answers another prompt"):
        record(desk.store, desk.feedback("d", decision(desk, ["event:a", "event:a"], 1, 2, i_prompt=1)))
    assert count(desk.store) == 2
