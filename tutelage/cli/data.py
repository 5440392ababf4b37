"""Commands on feedback: into a store and out of it. Starts without torch."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from tutelage.cli.main import app
from tutelage.cli.terminal import Json, emit
from tutelage.errors import StoreError

if TYPE_CHECKING:
    from tutelage.exchange import ImportReport

Store = Annotated[str, typer.Option("--store", help="A store: a path, such as runs/a/store.db, or a PostgreSQL URL.")]
Kind = Annotated[Literal["import", "human", "model"], typer.Option("--kind", help="Of labelers that are new.")]
Exported = Literal["rankings", "pairs", "hh", "demonstrations", "messages", "kto"]


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="JSON Lines, JSON, CSV or Parquet; also .gz, .xz, .zst.")],
    store: Store,
    format: Annotated[str, typer.Option("--format", help="Of the rows; auto tells it by their fields.")] = "auto",
    source: Annotated[str | None, typer.Option("--source", help="Of all rows, instead of what they say.")] = None,
    labeler: Annotated[str | None, typer.Option("--labeler", help="Of all rows, instead of what they say.")] = None,
    kind: Kind = "import",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be taken; store nothing.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Take nothing when one row cannot be used.")] = False,
    json: Json = False,
) -> None:
    """Bring comparisons, demonstrations or prompts into a store; the same file again adds nothing twice."""
    from tutelage.exchange import import_file
    from tutelage.store.db import open_store

    with open_store(store) as opened:
        report = import_file(
            opened, file, format=format, source=source, labeler=labeler, kind=kind, dry_run=dry_run, strict=strict
        )
    emit(asdict(report), json, _told(report))


def _told(report: "ImportReport") -> str:
    """Counts first, then each reason for a refusal with its first rows."""
    taken = ", ".join(f"{n} {kind}{'s' if n != 1 else ''}" for kind, n in report.taken.items()) or "nothing"
    verb = "would be taken" if report.dry_run else "taken"
    lines = [f"{verb}: {taken}", f"merged (known already): {report.merged}", f"refused: {report.n_refused}"]
    for why, n in report.refused.items():
        lines.append(f"  {why}: {n}")
        lines += [f"    {e.where}: {e.detail}" for e in report.examples if e.why == why]
    return "\n".join(lines)


@app.command()
def export(
    file: Annotated[Path, typer.Argument(help="To write: .jsonl, .csv or .parquet; .jsonl.gz and the like.")],
    store: Store,
    format: Annotated[Exported, typer.Option("--format", help="Of the rows.")],
    source: Annotated[list[str] | None, typer.Option("--source", help="Only this one; may be given again.")] = None,
    json: Json = False,
) -> None:
    """Write what people say now to a file."""
    from tutelage.exchange import export_file
    from tutelage.store.db import open_store

    if "://" not in store and not Path(store).is_file():  # opening would make an empty one
        raise StoreError(f"{store}: there is no such store. `tutelage import FILE --store {store}` makes one.")
    with open_store(store) as opened:
        found = export_file(opened, file, format=format, sources=source)
    left_out = [f"  left out, {why}: {n}" for why, n in found.left_out.items()]
    facts = {"path": str(file), "format": format, "rows": found.rows, "left_out": found.left_out}
    emit(facts, json, "\n".join([f"rows written to {file}: {found.rows}", *left_out]))
