"""Freezing: the same events give the same bytes, and no prompt lies in two splits."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tutelage.errors import CorruptError, DataError, StoreError
from tutelage.publish import sha256_file
from tutelage.store.completions import add_completions
from tutelage.store.db import open_store
from tutelage.store.feedback import record, record_many
from tutelage.store.people import add_labeler
from tutelage.store.prompts import add_prompts, normalised
from tutelage.store.snapshot import (
    freeze,
    load_card,
    load_demonstrations,
    load_rankings,
    load_ratings,
    split_of,
)
from tutelage.types import (
    Adjudication,
    Completion,
    CorrectionGiven,
    Critique,
    DemonstrationGiven,
    Feedback,
    Flag,
    Labeler,
    Message,
    Prompt,
    RankedItem,
    Ranking,
    Rating,
    Skip,
    Thumb,
)


def of_every_kind(desk) -> None:
    old = desk.completions[0][0]
    new = Completion(prompt_id=old.prompt_id, text="better", origin="edited", parent=old.id)
    own = Completion(prompt_id=old.prompt_id, text="my own", origin="human")
    add_completions(desk.store, [new, own])
    pair = tuple(RankedItem(completion_id=c.id, tier=i + 1) for i, c in enumerate(desk.completions[2][:2]))
    judgements = [
        CorrectionGiven(completion_id=old.id, corrected_id=new.id),
        DemonstrationGiven(completion_id=own.id),
        Rating(completion_id=old.id, aspect="helpful", value=6),
        Critique(completion_id=old.id, text="vague", span=(0, 6)),
        Thumb(completion_id=old.id, value=1, reasons=("kind",)),
        Flag(category="private data"),
        Skip(reason="x"),
    ]
    record(desk.store, desk.ranking("rank", 2, 1, 2, 3))
    record_many(desk.store, [desk.feedback(f"j{i}", j) for i, j in enumerate(judgements)])
    record(
        desk.store,
        desk.feedback(
            "pair", Ranking(items=pair, strength=2, none_acceptable=True, aspect="tone"), 2, "sim", source="own"
        ),
    )


def bytes_of(folder: Path) -> dict[str, str]:
    return {p.name: sha256_file(p) for p in folder.iterdir()}


def test_what_was_said_comes_back_whole(desk, tmp_path):
    of_every_kind(desk)
    card = freeze(desk.store, tmp_path / "1", valid_fraction=0.0)
    ranked, corrected, pair = load_rankings(tmp_path / "1")
    assert ranked.texts == ("answer 0", "answer 1", "answer 2", "answer 3")
    assert (ranked.tiers, ranked.labeler, ranked.source, ranked.event) == ((2, 1, 2, 3), "ann", "s0", "event:rank")
    assert (corrected.texts, corrected.tiers) == (("better", "answer 0"), (1, 2))
    assert (pair.margin, pair.labeler, pair.source, pair.aspect) == (2.0, "sim", "own", "tone")
    assert [d.text for d in load_demonstrations(tmp_path / "1")] == ["better", "my own"]
    assert [(r.text, r.aspect, r.value) for r in load_ratings(tmp_path / "1")] == [("answer 0", "helpful", 6.0)]
    assert {k: dict(v) for k, v in card.counts.items()} == {
        "rankings": {"train": 3},
        "demonstrations": {"train": 2},
        "ratings": {"train": 1},
        "critiques": {"train": 1},
        "thumbs": {"train": 1},
        "flags": {"train": 1},
    }
    assert (card.labelers, card.labeler_kinds) == ({"ann": 7, "sim": 1}, {"human": 7, "simulated": 1})
    assert card.prompts == {"train": 2, "valid": 0, "test": 0}
    assert load_card(tmp_path / "1") == card


def test_a_decision_is_trained_on_as_a_ranking_beside_the_raw_ones(desk, tmp_path):
    record(desk.store, desk.ranking("one", 1, 2))
    record(desk.store, desk.ranking("two", 2, 1, labeler="sim"))
    items = desk.ranking("-", 1, 2).judgement.items
    decided = Adjudication(items=items, decided=("event:one", "event:two"), rationale="The first is right.")
    record(desk.store, desk.feedback("decision", decided))
    card = freeze(desk.store, tmp_path / "1", valid_fraction=0.0)
    assert [(g.event, g.tiers) for g in load_rankings(tmp_path / "1")] == [
        ("event:one", (1, 2)), ("event:two", (2, 1)), ("event:decision", (1, 2)),
    ]  # fmt: skip
    assert card.counts["rankings"] == {"train": 3}
    rows = pq.read_table(tmp_path / "1" / "rankings.parquet").to_pylist()
    assert [r["kind"] for r in rows] == ["ranking", "ranking", "adjudication"]


def test_a_replaced_judgement_is_not_trained_on(desk, tmp_path):
    record(desk.store, desk.ranking("old", 1, 2))
    record(desk.store, desk.ranking("new", 2, 1, supersedes=1))
    freeze(desk.store, tmp_path / "now")
    freeze(desk.store, tmp_path / "then", seq_upto=1)
    assert [g.event for g in load_rankings(tmp_path / "now")] == ["event:new"]
    assert [g.event for g in load_rankings(tmp_path / "then")] == ["event:old"]


def test_two_freezes_at_one_event_have_the_same_bytes(desk, tmp_path):
    of_every_kind(desk)
    one = freeze(desk.store, tmp_path / "1", seed=7)
    record(desk.store, desk.ranking("later", 1, 2, i_prompt=1))
    assert freeze(desk.store, tmp_path / "2", seed=7, seq_upto=one.seq_upto) == one
    assert bytes_of(tmp_path / "1") == bytes_of(tmp_path / "2")
    assert freeze(desk.store, tmp_path / "3", seed=7).hash != one.hash


def test_two_stores_that_were_told_the_same_freeze_the_same_data(tmp_path, lay_desk):
    cards = []
    for name in ("a", "b"):
        with open_store(tmp_path / f"{name}.db") as store:
            of_every_kind(lay_desk(store))
            cards.append(freeze(store, tmp_path / name))
    assert cards[0].hash == cards[1].hash
    assert cards[0].chain_hash != cards[1].chain_hash  # the clocks differed


def test_sources_narrow_a_snapshot(desk, tmp_path):
    record_many(desk.store, [desk.ranking(f"k{i}", 1, 2, i_prompt=i) for i in range(3)])
    freeze(desk.store, tmp_path / "1", sources=["s1", "s2"])
    assert [g.source for g in load_rankings(tmp_path / "1")] == ["s1", "s2"]


def test_no_prompt_lies_in_two_splits(store, tmp_path):
    add_labeler(store, Labeler(pseudonym="ann", kind="human"))
    texts = [f"question {i % 60}" for i in range(180)]
    shapes = (str, str.upper, lambda t: f"  {t}\n")
    prompts = [Prompt(messages=(Message(role="user", content=shapes[i % 3](t)),)) for i, t in enumerate(texts)]
    more = [Message(role="assistant", content="ok"), Message(role="user", content="go on")]
    prompts += [Prompt(messages=(*p.messages, *more)) for p in prompts[:60]]
    add_prompts(store, prompts)
    for i, p in enumerate(prompts):
        pair = [Completion(prompt_id=p.id, text=t) for t in "ab"]
        add_completions(store, pair)
        items = tuple(RankedItem(completion_id=c.id, tier=1) for c in pair)
        record(store, Feedback(labeler="ann", prompt_id=p.id, judgement=Ranking(items=items), idempotency_key=str(i)))
    card = freeze(store, tmp_path / "1", valid_fraction=0.3, test_fraction=0.2)
    in_split = {s: {normalised(g.prompt) for g in load_rankings(tmp_path / "1", s)} for s in ("train", "valid", "test")}
    assert all(in_split.values())
    assert sum(map(len, in_split.values())) == len(set.union(*in_split.values())) == 60
    assert sum(card.counts["rankings"].values()) == len(load_rankings(tmp_path / "1")) == 240


@given(st.text(), st.integers(0, 5))
def test_a_larger_share_held_out_only_adds(text, seed):
    prompt = Prompt(messages=(Message(role="user", content=text),))
    splits = [split_of(prompt, valid_fraction=v, test_fraction=0.1, seed=seed) for v in (0.0, 0.2, 0.5)]
    assert splits[0] != "test" or splits == ["test"] * 3
    assert "valid" not in splits or "train" not in splits[splits.index("valid") :]


def test_a_changed_file_is_not_trained_on(desk, tmp_path):
    of_every_kind(desk)
    freeze(desk.store, tmp_path / "1")
    target = tmp_path / "1" / "rankings.parquet"
    target.write_bytes(target.read_bytes()[:-1] + b"\x00")
    with pytest.raises(CorruptError, match=r"rankings\.parquet"):
        load_rankings(tmp_path / "1")


def test_a_snapshot_is_never_overwritten_and_its_card_is_plain_json(desk, tmp_path):
    of_every_kind(desk)
    card = freeze(desk.store, tmp_path / "1")
    assert json.loads((tmp_path / "1" / "card.json").read_text())["hash"] == card.hash
    with pytest.raises(CorruptError, match="never overwritten"):
        freeze(desk.store, tmp_path / "1")


def test_an_event_or_fractions_that_cannot_be_are_refused(desk, tmp_path):
    with pytest.raises(StoreError, match="no event 5"):
        freeze(desk.store, tmp_path / "1", seq_upto=5)
    with pytest.raises(DataError, match="leave nothing to train on"):
        freeze(desk.store, tmp_path / "1", valid_fraction=0.5, test_fraction=0.5)
    assert not (tmp_path / "1").exists()
