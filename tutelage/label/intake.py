"""From rows to what lies on the desk: tasks, judgements made elsewhere, demonstrations to be reviewed.

Rows are gone through once to say what would become of each, and again to store them. What is there already is merged:
the same file brought twice adds nothing. Knows no file format and no request.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tutelage.errors import DataError, StoreError
from tutelage.exchange import EXAMPLES, MAX_RANKED, ImportReport, Placed, import_placed
from tutelage.formats import demonstrations, tasks
from tutelage.formats.fields import Item, Row, read_each
from tutelage.formats.rows import Refusal
from tutelage.formats.tasks import TaskRow
from tutelage.label import review
from tutelage.label.reader import short_enough
from tutelage.label.uploads import Upload, What, rows_of
from tutelage.store.candidates import NewCandidate, add_candidates, known_candidates
from tutelage.store.db import Store, chunks
from tutelage.store.projects import Project, TaskKind
from tutelage.store.sources import own_source
from tutelage.store.tasks import NewTask, add_tasks, known_tasks
from tutelage.types import Completion, Demonstration, LabelerKind, Prompt, RankedGroup

Found = Item | TaskRow | Refusal
Rows = Callable[[], Iterable[tuple[str, Found]]]
Made = NewTask | NewCandidate
MAX_PROPOSED = 20_000  # demonstrations of one file


@dataclass(slots=True)
class _Tally:
    taken: Counter[str] = field(default_factory=Counter)
    merged: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    examples: list[Refusal] = field(default_factory=list)
    seen: set[str] = field(default_factory=set)

    def refuse(self, refusal: Refusal) -> None:
        self.refused[refusal.why] += 1
        if self.refused[refusal.why] <= EXAMPLES:
            self.examples.append(refusal)


def take_upload(
    store: Store,
    project: Project,
    data: Path,
    token: str,
    upload: Upload,
    *,
    dry_run: bool,
    strict: bool = False,
    step: Callable[[], None] = lambda: None,
) -> ImportReport:
    """Goes through what was read of a file. `strict`: one refused row is a DataError, and nothing is stored.

    step  is called at every row that is looked at: once in a dry run, twice when rows are stored
    """

    def rows() -> Iterator[tuple[str, Found]]:
        for row in rows_of(data, token):
            step()
            yield row

    return take(
        store, project, rows,
        what=upload.what, source=upload.source, by=upload.by, name=upload.name, dry_run=dry_run, strict=strict,
    )  # fmt: skip


def take(
    store: Store,
    project: Project,
    rows: Rows,
    *,
    what: What,
    source: str,
    name: str,
    by: LabelerKind = "import",
    dry_run: bool = False,
    strict: bool = False,
) -> ImportReport:
    """Goes through rows, and stores those that can be used unless it is a dry run."""
    if what == "judgements":
        return import_placed(store, _judged(rows), Path(name), source=source, kind=by, dry_run=dry_run, strict=strict)
    tally = _go(store, project, rows, what, source, by, writes=False)
    if tally.refused and (strict or not (tally.taken or tally.merged)):
        first = tally.examples[0]
        raise DataError(
            f"{name}, {first.where}: {first.why}: {first.detail}. {sum(tally.refused.values())} rows cannot be used, "
            f"so nothing was stored. Mend them{', or take the good ones alone' if tally.taken else ''}."
        )
    if not dry_run:
        tally = _go(store, project, rows, what, source, by, writes=True)
    return ImportReport(
        path=name,
        taken=dict(sorted(tally.taken.items())),
        merged=tally.merged,
        refused=dict(sorted(tally.refused.items())),
        examples=tuple(tally.examples),
        dry_run=dry_run,
    )


def task_rows(rows: Sequence[Row]) -> Rows:
    """Rows of tasks that came in a request."""
    return lambda: ((w, short_enough(w, i)) for w, i in read_each(_placed(rows), tasks.read))


def demonstration_rows(rows: Sequence[Row]) -> Rows:
    """Rows of demonstrations that came in a request."""
    return lambda: ((w, short_enough(w, i)) for w, i in read_each(_placed(rows), demonstrations.read))


def _placed(rows: Sequence[Row]) -> Iterator[tuple[str, Row]]:
    return ((f"row {i}", row) for i, row in enumerate(rows, 1))


def _judged(rows: Rows) -> Placed:
    def placed() -> Iterator[tuple[str, Item | Refusal]]:
        for where, item in rows():
            if isinstance(item, TaskRow):
                yield where, Refusal(where, "no judgement", "a task says nothing of which answer is better")
            elif isinstance(item, Prompt):
                yield where, Refusal(where, "no judgement", "a prompt alone judges nothing; bring it as a task")
            else:
                yield where, item

    return placed


def _go(
    store: Store, project: Project, rows: Rows, what: What, source: str, by: LabelerKind, *, writes: bool
) -> _Tally:
    tally, proposed = _Tally(), list[NewCandidate]()
    known = known_tasks if what == "tasks" else known_candidates
    for chunk in chunks(rows()):
        made: list[Made] = []
        for where, item in chunk:
            one = _made(where, item, project, what, source, by)
            if isinstance(one, Refusal):
                tally.refuse(one)
            else:
                made.append(one)
        there = known(store, {one.key for one in made})
        new: list[NewTask] = []
        for one in made:
            if one.key in there or one.key in tally.seen:
                tally.merged += 1
                continue
            tally.seen.add(one.key)
            if isinstance(one, NewTask):
                tally.taken[one.kind] += 1
                new.append(one)
            else:
                tally.taken["demonstration"] += 1
                proposed.append(one)
        if len(proposed) > MAX_PROPOSED:
            raise DataError(f"more than {MAX_PROPOSED} new demonstrations: nobody reviews so many. Split the file.")
        if writes:
            add_tasks(store, project.id, new)
    if writes and proposed:  # together, since each is compared with all others
        add_candidates(store, project.id, review.with_findings(store, project, proposed))
    return tally


# One row.


def _made(where: str, item: Found, project: Project, what: What, source: str, by: LabelerKind) -> Made | Refusal:
    if isinstance(item, Refusal):
        return item
    if what == "demonstrations":
        return _candidate(where, item, source, by)
    try:
        one = _task(where, item, project, source)
        if isinstance(one, NewTask):
            one.check()
    except StoreError as e:
        return Refusal(where, "no task as it stands", str(e))
    return one


def _candidate(where: str, item: Item | TaskRow, source: str, by: LabelerKind) -> NewCandidate | Refusal:
    if not isinstance(item, Demonstration):
        return Refusal(where, "no demonstration", "expected a prompt and one ideal answer to it")
    if "\x00" in item.labeler + item.text:
        return Refusal(where, "a NUL character", "the text or its author holds one, which no answer does; take it out")
    origin: Literal["import", "model"] = "model" if by == "model" else "import"
    slug = source.partition("/")[0]
    return NewCandidate(prompt=item.prompt, text=item.text, origin=origin, author=item.labeler or source, project=slug)


def _task(where: str, item: Item | TaskRow, project: Project, source: str) -> NewTask | Refusal:
    prompt = item.model_copy(update={"source": source}) if isinstance(item, Prompt) else None
    asked = prompt or item.prompt.model_copy(update={"source": source})  # type: ignore[union-attr]
    shared: dict[str, Any] = {"prompt": asked, "source": source, "overlap": project.settings.overlap}
    match item:
        case Prompt():
            return NewTask(kind="demonstrate", **shared)
        case Demonstration():
            return Refusal(where, "a demonstration is no task", "bring it as a demonstration to be reviewed")
        case RankedGroup():
            if len(item.texts) > MAX_RANKED:
                return Refusal(where, f"more than {MAX_RANKED} completions", f"{len(item.texts)} are ranked; split it")
            # The order that the file gives is forgotten, so that nobody sees what was thought better.
            models = item.models or (None,) * len(item.texts)
            placed = sorted(zip(item.texts, models, strict=True), key=lambda pair: (pair[0], pair[1] or ""))
            kind: TaskKind = "compare" if len(placed) == 2 else "rank"
            return NewTask(kind=kind, completions=_completions(asked, placed), **shared)
        case TaskRow():
            return _asked_task(where, item, project, shared)


def _asked_task(where: str, row: TaskRow, project: Project, shared: dict[str, Any]) -> NewTask | Refusal:
    if "\x00" in "".join(model or "" for model in row.models):
        return Refusal(where, "a NUL character", "the name of a model holds one; take it out")
    gold: dict[str, Any] | None = None
    if row.gold is not None:
        tier_of: dict[str, int] = {}
        if any(tier_of.setdefault(t.strip(), tier) != tier for t, tier in zip(row.texts, row.gold, strict=True)):
            return Refusal(where, "identical completions", "the same text stands in two tiers of 'gold'")
        gold = {"tiers": list(row.gold)} | ({"explanation": row.explanation} if row.explanation else {})
        shared = shared | {"source": own_source(project, shared["source"], is_check=True)}
    return NewTask(
        kind=row.kind,
        completions=_completions(shared["prompt"], list(zip(row.texts, row.models, strict=True))),
        priority=row.priority,
        gold=gold,
        practice=row.practice,
        **(shared | ({} if row.overlap is None else {"overlap": row.overlap})),
    )


def _completions(prompt: Prompt, written: Sequence[tuple[str, str | None]]) -> tuple[Completion, ...]:
    """Each text and its model; of equal ones, each is a sample of its own."""
    met: Counter[tuple[str, str | None]] = Counter()
    made = []
    for text, model in written:
        made.append(
            Completion(
                prompt_id=prompt.id,
                text=text,
                origin="model" if model else "import",
                model_version=model,
                sample=met[text, model],
            )
        )
        met[text, model] += 1
    return tuple(made)
