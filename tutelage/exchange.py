"""Files into the store and out of it. Knows formats and the store's functions; knows no table and no tensor.

A file is read twice: first to check every row, then to write. What is refused is counted with its reason, and a file
that breaks off in the middle leaves nothing behind. Each judgement's key is made from what it says, so that a file that
is imported again, or was imported in part before a kill, adds what is missing and nothing twice.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tutelage.errors import DataError, StoreError
from tutelage.formats import write
from tutelage.formats.detect import read_placed
from tutelage.formats.fields import Item
from tutelage.formats.rows import Refusal
from tutelage.formats.write import Judged, Written
from tutelage.store.choices import Choice, choices
from tutelage.store.completions import add_completions
from tutelage.store.db import Store, chunks
from tutelage.store.feedback import current, event_id, events, find, record_many
from tutelage.store.people import add_labeler, labeler_kinds
from tutelage.store.prompts import add_prompts, has_prompts
from tutelage.store.whole import Whole, demonstrated, demonstration, place_of, ranked, ranked_group, whole
from tutelage.types import (
    Adjudication,
    Completion,
    Critique,
    Demonstration,
    DemonstrationGiven,
    Feedback,
    Flag,
    Labeler,
    LabelerKind,
    Prompt,
    RankedGroup,
    RankedItem,
    Ranking,
    Rating,
    Thumb,
    digest,
)

MAX_RANKED = 9  # completions in one ranking
EXAMPLES = 3  # refused rows shown for each reason


@dataclass(frozen=True, slots=True)
class ImportReport:
    """What became of each row. `taken` + `merged` + `refused` is what the file held, or would be in a dry run."""

    path: str
    taken: dict[str, int]  # by kind: ranking, demonstration, prompt
    merged: int  # already in the store, or twice in the file
    refused: dict[str, int]  # by reason
    examples: tuple[Refusal, ...]  # the first few refused rows of each reason
    dry_run: bool

    @property
    def n_taken(self) -> int:
        return sum(self.taken.values())

    @property
    def n_refused(self) -> int:
        return sum(self.refused.values())


@dataclass(frozen=True, slots=True)
class _Entry:
    """One object of the file as the store will hold it. `says` tells whether two of the same key are the same."""

    where: str
    kind: str
    key: str
    says: str
    prompt: Prompt
    completions: tuple[Completion, ...] = ()
    feedback: Feedback | None = None


@dataclass(slots=True)
class _Tally:
    taken: Counter[str] = field(default_factory=Counter)
    merged: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    examples: list[Refusal] = field(default_factory=list)

    def refuse(self, refusal: Refusal) -> None:
        self.refused[refusal.why] += 1
        if self.refused[refusal.why] <= EXAMPLES:
            self.examples.append(refusal)


Placed = Callable[[], Iterable[tuple[str, Item | Refusal]]]  # (where, object or refusal), as often as it is called


@dataclass(frozen=True, slots=True)
class _Job:
    """One import: what was asked for, and who is known by which kind."""

    store: Store
    path: Path
    placed: Placed
    source: str | None
    labeler: str | None
    kind: LabelerKind
    kind_of: dict[str, LabelerKind]


def import_file(
    store: Store,
    path: str | Path,
    *,
    format: str = "auto",
    source: str | None = None,
    labeler: str | None = None,
    kind: LabelerKind = "import",
    dry_run: bool = False,
    strict: bool = False,
) -> ImportReport:
    """Reads a file of feedback into the store and says what became of each row.

    source   of all rows; None: what the row says, or the file's name up to its first dot
    labeler  of all rows; None: whom the row names, or `import-SOURCE`
    kind     of labelers that are new: `model` for judgements by a machine
    strict   one refused row is a DataError, and nothing is stored
    """
    path = Path(path)
    return import_placed(
        store, lambda: read_placed(path, format), path,
        source=source, labeler=labeler, kind=kind, dry_run=dry_run, strict=strict,
    )  # fmt: skip


def import_placed(
    store: Store,
    placed: Placed,
    path: Path,
    *,
    source: str | None = None,
    labeler: str | None = None,
    kind: LabelerKind = "import",
    dry_run: bool = False,
    strict: bool = False,
) -> ImportReport:
    """`import_file` of what was read elsewhere; `path` names it in messages."""
    kinds = labeler_kinds(store)
    if labeler is not None and kinds.get(labeler, kind) != kind:
        raise StoreError(
            f"labeler {labeler!r} is of kind {kinds[labeler]!r} in this store; a file of kind {kind!r} cannot speak "
            f"for them. Choose another pseudonym."
        )
    job = _Job(store, path, placed, source, labeler, kind, kinds)
    tally = _run(job, writes=False)
    if strict and tally.refused:
        first = tally.examples[0]
        raise DataError(
            f"{first.where}: {first.why}: {first.detail}. {sum(tally.refused.values())} rows of the file cannot be "
            f"used, so nothing was imported. Mend them, or import without strict to take the good ones."
        )
    if not (tally.taken or tally.merged):
        first = tally.examples[0]
        raise DataError(f"{path}: no row can be imported. The first: {first.where}: {first.why}: {first.detail}.")
    if not dry_run:
        tally = _run(job, writes=True)
    return ImportReport(
        path=str(path),
        taken=dict(sorted(tally.taken.items())),
        merged=tally.merged,
        refused=dict(sorted(tally.refused.items())),
        examples=tuple(tally.examples),
        dry_run=dry_run,
    )


def _run(job: _Job, *, writes: bool) -> _Tally:
    tally, seen = _Tally(), dict[str, str]()
    for chunk in chunks(job.placed()):
        entries = []
        for where, item in chunk:
            entry = item if isinstance(item, Refusal) else _entry(job, where, item)
            if isinstance(entry, Refusal):
                tally.refuse(entry)
            else:
                entries.append(entry)
        new = list(_new(job, entries, seen, tally))
        tally.taken.update(entry.kind for entry in new)
        if writes:
            _write(job, new)
    return tally


def _write(job: _Job, entries: list[_Entry]) -> None:
    store, feedbacks = job.store, [e.feedback for e in entries if e.feedback]
    add_prompts(store, (e.prompt for e in entries))
    add_completions(store, (c for e in entries for c in e.completions))
    for name in sorted({f.labeler for f in feedbacks} - set(job.kind_of)):
        add_labeler(store, Labeler(pseudonym=name, kind=job.kind))
        job.kind_of[name] = job.kind
    record_many(store, feedbacks)


def _new(job: _Job, entries: list[_Entry], seen: dict[str, str], tally: _Tally) -> Iterator[_Entry]:
    """The entries that the store does not hold yet; the others are tallied as merged or refused."""
    there = _there(job.store, entries)
    for e in entries:
        known = there.get(e.key) or seen.get(e.key)
        author = e.feedback.labeler if e.feedback else ""
        if known == e.says:
            tally.merged += 1
        elif known is not None:
            detail = f"{e.key!r} stands for another judgement already; drop the row's id, or give it a new one"
            tally.refuse(Refusal(e.where, "an id that is taken", detail))
        elif author and job.kind_of.get(author, job.kind) != job.kind:
            detail = f"{author!r} is of kind {job.kind_of[author]!r} in this store; pass another labeler"
            tally.refuse(Refusal(e.where, "a labeler of another kind", detail))
        else:
            seen[e.key] = e.says
            yield e


def _there(store: Store, entries: list[_Entry]) -> dict[str, str]:
    """What the store already says under the keys of these entries."""
    found = find(store, {e.key for e in entries if e.feedback})
    prompts = has_prompts(store, {e.prompt.id for e in entries if not e.feedback})
    judged = {one.stored.feedback.idempotency_key: _says_stored(one) for one in whole(store, found.values())}
    return judged | {prompt_id: prompt_id for prompt_id in prompts}


# From an object of a file to an entry, and what each says.


def _entry(job: _Job, where: str, item: Item) -> _Entry | Refusal:
    own = item.prompt.source if not isinstance(item, Prompt) and not item.source else item.source
    source = job.source or (own if own and own != "import" else job.path.name.split(".")[0])
    if isinstance(item, Prompt):
        prompt = item.model_copy(update={"source": source})
        return _Entry(where, "prompt", prompt.id, prompt.id, prompt)
    prompt = item.prompt.model_copy(update={"source": source})
    labeler = job.labeler or item.labeler or f"import-{source}"
    names = {"source": source, "labeler": labeler}
    if isinstance(item, RankedGroup):
        names |= {"id": item.event, "guideline": item.guideline, "model": "".join(m or "" for m in item.models)}
    if bad := [name for name, value in names.items() if "\x00" in value]:
        return Refusal(where, "a NUL character", f"{bad[0]} holds one, which a database cannot store; take it out")
    if isinstance(item, Demonstration):
        return _demonstration(where, item, prompt, labeler, source)
    if len(item.texts) > MAX_RANKED:
        return Refusal(where, f"more than {MAX_RANKED} completions", f"{len(item.texts)} are ranked; split the ranking")
    return _ranking(where, item, prompt, labeler, source)


def _ranking(where: str, item: RankedGroup, prompt: Prompt, labeler: str, source: str) -> _Entry:
    met: Counter[str] = Counter()
    completions = []
    for text, model in zip(item.texts, item.models or [None] * len(item.texts), strict=True):
        made = Completion(prompt_id=prompt.id, text=text, origin="import", model_version=model, sample=met[text])
        completions.append(made)
        met[text] += 1
    ranking = Ranking(
        items=tuple(RankedItem(completion_id=c.id, tier=t) for c, t in zip(completions, item.tiers, strict=True)),
        margin=item.margin,
        aspect=item.aspect,
        none_acceptable=item.none_acceptable,
    )
    shown = sorted(range(len(item.positions)), key=lambda i: item.positions[i])
    says = _says(labeler, prompt, zip(item.texts, item.tiers, strict=True), item.aspect)
    # An id that tutelage gave out names the judgement itself; any other only tells two alike judgements apart.
    is_ours = item.event.startswith("event:") and len(item.event) > len("event:")
    key = item.event.removeprefix("event:") if is_ours else f"import:{digest(says, item.margin, source, item.event)}"
    feedback = Feedback(
        labeler=labeler,
        prompt_id=prompt.id,
        judgement=ranking,
        idempotency_key=key,
        source=source,
        shown=tuple(completions[i].id for i in shown),
        active_ms=round(1000 * (item.seconds or 0)),
        guideline=item.guideline or None,
    )
    return _Entry(where, "ranking", key, says, prompt, tuple(completions), feedback)


def _demonstration(where: str, item: Demonstration, prompt: Prompt, labeler: str, source: str) -> _Entry:
    completion = Completion(prompt_id=prompt.id, text=item.text, origin="import")
    says = _says(labeler, prompt, [(item.text, 0)])
    key = f"import:{digest(says, source)}"
    given = DemonstrationGiven(completion_id=completion.id)
    feedback = Feedback(labeler=labeler, prompt_id=prompt.id, judgement=given, idempotency_key=key, source=source)
    return _Entry(where, "demonstration", key, says, prompt, (completion,), feedback)


def _says(labeler: str, prompt: Prompt, placed: Iterable[tuple[str, int]], aspect: str = "overall") -> str:
    """Who said what of what, without the ids of completions: an import has ids of its own for the same texts."""
    return digest(labeler, prompt.id, aspect, sorted([text, tier] for text, tier in placed))


def _says_stored(one: Whole) -> str:
    given = demonstrated(one)
    placed = [(c.text, tier) for c, tier in ranked(one)] or ([(given.text, 0)] if given else [])
    j = one.stored.feedback.judgement
    return _says(one.labeler, one.prompt, placed, j.aspect if isinstance(j, Ranking) else "overall")


# Out.

FORMATS = ("rankings", "pairs", "hh", "demonstrations", "messages", "kto", "ratings", "critiques", "flags", "log")


def export_file(store: Store, path: str | Path, *, format: str, sources: Collection[str] | None = None) -> Written:
    """Writes what people say now, one judgement after the other. The name says JSON Lines, CSV or Parquet.

    rankings, pairs, hh           rankings and corrections
    demonstrations, messages      demonstrations and corrected texts
    kto                           thumbs
    ratings, critiques, flags     one row a grade, a remark, a flag
    log                           the events themselves, those that were replaced too
    """
    path = Path(path)
    if format == "log":
        return write.write_table(path, "log", (s.model_dump(mode="json") for s in events(store, sources=sources)))
    now = _with_choice(store, whole(store, current(store, sources=sources)))
    if format in ("rankings", "pairs", "hh"):
        groups = (_with_lineage(group, one, choice) for one, choice in now if (group := ranked_group(one)) is not None)
        writer = {"rankings": write.write_rankings, "pairs": write.write_pairs, "hh": write.write_hh}[format]
        return writer(path, groups)
    if format in ("demonstrations", "messages"):
        given = (found for one, _ in now if (found := demonstration(one)) is not None)
        return (write.write_demonstrations if format == "demonstrations" else write.write_messages)(path, given)
    if format == "kto":
        return write.write_kto(path, (judged for one, _ in now if (judged := _judged(one)) is not None))
    if format in write.TABLES:
        rows = (row for one, choice in now if (row := _graded(one, choice, format)) is not None)
        return write.write_table(path, format, rows)
    raise DataError(f"{format!r} is no format to export. Known are {', '.join(FORMATS)}.")


def _with_choice(store: Store, now: Iterable[Whole]) -> Iterator[tuple[Whole, Choice | None]]:
    for chunk in chunks(now):
        found = choices(store, [one.stored for one in chunk])
        yield from ((one, found.get(one.stored.seq)) for one in chunk)


def _with_lineage(group: RankedGroup, one: Whole, choice: Choice | None) -> RankedGroup:
    f = one.stored.feedback
    found = [c for c, _ in ranked(one)]
    positions = [place_of(one, c.id) for c in found] if set(f.shown) == {c.id for c in found} else []
    made = {
        "none_acceptable": isinstance(f.judgement, Ranking) and f.judgement.none_acceptable,
        "models": tuple(c.model_version for c in found) if any(c.model_version for c in found) else (),
        "positions": tuple(positions),
        "seconds": f.active_ms / 1000 if f.active_ms else None,
        "guideline": f.guideline or "",
        "policy": choice.policy if choice else "",
        "selection_probability": choice.probability if choice else None,
        "decides": f.judgement.decided if isinstance(f.judgement, Adjudication) else (),
    }
    return group.model_copy(update=made)


def _graded(one: Whole, choice: Choice | None, table: str) -> dict[str, Any] | None:
    """A row of `table`, if the judgement belongs there."""
    f = one.stored.feedback
    match f.judgement:
        case Rating() as j if table == "ratings":
            said: dict[str, Any] = {"aspect": j.aspect, "value": j.value}
        case Critique() as j if table == "critiques":
            start, end = j.span or (None, None)
            said = {"critique": j.text, "start": start, "end": end}
        case Flag() as j if table == "flags":
            said = {"category": j.category, "note": j.note or None}
        case _:
            return None
    about = one.completions[j.completion_id] if j.completion_id else None
    if about is not None:
        place = place_of(one, about.id)
        said |= {"completion": about.text, "model": about.model_version, "position": place}
    return said | {
        "prompt": one.prompt,
        "seconds": f.active_ms / 1000 if f.active_ms else None,
        "guideline": f.guideline,
        "policy": choice.policy if choice else None,
        "selection_probability": choice.probability if choice else None,
        "labeler": one.labeler,
        "source": one.source,
        "event": event_id(f),
    }


def _judged(one: Whole) -> Judged | None:
    j = one.stored.feedback.judgement
    if not isinstance(j, Thumb):
        return None
    return Judged(one.prompt, one.completions[j.completion_id].text, j.value == 1, one.labeler, one.source)
