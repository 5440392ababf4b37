"""What the project holds, and the way out: a file of judgements with its card, for people. Programs use the API."""

import json
import zipfile
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, Form, Request, Response

from tutelage.exchange import export_file
from tutelage.label.access import STAFF, Caller, Refused, Routes, caller
from tutelage.label.card import data_card, readable
from tutelage.label.exports import EXPORTS, Ending, Export, chosen_sources, file_made
from tutelage.label.render import page
from tutelage.store.access import note
from tutelage.store.feedback import head
from tutelage.store.sources import CHECKS, counts_by_kind, sources_of

routes = Routes()
Who = Annotated[Caller, Depends(caller)]


@routes.on("GET", "/p/{slug}/data", STAFF)
def data(who: Who) -> Response:
    sources = sources_of(who.store, who.project)
    rows: dict[str, dict[str, int]] = {name: {} for name in sources}
    for (source, kind), n in counts_by_kind(who.store, sources).items():
        rows[source][kind] = n
    return page(
        who,
        "data.html",
        here="data",
        sources=[(name, sorted(rows[name].items()), name.endswith(CHECKS)) for name in sources],
        total=sum(n for counts in rows.values() for n in counts.values()),
        exports=EXPORTS,
        head=head(who.store),
    )


@routes.on("POST", "/p/{slug}/data/export", STAFF)
def export(
    who: Who,
    what: Annotated[Export, Form()],
    ending: Annotated[Ending, Form()] = "jsonl",
    source: Annotated[list[str] | None, Form(max_length=1000)] = None,
    licence: Annotated[str, Form(max_length=200)] = "",
) -> Response:
    """A zip archive: the file, and its card for programs and for people."""
    chosen = chosen_sources(who, source)

    def fill(folder: Path) -> Path:
        file = folder / f"{what}.{ending}"
        written = export_file(who.store, file, format=what, sources=chosen)
        if written.rows == 0:
            raise Refused(422, "These sources hold nothing of that kind yet. Choose others, or wait for answers.")
        card = data_card(who.store, who.project, chosen, licence.strip())
        card["file"] = {"name": file.name, "what": what, "rows": written.rows, "left_out": written.left_out}
        archive = folder / f"{who.project.slug}-{what}-{card['chain']['seq']}.zip"
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as out:
            out.write(file, file.name)
            out.writestr("card.json", json.dumps(card, indent=2, ensure_ascii=False) + "\n")
            out.writestr("card.md", readable(card))
        return archive

    sent = file_made(who, fill)
    note(who.store, "exported", project_id=who.project.id, account_id=who.account.id, what=what, sources=len(chosen))
    return sent


# The reference of the API, from what the app itself says of it.


@routes.on("GET", "/p/{slug}/data/api", STAFF)
def reference(who: Who, request: Request) -> Response:
    return page(who, "api.html", here="data", calls=_calls(request.app.openapi()), address=who.app.config.address)


def _calls(spec: dict[str, Any]) -> list[dict[str, Any]]:
    """Each address and method: what it does, what it takes."""
    found = []
    for path, methods in spec["paths"].items():
        for method, said in methods.items():
            body = said["requestBody"]["content"] if "requestBody" in said else {}
            found.append(
                {
                    "method": method.upper(),
                    "path": path,
                    "scope": "read" if "token:read" in said["x-needs"] else "write",
                    "text": said["description"] if "description" in said else "",
                    "parameters": [_parameter(p) for p in said["parameters"]] if "parameters" in said else [],
                    "bodies": [(kind, _example(spec, content)) for kind, content in body.items()],
                }
            )
    return found


def _parameter(said: dict[str, Any]) -> dict[str, Any]:
    schema = said["schema"]
    kinds = [schema, *(schema["anyOf"] if "anyOf" in schema else [])]
    values = next((k["enum"] for k in kinds if "enum" in k), None)
    named = next((str(k["type"]) for k in kinds if "type" in k), "")
    return {
        "name": said["name"],
        "is_needed": said["required"],
        "type": ", ".join(values) if values else named,
        "default": schema["default"] if "default" in schema else None,
        "text": said["description"] if "description" in said else "",
    }


def _example(spec: dict[str, Any], content: dict[str, Any]) -> str:
    """The worked example of a body, where its model has one."""
    schema = content["schema"]
    if "$ref" in schema:
        schema = spec["components"]["schemas"][schema["$ref"].rsplit("/", 1)[1]]
    return json.dumps(schema["examples"][0], indent=2, ensure_ascii=False) if "examples" in schema else ""
