"""The API for programs: one project by its token, the same intake as the pages."""

import gzip
import json

import pytest

from tutelage.store.access import issue_token, revoke_token, tokens
from tutelage.store.assignments import find_held
from tutelage.store.candidates import counts, pending
from tutelage.store.feedback import count
from tutelage.store.tasks import list_tasks

TASK = {"prompt": "Name a river.", "completions": ["The Rhine.", {"text": "Rome.", "model": "sft-1"}]}


class Program:
    """Calls the API with a token, and without a session."""

    def __init__(self, house, scope: str = "write", project=None) -> None:
        self.client = house.nobody()
        self.token = issue_token(house.store, (project or house.project).id, "test", scope, seconds=3600)

    def __call__(self, method: str, rest: str, **more):
        head = {"authorization": f"Bearer {self.token}"}
        return self.client.request(method, f"/api/v1/{rest}", headers=head, **more)


@pytest.fixture
def program(house) -> Program:
    return Program(house)


CALLS = [
    ("GET", "project", None), ("GET", "progress", None), ("GET", "labels", None), ("GET", "export/rankings", None),
    ("GET", "export/card", None), ("GET", "openapi.json", None), ("POST", "tasks", {"tasks": [TASK]}),
    ("POST", "candidates", {"candidates": [{"prompt": "q", "completion": "A plain answer to it."}]}),
    ("POST", "priorities", {"priorities": {"x": 1.0}}), ("POST", "tasks/upload?name=a.jsonl", {"prompt": "q"}),
]  # fmt: skip


@pytest.mark.parametrize(("method", "rest", "body"), CALLS)
def test_every_call_needs_a_token_that_holds_and_may(house, method, rest, body):
    reader, writer = Program(house, "read"), Program(house)
    assert house.nobody().request(method, f"/api/v1/{rest}", json=body).status_code == 401
    assert house.owner.client.request(method, f"/api/v1/{rest}", json=body).status_code == 401, "a session is no token"
    assert reader(method, rest, json=body).status_code == (200 if method == "GET" else 403)
    assert writer(method, rest, json=body).status_code == 200
    for one in tokens(house.store, house.project.id):
        revoke_token(house.store, house.project.id, one.id)
    assert writer(method, rest, json=body).status_code == 401


def test_every_call_is_tried_above(house):
    called = {(method, "/api/v1/" + rest.split("?")[0]) for method, rest, _ in CALLS}
    known = {
        (method.upper(), path.replace("{what}", "rankings"))
        for path, methods in house.app.openapi()["paths"].items()
        for method in methods
    }
    assert {c for c in known if not c[1].startswith("/api/v1/export")} <= called


def test_tasks_are_added_once_with_the_ids_of_their_prompts(house, program):
    done = program("POST", "tasks?source=round-7", json={"tasks": [TASK, {"prompt": ""}, TASK]}).json()
    assert (done["taken"], done["merged"], done["refused"]) == ({"compare": 1}, 1, {"empty text": 1})
    assert done["prompts"][1] is None and done["prompts"][0] == done["prompts"][2]
    ((task, _),) = list_tasks(house.store, house.project.id)
    assert (task.source, task.prompt_id) == ("house/round-7", done["prompts"][0])
    assert program("POST", "tasks?source=round-7", json={"tasks": [TASK]}).json()["merged"] == 1


@pytest.mark.parametrize(
    ("query", "body"),
    [
        ("", {"tasks": []}),
        ("", {"tasks": [7]}),
        ("", {"tasks": [TASK], "more": 1}),
        ("", {"tasks": [TASK] * 1001}),
        ("", {"tasks": [{"prompt": "q", "completions": "x" * 9}]}),
        ("?strict=true", {"tasks": [TASK, {"prompt": ""}]}),
        ("?source=" + "x" * 81, {"tasks": [TASK]}),
        ("?source=%00", {"tasks": [TASK]}),
    ],
)
def test_what_cannot_be_tasks_is_refused_and_stores_nothing(house, program, query, body):
    refused = program("POST", f"tasks{query}", json=body)
    assert refused.status_code == 422 and "error" in refused.json()
    assert list_tasks(house.store, house.project.id) == []


@pytest.mark.parametrize(
    "body", [b"", b"{", b'{"tasks":' + b"[" * 100_000, b'{"tasks":[{"prompt":"\\ud800"}]}', b"\xff"]
)
def test_a_body_that_is_no_json_is_refused(program, body):
    sent = program("POST", "tasks", content=body)
    assert sent.status_code in (400, 422) and "error" in sent.json()


def test_a_dry_run_stores_nothing(house, program):
    assert program("POST", "tasks?dry_run=true", json={"tasks": [TASK]}).json()["taken"] == {"compare": 1}
    assert list_tasks(house.store, house.project.id) == []


def test_a_file_comes_in_as_the_body(house, program):
    data = gzip.compress(json.dumps({"prompt": "q", "chosen": "a", "rejected": "b"}).encode())
    done = program("POST", "tasks/upload?name=x.jsonl.gz&what=judgements&by=model", content=data)
    assert done.json()["taken"] == {"ranking": 1}
    assert count(house.store, sources=["house/x"]) == 1
    assert not list((house.config.data / "uploads").iterdir())
    for query in (
        "name=x.exe",
        "name=x.jsonl&what=all",
        "name=x.jsonl&by=human",
        "name=x.jsonl&format=pickle",
        "what=tasks",
    ):
        assert program("POST", f"tasks/upload?{query}", content=data).status_code == 422
    assert not list((house.config.data / "uploads").iterdir())


def test_candidates_wait_for_review(house, program):
    body = {"candidates": [{"prompt": "q", "completion": "Yes.", "labeler": "gen-1"}, {"prompt": "q"}]}
    done = program("POST", "candidates?by=model", json=body).json()
    assert done["taken"] == {"demonstration": 1} and sum(done["refused"].values()) == 1
    (one,) = pending(house.store, house.project.id)
    assert (one.origin, one.author, [f["kind"] for f in one.findings]) == ("model", "gen-1", ["short"])
    assert program("GET", "progress").json()["candidates"] == counts(house.store, house.project.id) == {"pending": 1}


def test_priorities_are_set_by_prompt_and_only_here(house, program):
    made = house.task("rank")
    theirs = house.task("rank", project=house.another_project(), source="elsewhere/x")
    sent = program("POST", "priorities", json={"priorities": {made.prompt.id: 0.5, "unknown": 1}})
    assert sent.json() == {"changed": 1}
    assert theirs.prompt.id == made.prompt.id
    assert list_tasks(house.store, house.project.id)[0][0].priority == 0.5
    body = b'{"priorities":{"a":NaN}}'
    assert program("POST", "priorities", content=body).status_code == 422


def test_labels_come_page_by_page_with_their_texts(house, program):
    for i in range(3):
        house.task("compare", question=f"q{i}")
    person = house.person()
    for i in range(3):
        house.answer(person, house.next(person)["id"], f"{i}" * 20, outcome="left")
    first = program("GET", "labels?limit=2").json()
    assert [len(first["events"]), first["more"], first["next_after"]] == [2, True, 2]
    rest = program("GET", f"labels?after_seq={first['next_after']}").json()
    (event,) = rest["events"]
    assert (rest["more"], event["seq"], event["feedback"]["labeler"]) == (False, 3, person.name)
    assert {c["text"] for c in event["completions"].values()} == {"answer 0", "answer 1"}
    assert program("GET", "labels?after_seq=3").json() == {"events": [], "next_after": 3, "more": False}
    for query in ("after_seq=-1", "after_seq=x", "limit=0", "limit=100000"):
        assert program("GET", f"labels?{query}").status_code == 422


def test_labels_and_exports_tell_how_a_task_was_chosen(house, program):
    house.settings(random_share=0.2)
    for i in range(4):
        house.task("compare", question=f"q{i}", priority=0.9 if i == 1 else 0.1)
    person, told = house.person(), {}
    for i in range(4):
        held = house.next(person)
        key = f"{i}" * 20
        house.answer(person, held["id"], key, outcome="left", ratings={"overall": [6, None]})
        told[f"event:{key}"] = find_held(house.store, house.project.id, person.name, held["id"])
    seen = [
        (f"event:{e['feedback']['idempotency_key'][:20]}", e["policy"], e["selection_probability"])
        for e in program("GET", "labels").json()["events"]
    ]
    rows = [
        (row.get("ranking_event_id", row.get("event", ""))[:26], row["policy"], row["selection_probability"])
        for what in ("rankings", "pairs", "ratings")
        for row in map(json.loads, program("GET", f"export/{what}").text.splitlines())
    ]
    assert len(told) == 4 and len(seen) == 8 and len(rows) == 12, "each answer is a ranking and a grade"
    assert all((policy, p) == (told[key].policy, told[key].probability) for key, policy, p in seen + rows)
    # The last is the only one left. The first was the best of four with 1 - 0.2 + 0.2 / 4, another with 0.2 / 4.
    assert told["event:" + "3" * 20].probability == pytest.approx(1.0)
    assert any(told["event:" + "0" * 20].probability == pytest.approx(p) for p in (0.85, 0.05))


def test_what_was_not_handed_out_tells_no_choice(house, program):
    body = json.dumps({"prompt": "q", "chosen": "a", "rejected": "b"}).encode()
    program("POST", "tasks/upload?name=x.jsonl&what=judgements", content=body)
    (event,) = program("GET", "labels").json()["events"]
    assert (event["policy"], event["selection_probability"]) == (None, None)
    assert "policy" not in json.loads(program("GET", "export/rankings").text)


def test_a_token_sees_its_own_project_alone(house, program):
    house.task("compare")
    person = house.person()
    house.answer(person, house.next(person)["id"], "k" * 20, outcome="tie")
    stranger = Program(house, project=house.another_project())
    assert stranger("GET", "labels").json()["events"] == []
    assert stranger("GET", "progress").json()["sources"] == []
    assert stranger("GET", "export/rankings").text == ""
    assert stranger("GET", "export/rankings?source=round-1").status_code == 422
    assert stranger("GET", "project").json()["slug"] == "elsewhere"
    assert len(program("GET", "export/rankings").text.splitlines()) == 1
    assert program("GET", "export/card?licence=MIT").json()["licence"] == "MIT"
    assert program("GET", "export/people").status_code == 422


def test_the_description_is_made_from_the_code(house, program):
    told = program("GET", "openapi.json").json()
    assert set(told["paths"]["/api/v1/tasks"]) == {"post"}
    assert all(path.startswith("/api/v1/") for path in told["paths"])
