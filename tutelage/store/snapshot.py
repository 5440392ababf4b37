"""Freezes what people have said into a numbered, hashed data set, and reads it back for training.

A snapshot is a function of (events up to seq_upto, sources, fractions, seed): frozen again, it has the same bytes.
Its folder holds one Parquet file a kind of judgement, and card.json. Whose judgement a row is stands in the row.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped, unused-ignore]
import pyarrow.parquet as pq  # type: ignore[import-untyped, unused-ignore]
import sqlalchemy as sa

from tutelage.errors import DataError, StoreError
from tutelage.publish import published, sha256_file, verify
from tutelage.seed import derive
from tutelage.store import schema
from tutelage.store.db import Store, chunks
from tutelage.store.feedback import current, event_id, head
from tutelage.store.people import labeler_kinds
from tutelage.store.prompts import norm_sha
from tutelage.store.whole import Whole, demonstrated, ranked, ranked_group, whole
from tutelage.types import (
    Completion,
    Critique,
    Demonstration,
    Fact,
    Flag,
    Message,
    Prompt,
    RankedGroup,
    Ranking,
    Rating,
    Split,
    Thumb,
)

CARD = "card.json"
SPLIT_RULE = (
    "by SHA-256 of the first user turn in NFKC, lower case, white space collapsed, drawn with the seed: "
    "all turns of a dialogue and all judgements of a prompt lie in one split"
)

_MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
_HEAD = [
    ("seq", pa.int64()),
    ("event", pa.string()),
    ("split", pa.string()),
    ("labeler", pa.string()),
    ("labeler_kind", pa.string()),
    ("source", pa.string()),
    ("guideline", pa.string()),
    ("prompt_id", pa.string()),
    ("prompt_source", pa.string()),
    ("prompt", _MESSAGES),
]
_ONE = [("completion_id", pa.string()), ("model_version", pa.string()), ("text", pa.string())]
COLUMNS = {
    "rankings": [
        ("kind", pa.string()),  # ranking, adjudication, or correction: the new text above the old one
        ("completion_ids", pa.list_(pa.string())),
        ("model_versions", pa.list_(pa.string())),
        ("texts", pa.list_(pa.string())),
        ("tiers", pa.list_(pa.int64())),
        ("margin", pa.float64()),
        ("aspect", pa.string()),
        ("none_acceptable", pa.bool_()),
    ],
    "demonstrations": [("kind", pa.string()), *_ONE],
    "ratings": [*_ONE, ("aspect", pa.string()), ("value", pa.float64())],
    "critiques": [*_ONE, ("critique", pa.string()), ("start", pa.int64()), ("end", pa.int64())],
    "thumbs": [*_ONE, ("value", pa.int64()), ("reasons", pa.list_(pa.string()))],
    "flags": [*_ONE, ("category", pa.string()), ("note", pa.string())],
}
SCHEMAS = {name: pa.schema([*_HEAD, *columns]) for name, columns in COLUMNS.items()}


class SnapshotCard(Fact):
    """What a snapshot holds and how it was cut. `counts`: rows by file and split; `labelers`: judgements by name."""

    hash: str  # SHA-256 over the names and SHA-256s of the data files
    seq_upto: int
    chain_hash: str  # of the event at seq_upto
    sources: tuple[str, ...] | None  # None: all
    seed: int
    valid_fraction: float
    test_fraction: float
    split_rule: str
    counts: dict[str, dict[Split, int]]
    prompts: dict[Split, int]
    labelers: dict[str, int]
    labeler_kinds: dict[str, int]  # judgements by kind of labeler
    files: dict[str, str]  # name: SHA-256


class RatedText(Fact):
    """One grade made whole: the prompt, the text, the aspect and whose judgement it was."""

    prompt: Prompt
    text: str
    aspect: str
    value: float
    labeler: str
    source: str


@dataclass(slots=True)
class _Tally:
    counts: dict[str, Counter[Split]] = field(default_factory=lambda: {name: Counter() for name in SCHEMAS})
    prompts: dict[Split, set[str]] = field(default_factory=lambda: {"train": set(), "valid": set(), "test": set()})
    labelers: Counter[str] = field(default_factory=Counter)
    labeler_kinds: Counter[str] = field(default_factory=Counter)


def split_of(prompt: Prompt, *, valid_fraction: float, test_fraction: float, seed: int) -> Split:
    """The split of a prompt: a function of its normalised first user turn and the seed alone."""
    draw = derive(seed, "split", norm_sha(prompt)) / 2**63
    if draw < test_fraction:
        return "test"
    return "valid" if draw < test_fraction + valid_fraction else "train"


def freeze(
    store: Store,
    folder: Path,
    *,
    sources: list[str] | None = None,
    seq_upto: int | None = None,
    valid_fraction: float = 0.1,
    test_fraction: float = 0.0,
    seed: int = 0,
) -> SnapshotCard:
    """Publishes the current judgements up to `seq_upto` (default: the newest) as a folder; the store records it."""
    if min(valid_fraction, test_fraction) < 0 or not valid_fraction + test_fraction < 1:
        raise DataError(
            f"valid_fraction = {valid_fraction} and test_fraction = {test_fraction} leave nothing to train on. "
            f"Give fractions from 0 whose sum is below 1."
        )
    upto = head(store).seq if seq_upto is None else seq_upto
    query: dict[str, Any] = {
        "sources": None if sources is None else sorted(set(sources)),
        "valid_fraction": valid_fraction,
        "test_fraction": test_fraction,
        "seed": seed,
    }
    chain_hash = _chain_hash(store, upto)
    with published(folder) as aside:
        tally = _write_files(store, aside, upto, query)
        files = {f"{name}.parquet": sha256_file(aside / f"{name}.parquet") for name in SCHEMAS}
        card = SnapshotCard(
            hash=hashlib.sha256(schema.canonical(sorted(files.items())).encode()).hexdigest(),
            seq_upto=upto,
            chain_hash=chain_hash,
            split_rule=SPLIT_RULE,
            counts={name: dict(sorted(c.items())) for name, c in tally.counts.items()},
            prompts={split: len(ids) for split, ids in tally.prompts.items()},
            labelers=dict(sorted(tally.labelers.items())),
            labeler_kinds=dict(sorted(tally.labeler_kinds.items())),
            files=files,
            **query,
        )
        (aside / CARD).write_text(json.dumps(card.model_dump(mode="json"), indent=2, sort_keys=True) + "\n", "utf-8")
        # Recorded before the folder appears: a kill in between leaves a row that the next freeze finds again.
        _record(store, card, folder, query)
    return card


def _chain_hash(store: Store, seq: int) -> str:
    with store.read() as conn:
        found = conn.scalar(sa.select(schema.event.c.hash).where(schema.event.c.seq == seq))
    if found is None and seq != 0:
        raise StoreError(f"seq_upto = {seq}, but there is no event {seq} in this store. Choose an event that is there.")
    return found or ""


def _record(store: Store, card: SnapshotCard, folder: Path, query: dict[str, Any]) -> None:
    table = schema.snapshot
    row = {"hash": card.hash, "path": str(folder), "seq_upto": card.seq_upto, "chain_hash": card.chain_hash}
    with store.write() as conn:
        if conn.scalar(sa.select(table.c.hash).where(table.c.hash == card.hash)) is None:
            conn.execute(sa.insert(table).values(**row, query=query, at=store.now()))


# Writing. Fixed writer options, and rows in the order of seq: equal content has equal bytes.


def _write_files(store: Store, aside: Path, upto: int, query: dict[str, Any]) -> _Tally:
    tally, kinds = _Tally(), labeler_kinds(store)
    fractions = {k: query[k] for k in ("valid_fraction", "test_fraction", "seed")}
    writers = {
        name: pq.ParquetWriter(
            aside / f"{name}.parquet",
            columns,
            version="2.6",
            compression="zstd",
            compression_level=3,
            data_page_size=1 << 20,
        )
        for name, columns in SCHEMAS.items()
    }
    try:
        for chunk in chunks(whole(store, current(store, upto_seq=upto, sources=query["sources"]))):
            rows: dict[str, list[dict[str, Any]]] = {name: [] for name in SCHEMAS}
            for one in chunk:
                split = split_of(one.prompt, **fractions)
                start = _start(one, split, kinds[one.labeler])
                found = list(_rows(one))
                for name, rest in found:
                    rows[name].append({**start, **rest})
                    tally.counts[name][split] += 1
                if found:
                    tally.prompts[split].add(one.prompt.id)
                    tally.labelers[one.labeler] += 1
                    tally.labeler_kinds[kinds[one.labeler]] += 1
            for name, some in rows.items():
                if some:
                    writers[name].write_table(pa.Table.from_pylist(some, schema=SCHEMAS[name]))
    finally:
        for writer in writers.values():
            writer.close()
    return tally


def _start(one: Whole, split: Split, labeler_kind: str) -> dict[str, Any]:
    f = one.stored.feedback
    return {
        "seq": one.stored.seq,
        "event": event_id(f),
        "split": split,
        "labeler": f.labeler,
        "labeler_kind": labeler_kind,
        "source": one.source,
        "guideline": f.guideline,
        "prompt_id": f.prompt_id,
        "prompt_source": one.prompt.source,
        "prompt": [m.model_dump() for m in one.prompt.messages],
    }


def _rows(one: Whole) -> Iterator[tuple[str, dict[str, Any]]]:
    """(file, columns) of one judgement; a correction is both a ranking and a demonstration, a skip is nothing."""
    j = one.stored.feedback.judgement
    if (group := ranked_group(one)) is not None:
        completions = [c for c, _ in ranked(one)]
        yield (
            "rankings",
            {
                "kind": j.kind,
                "completion_ids": [c.id for c in completions],
                "model_versions": [c.model_version for c in completions],
                "texts": list(group.texts),
                "tiers": list(group.tiers),
                "margin": group.margin,
                "aspect": group.aspect,
                "none_acceptable": isinstance(j, Ranking) and j.none_acceptable,
            },
        )
    if (given := demonstrated(one)) is not None:
        yield "demonstrations", {"kind": j.kind, **_about(given)}
    match j:
        case Rating():
            yield "ratings", {**_about(one.completions[j.completion_id]), "aspect": j.aspect, "value": j.value}
        case Critique():
            start, end = j.span or (None, None)
            about = _about(one.completions[j.completion_id])
            yield "critiques", {**about, "critique": j.text, "start": start, "end": end}
        case Thumb():
            about = _about(one.completions[j.completion_id])
            yield "thumbs", {**about, "value": j.value, "reasons": list(j.reasons)}
        case Flag():
            about = _about(one.completions[j.completion_id]) if j.completion_id else {}
            yield "flags", {**about, "category": j.category, "note": j.note}


def _about(completion: Completion) -> dict[str, Any]:
    return {"completion_id": completion.id, "model_version": completion.model_version, "text": completion.text}


# Reading. The manifest is verified first: what was changed since is not trained on.


def load_card(folder: Path) -> SnapshotCard:
    verify(folder)
    return SnapshotCard.model_validate_json((folder / CARD).read_text("utf-8"))


def load_rankings(folder: Path, split: Split | None = None) -> list[RankedGroup]:
    """Rankings, and corrections as pairs, in the order of events; `split` None gives all."""
    return [
        RankedGroup(
            prompt=_prompt(row),
            texts=row["texts"],
            tiers=row["tiers"],
            labeler=row["labeler"],
            source=row["source"],
            margin=row["margin"],
            event=row["event"],
            aspect=row["aspect"],
        )
        for row in _read(folder, "rankings", split)
    ]


def load_demonstrations(folder: Path, split: Split | None = None) -> list[Demonstration]:
    """Demonstrations and corrected texts, in the order of events."""
    return [
        Demonstration(prompt=_prompt(row), text=row["text"], labeler=row["labeler"], source=row["source"])
        for row in _read(folder, "demonstrations", split)
    ]


def load_ratings(folder: Path, split: Split | None = None) -> list[RatedText]:
    """Grades, in the order of events."""
    shared = ("text", "aspect", "value", "labeler", "source")
    return [RatedText(prompt=_prompt(row), **{k: row[k] for k in shared}) for row in _read(folder, "ratings", split)]


def _read(folder: Path, name: str, split: Split | None) -> Iterator[dict[str, Any]]:
    verify(folder)
    with pq.ParquetFile(folder / f"{name}.parquet") as file:
        for batch in file.iter_batches(batch_size=1000, use_threads=False):
            yield from (row for row in batch.to_pylist() if split in (None, row["split"]))


def _prompt(row: dict[str, Any]) -> Prompt:
    return Prompt(messages=tuple(Message(**m) for m in row["prompt"]), source=row["prompt_source"])
