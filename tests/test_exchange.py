"""Files in and out of the store: nothing twice, nothing lost, nothing silent."""

import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tutelage.errors import DataError, StoreError
from tutelage.exchange import export_file, import_file
from tutelage.store.chain import verify_chain
from tutelage.store.completions import add_completions
from tutelage.store.db import open_store
from tutelage.store.feedback import count, events, record
from tutelage.store.people import add_labeler, labeler_kinds
from tutelage.store.prompts import add_prompts, get_prompts
from tutelage.store.snapshot import freeze, load_rankings
from tutelage.types import (
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
    Thumb,
)

PAIR = {"prompt": "q", "chosen": "A", "rejected": "B"}


@pytest.fixture
def store(tmp_path):
    with open_store(tmp_path / "s.db") as store:
        yield store


@pytest.fixture
def other(tmp_path):
    with open_store(tmp_path / "other.db") as store:
        yield store


def save(tmp_path: Path, *rows: object, name: str = "a.jsonl") -> Path:
    path = tmp_path / name
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows))
    return path


def said_by_people(store) -> None:
    """A ranking of model samples with a tie, the same ranking said twice, a pair, a demonstration and two thumbs."""
    for name in ("ann", "bob"):
        add_labeler(store, Labeler(pseudonym=name, kind="human"))
    prompt = Prompt(messages=(Message(role="user", content="q"),), source="demo")
    add_prompts(store, [prompt])
    samples = [Completion(prompt_id=prompt.id, text=f"t{i}", model_version="sft", sample=i) for i in range(4)]
    own = Completion(prompt_id=prompt.id, text="mine", origin="human")
    add_completions(store, [*samples, own])
    ranking = Ranking(
        items=tuple(RankedItem(completion_id=c.id, tier=t) for c, t in zip(samples, (2, 1, 1, 3), strict=True))
    )
    pair = tuple(RankedItem(completion_id=c.id, tier=t) for c, t in zip(samples[:2], (1, 2), strict=True))
    judgements = [
        ("ann", ranking),
        ("ann", ranking),
        ("bob", Ranking(items=pair, strength=3, aspect="tone")),
        ("bob", DemonstrationGiven(completion_id=own.id)),
        ("bob", Thumb(completion_id=samples[0].id, value=1)),
        ("bob", Thumb(completion_id=samples[1].id, value=-1)),
    ]
    for i, (who, j) in enumerate(judgements):
        record(
            store, Feedback(labeler=who, prompt_id=prompt.id, judgement=j, idempotency_key=f"key-{i}", source="round-1")
        )


def test_a_file_is_taken_row_by_row_and_everything_is_accounted_for(store, tmp_path):
    path = save(tmp_path, PAIR, {**PAIR, "rejected": ""}, {**PAIR, "margin": 0}, PAIR, {**PAIR, "rejected": "A"})
    report = import_file(store, path, source="mine")
    assert (report.taken, report.merged) == ({"ranking": 2}, 1)
    assert report.refused == {"empty text": 1, "identical completions": 1}
    assert [(r.where, r.why) for r in report.examples] == [
        (f"{path}, line 2", "empty text"),
        (f"{path}, line 5", "identical completions"),
    ]
    assert report.n_taken + report.merged + report.n_refused == 5
    assert [p.source for p in get_prompts(store)] == ["mine"]
    assert labeler_kinds(store) == {"import-mine": "import"}
    assert [s.feedback.source for s in events(store)] == ["mine", "mine"]


def test_importing_again_adds_what_is_missing_and_nothing_twice(store, tmp_path):
    path = save(tmp_path, *[{**PAIR, "prompt": f"q{i}"} for i in range(1203)])
    save(tmp_path, *[{**PAIR, "prompt": f"q{i}"} for i in range(700)], name="part.jsonl")
    assert import_file(store, tmp_path / "part.jsonl", source="s").n_taken == 700
    again = import_file(store, path, source="s")
    assert (again.n_taken, again.merged) == (503, 700)
    assert import_file(store, path, source="s").merged == count(store) == 1203
    verify_chain(store)


def test_rows_with_ids_of_their_own_are_judgements_of_their_own(store, tmp_path):
    path = save(tmp_path, {**PAIR, "id": 1}, {**PAIR, "id": 2}, {**PAIR, "id": 2})
    report = import_file(store, path)
    assert (report.n_taken, report.merged) == (2, 1)


def test_a_dry_run_says_the_same_and_stores_nothing(store, tmp_path):
    path = save(tmp_path, PAIR, {**PAIR, "rejected": ""}, PAIR, {"prompt": "r", "chosen": "A", "rejected": "B"})
    dry = import_file(store, path, dry_run=True)
    assert count(store) == 0
    assert get_prompts(store) == []
    wet = import_file(store, path)
    assert (
        (dry.taken, dry.merged, dry.refused)
        == (wet.taken, wet.merged, wet.refused)
        == ({"ranking": 2}, 1, {"empty text": 1})
    )


@pytest.mark.parametrize("k", [1, 2, 500, 501, 1200])
def test_an_error_at_line_k_leaves_nothing(store, tmp_path, k):
    rows: list[object] = [{**PAIR, "prompt": f"q{i}"} for i in range(1200)]
    rows[k - 1] = '{"prompt": '
    with pytest.raises(DataError, match=f"line {k}: expected JSON"):
        import_file(store, save(tmp_path, *rows))
    rows[k - 1] = {**PAIR, "chosen": ""}
    with pytest.raises(DataError, match=f"line {k}: empty text.*nothing was imported"):
        import_file(store, save(tmp_path, *rows), strict=True)
    assert count(store) == 0
    assert get_prompts(store) == []
    assert labeler_kinds(store) == {}


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.jsonl.xz", "a.jsonl.zst", "a.parquet"])
def test_export_import_export_gives_the_same_bytes(store, other, tmp_path, name):
    said_by_people(store)
    first, second = tmp_path / name, tmp_path / f"again-{name}"
    assert export_file(store, first, format="rankings").rows == 3
    assert import_file(other, first).taken == {"ranking": 3}
    export_file(other, second, format="rankings")
    assert first.read_bytes() == second.read_bytes()
    assert [s.feedback.idempotency_key for s in events(other)] == ["key-0", "key-1", "key-2"]


def test_what_a_store_gave_out_it_knows_again(store, tmp_path):
    said_by_people(store)
    export_file(store, tmp_path / "a.jsonl", format="rankings")
    report = import_file(store, tmp_path / "a.jsonl")
    assert (report.n_taken, report.merged, report.n_refused) == (0, 3, 0)


def test_a_judgement_that_was_changed_outside_is_refused(store, tmp_path):
    said_by_people(store)
    export_file(store, tmp_path / "a.jsonl", format="rankings")
    rows = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    rows[0]["completions"][0]["tier"] = 1
    rows[0]["completions"][3]["tier"] = 2
    report = import_file(store, save(tmp_path, *rows))
    assert (report.merged, report.refused) == (2, {"an id that is taken": 1})


def test_a_file_cannot_speak_for_a_person(store, tmp_path):
    add_labeler(store, Labeler(pseudonym="ann", kind="human"))
    report = import_file(store, save(tmp_path, {**PAIR, "labeler": "ann"}, {**PAIR, "labeler": "new"}))
    assert (report.n_taken, report.refused) == (1, {"a labeler of another kind": 1})
    with pytest.raises(StoreError, match="'ann' is of kind 'human'"):
        import_file(store, save(tmp_path, PAIR), labeler="ann")


def test_judgements_of_a_machine_are_marked_as_such(store, tmp_path):
    import_file(store, save(tmp_path, PAIR), labeler="judge-1", kind="model")
    assert labeler_kinds(store) == {"judge-1": "model"}


def test_a_ranking_of_ten_and_a_nul_are_refused_by_name(store, tmp_path):
    ten = {"prompt": "q", "completions": [{"text": str(i), "tier": i + 1} for i in range(10)]}
    fine = {"prompt": "q", "completions": [{"text": "a", "tier": 1}, {"text": "b", "tier": 2}]}
    report = import_file(
        store, save(tmp_path, ten, {**fine, "labeler": "a\x00"}, {**fine, "event": "event:\x00"}, fine)
    )
    assert report.refused == {"more than 9 completions": 1, "a NUL character": 2}
    assert report.n_taken == 1


def test_a_file_of_which_nothing_can_be_imported_is_an_error(store, tmp_path):
    ten = {"prompt": "q", "completions": [{"text": str(i), "tier": 1} for i in range(10)]}
    with pytest.raises(DataError, match=r"no row can be imported. The first: .*line 1: more than 9"):
        import_file(store, save(tmp_path, ten))


def test_equal_texts_in_one_ranking_stay_two(store, other, tmp_path):
    row = {"prompt": "q", "completions": [{"text": "a", "tier": 1}, {"text": "b", "tier": 2}, {"text": "a", "tier": 1}]}
    import_file(store, save(tmp_path, row), source="s")
    export_file(store, tmp_path / "out.jsonl", format="rankings")
    assert json.loads((tmp_path / "out.jsonl").read_text())["completions"] == row["completions"]


def test_a_source_is_the_rows_the_callers_or_the_files(store, tmp_path):
    import_file(store, save(tmp_path, {**PAIR, "source": "row"}, {**PAIR, "prompt": "r"}, name="named.v1.jsonl"))
    assert [s.feedback.source for s in events(store)] == ["row", "named"]
    import_file(store, save(tmp_path, {**PAIR, "source": "row"}), source="mine")
    assert [s.feedback.source for s in events(store)][2:] == ["mine"]


def test_a_prompt_of_two_sources_is_found_under_both(store, tmp_path):
    import_file(store, save(tmp_path, PAIR), source="one")
    import_file(store, save(tmp_path, {**PAIR, "chosen": "C"}), source="two")
    freeze(store, tmp_path / "snap", sources=["two"])
    assert [(g.source, g.texts) for g in load_rankings(tmp_path / "snap")] == [("two", ("C", "B"))]


def test_prompts_and_demonstrations_are_taken_too(store, tmp_path):
    assert import_file(store, save(tmp_path, {"prompt": "p"}, {"prompt": "p"})).taken == {"prompt": 1}
    assert import_file(store, save(tmp_path, {"prompt": "p"})).merged == 1
    demo = save(tmp_path, {"prompt": "p", "completion": "a"}, {"prompt": "p", "completion": "a"})
    assert import_file(store, demo).taken == {"demonstration": 1}
    assert import_file(store, demo).merged == 2
    export_file(store, tmp_path / "out.jsonl", format="messages")
    assert json.loads((tmp_path / "out.jsonl").read_text())["messages"][1] == {"role": "assistant", "content": "a"}


def test_every_export_holds_what_it_should(store, tmp_path):
    said_by_people(store)
    rows = {f: export_file(store, tmp_path / f"{f}.jsonl", format=f) for f in ("pairs", "hh", "demonstrations", "kto")}
    assert {f: w.rows for f, w in rows.items()} == {"pairs": 11, "hh": 11, "demonstrations": 1, "kto": 2}
    assert rows["pairs"].left_out == {"tied pair": 2}
    assert export_file(store, tmp_path / "none.jsonl", format="pairs", sources=["else"]).rows == 0
    with pytest.raises(DataError, match="'xml' is no format to export"):
        export_file(store, tmp_path / "a.jsonl", format="xml")


def test_public_sets_go_in_and_come_out(store, shared_data, tmp_path):
    hh = import_file(store, shared_data / "pref_hh-helpful-base.jsonl.xz")
    web = import_file(store, shared_data / "pref_webgpt.jsonl.xz")
    tree = import_file(store, shared_data / "oasst_synthetic_tree_100.jsonl.xz", source="oasst")
    panda = import_file(store, shared_data / "pref_pandalm_3annotators.jsonl.xz", source="panda")
    assert (hh.n_taken, hh.merged, web.n_taken) == (1619, 0, 622)
    assert (tree.taken, tree.merged) == ({"demonstration": 247, "prompt": 226, "ranking": 212}, 0)
    assert (panda.taken, panda.refused) == ({"ranking": 1356}, {"empty text": 10})
    rankings = [s.feedback for s in events(store, kinds=["ranking"])]
    ties = Counter(f.source for f in rankings if {i.tier for i in f.judgement.items} == {1})
    assert ties["webgpt"] == 176
    done = export_file(store, tmp_path / "a.jsonl", format="pairs", sources=["oasst"])
    assert done.rows == 754


TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12).filter(str.strip)
NAME = st.text("abcdé-_. 0", min_size=1, max_size=8).filter(str.strip)


@st.composite
def ranking_told(draw):
    """Texts, models and tiers of a ranking, and how it came about."""
    texts = draw(st.lists(TEXT, min_size=2, max_size=9, unique=True))
    tiers = draw(st.lists(st.integers(1, 9), min_size=len(texts), max_size=len(texts)))
    order = {tier: i + 1 for i, tier in enumerate(sorted(set(tiers)))}
    return {
        "texts": texts,
        "tiers": [order[t] for t in tiers],
        "models": draw(st.lists(st.none() | NAME, min_size=len(texts), max_size=len(texts))),
        "shown": draw(st.none() | st.permutations(range(len(texts)))),
        "active_ms": draw(st.integers(0, 10**9)),
        "guideline": draw(st.none() | NAME),
        "aspect": draw(st.sampled_from(["overall", "tone"])),
        "none_acceptable": draw(st.booleans()),
        "strength": draw(st.none() | st.integers(0, 3)),
        "margin": draw(st.none() | st.floats(-1e9, 1e9)),
        "is_correction": draw(st.booleans()),
    }


def put(store, n: int, told) -> None:
    prompt = Prompt(messages=(Message(role="user", content=f"question {n}"),), source="demo")
    made = [
        Completion(prompt_id=prompt.id, text=text, model_version=model, sample=i)
        for i, (text, model) in enumerate(zip(told["texts"], told["models"], strict=True))
    ]
    better = Completion(prompt_id=prompt.id, text=made[0].text + "!", origin="edited", parent=made[0].id)
    add_prompts(store, [prompt])
    add_completions(store, [*made, better])
    shared = {"active_ms": told["active_ms"], "guideline": told["guideline"], "source": "round-1", "labeler": "ann"}
    items = tuple(RankedItem(completion_id=c.id, tier=t) for c, t in zip(made, told["tiers"], strict=True))
    said = {k: told[k] for k in ("aspect", "none_acceptable", "strength", "margin")}
    shown = tuple(made[i].id for i in told["shown"] or ())
    record(store, Feedback(prompt_id=prompt.id, judgement=Ranking(items=items, **said), shown=shown,
                           idempotency_key=f"r{n}", **shared))  # fmt: skip
    if told["is_correction"]:
        given = CorrectionGiven(completion_id=made[0].id, corrected_id=better.id)
        record(store, Feedback(prompt_id=prompt.id, judgement=given, shown=shown, idempotency_key=f"c{n}", **shared))


@settings(max_examples=12)
@given(
    told=st.lists(ranking_told(), min_size=1, max_size=12), ending=st.sampled_from(["jsonl", "parquet", "jsonl.zst"])
)
def test_any_rankings_come_back_byte_for_byte_with_their_lineage(tmp_path_factory, told, ending):
    folder = tmp_path_factory.mktemp("round-trip")
    first, second = folder / f"a.{ending}", folder / f"b.{ending}"
    with open_store(folder / "one.db") as one, open_store(folder / "two.db") as two:
        add_labeler(one, Labeler(pseudonym="ann", kind="human"))
        for n, ranking in enumerate(told):
            put(one, n, ranking)
        rows = export_file(one, first, format="rankings").rows
        report = import_file(two, first)
        assert (report.n_taken, report.n_refused) == (rows, 0)
        export_file(two, second, format="rankings")
    assert first.read_bytes() == second.read_bytes()


def test_rankings_ratings_and_remarks_come_with_how_they_came_about(store, tmp_path):
    add_labeler(store, Labeler(pseudonym="ann", kind="human"))
    prompt = Prompt(messages=(Message(role="user", content="q"),), source="demo")
    made = [Completion(prompt_id=prompt.id, text=t, model_version=m, sample=i)
            for i, (t, m) in enumerate((("A", "sft"), ("B", None)))]  # fmt: skip
    add_prompts(store, [prompt])
    add_completions(store, made)
    a, b = (c.id for c in made)
    judgements = [
        Ranking(items=(RankedItem(completion_id=a, tier=2), RankedItem(completion_id=b, tier=1)), none_acceptable=True),
        Rating(completion_id=a, aspect="overall", value=6.0),
        Critique(completion_id=b, text="=too long", span=(0, 1)),
        Flag(completion_id=b, category="false", note="n"),
        Flag(category="off-topic"),
    ]
    for i, j in enumerate(judgements):
        key, shown = f"k{i}", (b, a) if i < 4 else ()
        record(store, Feedback(labeler="ann", prompt_id=prompt.id, judgement=j, idempotency_key=key, guideline="g-1",
                               shown=shown, active_ms=2500, source="s"))  # fmt: skip

    def rows(format: str) -> list[dict[str, object]]:
        export_file(store, tmp_path / "out.jsonl", format=format)
        return [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]

    by = {"seconds": 2.5, "guideline": "g-1", "labeler": "ann", "source": "s"}
    (ranking,) = rows("rankings")
    assert ranking == {
        "prompt": "q", "none_acceptable": True, "event": "event:k0", **by,
        "completions": [
            {"text": "A", "tier": 2, "model": "sft", "position": 2}, {"text": "B", "tier": 1, "position": 1},
        ],
    }  # fmt: skip
    assert rows("ratings") == [{"prompt": "q", "completion": "A", "aspect": "overall", "value": 6.0, "model": "sft",
                                "position": 2, **by, "event": "event:k1"}]  # fmt: skip
    assert rows("critiques") == [{"prompt": "q", "completion": "B", "critique": "=too long", "start": 0, "end": 1,
                                  "position": 1, **by, "event": "event:k2"}]  # fmt: skip
    assert [(r["category"], r.get("completion"), r.get("note")) for r in rows("flags")] == [
        ("false", "B", "n"), ("off-topic", None, None),
    ]  # fmt: skip
    log = rows("log")
    assert [(r["seq"], r["feedback"]["idempotency_key"]) for r in log] == [(i + 1, f"k{i}") for i in range(5)]
    assert [r["hash"] for r in log] == [s.hash for s in events(store)]
    export_file(store, tmp_path / "out.csv", format="critiques")
    assert "'=too long" in (tmp_path / "out.csv").read_text()


def test_the_log_holds_what_was_replaced_and_the_rest_does_not(store, tmp_path):
    said_by_people(store)
    first = next(iter(events(store)))
    again = first.feedback.model_copy(update={"idempotency_key": "new", "supersedes": first.seq})
    record(store, again)
    assert export_file(store, tmp_path / "a.jsonl", format="log").rows == 7
    assert export_file(store, tmp_path / "b.jsonl", format="rankings").rows == 3
    assert export_file(store, tmp_path / "c.parquet", format="log", sources=["else"]).rows == 0


@pytest.mark.parametrize("field", ["guideline", "model", "labeler"])
def test_a_nul_in_any_name_is_refused_before_anything_is_stored(store, tmp_path, field):
    row = {"prompt": "q", "completions": [{"text": "a", "tier": 1}, {"text": "b", "tier": 2}]}
    (row["completions"][0] if field == "model" else row)[field] = "x\x00"
    with pytest.raises(DataError, match="a NUL character"):
        import_file(store, save(tmp_path, row))
    assert get_prompts(store) == []
