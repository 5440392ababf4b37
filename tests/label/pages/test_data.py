"""The way out for people: a zip archive of a project's own judgements, with its card."""

import csv
import io
import json
import zipfile

import pyarrow.parquet as pq
import pytest

from tutelage.label.exports import EXPORTS, FOLDER
from tutelage.store.feedback import head
from tutelage.store.projects import publish_guideline


@pytest.fixture
def answered(house):
    """Two people who ranked, rated, flagged and criticised one task; a check; another project's answer."""
    publish_guideline(house.store, house.project.id, "Be brief.")
    house.settings(overlap=2)
    house.task("rank", overlap=2)
    people = [house.person(email=f"secret-{i}@example.org") for i in range(2)]
    said = {
        "tiers": [1, 2, 2, 3], "active_ms": 4200, "ratings": {"overall": [7, 4, 4, 1]},
        "flags": [{"card": 0, "category": "false", "note": "=1+1"}], "critiques": [{"card": 1, "text": "@too long"}],
    }  # fmt: skip
    for i, person in enumerate(people):
        assert house.answer(person, house.next(person)["id"], f"{i}" * 20, **said).status_code == 200
    house.task("compare", question="a check", source="house/made/checks", gold={"tiers": [1, 2]})
    other = house.another_project()
    house.task("compare", question="theirs", project=other, source="elsewhere/mine")
    return house


def export(house, client, what: str = "rankings", **form: object):
    return house.post(client, house.path("data/export"), {"what": what, **form})


def opened(answer) -> dict[str, bytes]:
    assert answer.status_code == 200, answer.text
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def rows(data: bytes) -> list[dict[str, object]]:
    return [json.loads(line) for line in data.splitlines()]


def test_a_ranking_comes_out_with_its_lineage_and_its_card(answered):
    found = opened(export(answered, answered.person("lead").client, licence="CC BY 4.0"))
    assert set(found) == {"rankings.jsonl", "card.json", "card.md"}
    first, _ = rows(found["rankings.jsonl"])
    assert sorted(c["position"] for c in first["completions"]) == [1, 2, 3, 4]
    assert first["seconds"] == 4.2 and first["guideline"] and first["event"].startswith("event:")
    card = json.loads(found["card.json"])
    assert card["licence"] == "CC BY 4.0" and card["file"]["rows"] == 2
    assert card["chain"] == {"seq": head(answered.store).seq, "hash": head(answered.store).hash}
    assert card["judgements"]["ranking"] == 2 and list(card["labelers"]) == ["human"]
    assert card["guidelines"][0]["version"] == 1
    assert card["agreement"]["prompts_judged_twice"] == 1
    assert "CC BY 4.0" in found["card.md"].decode()


@pytest.mark.parametrize("what", ["rankings", "pairs", "hh", "ratings", "critiques", "flags", "log"])
@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
def test_every_export_has_every_form_and_names_nobody(answered, what, ending):
    found = opened(export(answered, answered.owner.client, what, ending=ending))
    data = found[f"{what}.{ending}"]
    assert all(b"secret-" not in part and b"example.org" not in part for part in found.values())
    if ending == "parquet":
        n = pq.read_table(io.BytesIO(data)).num_rows
    elif ending == "csv":
        table = list(csv.reader(io.StringIO(data.decode(), newline="")))
        n = len(table) - 1
        assert not any(cell.startswith(("=", "+", "@", "-", "\t", "\r")) for line in table[1:] for cell in line)
    else:
        n = len(rows(data))
    assert n == json.loads(found["card.json"])["file"]["rows"] > 0


def test_a_cell_that_would_run_is_quoted(answered):
    flags = opened(export(answered, answered.owner.client, "flags", ending="csv"))["flags.csv"].decode()
    assert "'=1+1" in flags
    assert (
        "'@too long"
        in opened(export(answered, answered.owner.client, "critiques", ending="csv"))["critiques.csv"].decode()
    )


def test_sources_are_the_projects_own_and_leave_checks_out(answered):
    client = answered.person("lead").client
    page = client.get(answered.path("data")).text
    assert "house/made/checks" in page and "elsewhere/mine" not in page
    assert export(answered, client, source=["elsewhere/mine"]).status_code == 422
    assert export(answered, client, source=["house/made/checks"]).status_code == 422, "nobody answered the check"
    assert export(answered, client, source=["round-1"]).status_code == 200


@pytest.mark.parametrize("form", [{"what": "people"}, {"what": "../x"}, {"ending": "pickle"}, {"licence": "x" * 201}])
def test_an_export_outside_the_set_is_refused(answered, form):
    assert export(answered, answered.owner.client, **{"what": "rankings", **form}).status_code == 422


def test_an_export_of_nothing_is_refused_and_leaves_nothing(house):
    for what in EXPORTS:
        assert export(house, house.owner.client, what).status_code == 422
    assert list((house.config.data / FOLDER).iterdir()) == []


def test_the_file_on_its_way_out_is_removed(answered):
    export(answered, answered.owner.client)
    assert list((answered.config.data / FOLDER).iterdir()) == []


def test_the_way_out_is_for_owners_and_leads(answered):
    for role in ("reviewer", "labeller"):
        client = answered.person(role).client
        assert client.get(answered.path("data")).status_code == 403
        assert client.get(answered.path("data/api")).status_code == 403
        assert export(answered, client).status_code == 403
    assert answered.person("lead").client.get(answered.path("data")).status_code == 200


def test_the_reference_names_every_call_of_the_api(house):
    page = house.person("lead").client.get(house.path("data/api"))
    assert "`" not in page.text and "<code>supersedes</code>" in page.text, "code stands as code"
    paths = list(house.app.openapi()["paths"])
    assert page.status_code == 200 and len(paths) >= 9
    assert all(f"<code>{path}</code>" in page.text for path in paths)
    assert "&#34;completions&#34;" in page.text
