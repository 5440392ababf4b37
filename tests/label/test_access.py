"""Every route against everybody: made from the app's own list, so that no new route is forgotten.

What a role may do is said here a second time, by hand; the app's own rule is not used to check itself.
"""

import pytest
from fastapi import APIRouter, FastAPI

from tutelage.label.access import MEMBERS, STAFF, TOKEN_READ, Routes, check_every_route
from tutelage.store.access import issue_token, revoke_token, tokens
from tutelage.store.accounts import change_account, open_session
from tutelage.store.projects import add_member, invite
from tutelage.store.tools import add_endpoint, endpoints, find_chat, open_chat

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
UNSAFE = ("POST", "PUT", "PATCH", "DELETE")
MEMBER = ("labeller", "reviewer", "lead")
TOKENS = ("token read", "token write", "token of another project", "token revoked", "token that ran out")
CALLERS = (
    "nobody", "false cookie", "session that ran out", "account closed", "stranger", "lead elsewhere", "owner", *MEMBER,
    *(f"{state} {role}" for state in ("paused", "removed") for role in MEMBER), *TOKENS,
)  # fmt: skip

# What the guard says, and what it amounts to. Any other answer comes from behind it.
SAYS = {
    "You are not signed in": "not signed in",
    "There is no such project.": "not there",
    "Your role in this project": "forbidden",
    "Your work in this project is paused": "forbidden",
    "Only an owner of this installation": "forbidden",
    "This token may only read": "forbidden",
    "This address needs an API token": "no token",
    "This token is unknown": "no token",
}
STATUS = {"not signed in": 401, "not there": 404, "forbidden": 403, "no token": 401}


def expected(caller: str, path: str, needs: frozenset[str]) -> str:
    """What must become of a request."""
    if any(n.startswith("token:") for n in needs):
        if caller not in TOKENS[:3]:
            return "no token"
        return "served" if caller != "token read" or "token:read" in needs else "forbidden"
    if needs == {"anyone"}:
        return "served"
    if caller in (*TOKENS, "nobody", "false cookie", "session that ran out", "account closed"):
        return "not signed in"
    if needs == {"signed-in"} or caller == "owner":
        return "served"
    if not path.startswith("/p/{slug}"):
        return "forbidden"
    if caller in ("stranger", "lead elsewhere") or caller.startswith("removed"):
        return "not there"
    return "served" if caller in needs else "forbidden"  # a paused person is in no set


def filled(path: str, house) -> str:
    """An address of this route, about things that are not there."""
    known = {"slug": house.project.slug, "number": "1" * 24 if "/desk/" in path else "1", "what": "card"}
    parts = [p[1:-1] if p.startswith("{") else None for p in path.split("/")]
    return "/".join(p if name is None else known.get(name, "1") for p, name in zip(path.split("/"), parts, strict=True))


def headers_and_cookie(house, caller: str) -> tuple[dict[str, str], str]:
    """What the browser or the program of this caller sends."""
    if caller in TOKENS:
        of = house.another_project() if "another" in caller else house.project
        made = issue_token(house.store, of.id, "t", "read" if caller == "token read" else "write", seconds=60)
        if "revoked" in caller:
            revoke_token(house.store, of.id, tokens(house.store, of.id)[0].id)
        if "ran out" in caller:
            house.clock.forward(61)
        return {"authorization": f"Bearer {made}"}, ""
    return {}, {"nobody": "", "false cookie": "x" * 43}.get(caller, "session")


def person(house, caller: str):
    if caller == "owner":
        return house.owner
    if caller in ("stranger", "session that ran out", "account closed"):
        return house.stranger()
    if caller == "lead elsewhere":
        return house.person("lead", house.another_project())
    state, _, role = caller.rpartition(" ")
    return house.person(role, state=state or "active")


def verdict(answer) -> str:
    """What the guard did with a request; "served" when it let it pass, whatever was said behind it."""
    if answer.headers.get("content-type") == "application/json" and "error" in answer.json():
        for begin, found in SAYS.items():
            if answer.json()["error"].startswith(begin):
                assert answer.status_code == STATUS[found], (answer.status_code, found)
                return found
    return "served"


@pytest.mark.parametrize("caller", CALLERS)
def test_every_route_serves_whom_it_is_for_and_nobody_else(house, caller):
    house.without_limits()
    more, cookie = headers_and_cookie(house, caller)
    who = person(house, caller) if cookie == "session" else None
    wrong, n = [], 0
    for (method, path), needs in house.app.state.needs.items():
        client, token = house.nobody(), cookie
        if who is not None:  # a session of its own: signing out is among the routes
            token = open_session(house.store, who.account.id, seconds=60)
            if caller == "session that ran out":
                house.clock.forward(61)
            if caller == "account closed":
                change_account(house.store, who.account.id, state="closed")
        if token:
            client.cookies.set("tutelage", token)
        sent = {
            "accept": "application/json",
            "sec-fetch-site": "same-origin",
            "x-form-mark": house.mark(client),
            **more,
        }
        with client.stream(method, filled(path, house), headers=sent) as answer:
            answer.read()
        found, right, n = verdict(answer), expected(caller, path, needs), n + 1
        if found != right:
            wrong.append(f"{method} {path}: {found} ({answer.status_code}), not {right}")
    assert not wrong, "\n".join(wrong)
    assert n == len(house.app.state.needs) == sum(len(r.methods) for r in routes_of(house.app))


def routes_of(app: FastAPI):
    return [r for r in app.routes if hasattr(r, "methods")]


def test_the_matrix_sees_a_route_that_lets_the_wrong_people_in(house, monkeypatch):
    # The check of the check: had a page of the staff been given to all members, a labeller would be served.
    needs = house.app.state.needs["GET", "/p/{slug}/people"]
    assert needs == STAFF != MEMBERS
    assert expected("labeller", "/p/{slug}/people", needs) == "forbidden"
    assert expected("labeller", "/p/{slug}/people", MEMBERS) == "served"
    answer = house.person().client.get(house.path("people"), headers={"accept": "application/json"})
    assert (verdict(answer), answer.status_code) == ("forbidden", 403)


def test_a_page_sends_who_is_not_signed_in_to_the_door(house):
    for path in ("/projects", house.path("work"), house.path("people"), "/account"):
        answer = house.nobody().get(path)
        assert (answer.status_code, answer.headers["location"]) == (303, "/sign-in")


def test_a_route_that_says_nothing_of_whom_it_is_for_ends_the_start(house):
    house.app.add_api_route("/p/{slug}/forgotten", lambda: {}, methods=["GET"])
    with pytest.raises(AssertionError, match=r"GET /p/\{slug\}/forgotten says nothing of whom it is for"):
        check_every_route(house.app)


def test_a_second_method_of_a_known_route_is_not_let_through_with_the_first(house):
    house.app.add_api_route("/projects", lambda: {}, methods=["DELETE"])
    with pytest.raises(AssertionError, match="DELETE /projects"):
        check_every_route(house.app)


def test_a_route_is_listed_with_its_needs():
    router, routes = APIRouter(), Routes()
    routes.on("GET", "/x", MEMBERS)(lambda: {})
    assert routes.mount(router) == {("GET", "/x"): MEMBERS}
    assert [r.path for r in router.routes] == ["/x"]


def test_the_framework_adds_no_route_of_its_own(house):
    for path in (
        "/docs",
        "/redoc",
        "/openapi.json",
        "/static/",
        "/static/../app.py",
        "/static/%2e%2e/app.py",
    ):
        assert house.nobody().get(path).status_code in (404, 405), path


def test_a_method_that_a_route_does_not_have_is_refused(house):
    taken: dict[str, set[str]] = {}
    for (method, path), _ in house.app.state.needs.items():
        taken.setdefault(path, set()).add(method)
    client, n = house.owner.client, 0
    for path in taken:
        address = filled(path, house)
        for method in METHODS:
            if any(method in m and fits(p, address) for p, m in taken.items()):
                continue
            headers = {"sec-fetch-site": "same-origin", "x-form-mark": house.mark(client)}
            answer = client.request(method, address, headers=headers)
            assert answer.status_code == 405, f"{method} {path}: {answer.status_code}"
            n += 1
    assert n > 4 * len(taken)


def fits(path: str, address: str) -> bool:
    ours, theirs = path.split("/"), address.split("/")
    return len(ours) == len(theirs) and all(a == b or a.startswith("{") for a, b in zip(ours, theirs, strict=True))


# One's own things and others'.


def test_a_task_in_anothers_hands_is_not_there(house):
    house.settings(overlap=2)
    house.task(overlap=2)
    mine, other = house.person(), house.person()
    number = house.next(mine)["id"]
    asked = {
        ("GET", ""): None,
        ("POST", "/answer"): {"key": "k" * 8, "tiers": [1, 2, 3, 4]},
        ("POST", "/skip"): {"key": "k" * 8, "reason": "other"},
        ("PUT", "/draft"): {"body": {"tiers": [1]}},
        ("POST", "/renew"): {},
        ("POST", "/revise"): {"key": "k" * 8, "tiers": [1, 2, 3, 4]},
        ("POST", "/withdraw"): {"key": "k" * 8},
    }
    known = {(m, p.removeprefix("/p/{slug}/desk/{number}")) for m, p in house.app.state.needs if "desk/{number}" in p}
    assert known == set(asked), "a route about an assignment is missing from this test"
    for who in (other, house.person("lead"), house.owner):
        for (method, rest), body in asked.items():
            answer = house.send(who.client, house.path(f"desk/{number}{rest}"), body, method)
            assert answer.status_code == 404, (method, rest, answer.text)
    assert house.answer(mine, number, "k" * 8).status_code == 200


def test_a_chat_of_somebody_else_is_not_there(house):
    mine, key = house.person(), {"key": "k" * 8}
    chat = open_chat(house.store, house.project.id, mine.name, "a goal", (1,))
    of = {**key, "turn": 0}
    asked = {
        "": None, "/state": None, "/say": {**key, "text": "x"}, "/choose": {**of, "outcome": "left"},
        "/thumb": {**of, "value": 1}, "/broke": {**of, "category": "false", "text": "x"}, "/keep": of,
        "/finish": {**key, "success": 1}, "/give-back": {**key, "reason": "unclear"},
    }  # fmt: skip
    routes = [(m, p) for m, p in house.app.state.needs if p.startswith("/p/{slug}/chat/{number}")]
    assert {p.removeprefix("/p/{slug}/chat/{number}") for _, p in routes} == set(asked), "a route is missing here"
    for who in (house.person(), house.person("lead"), house.owner):
        for method, path in routes:
            rest = path.removeprefix("/p/{slug}/chat/{number}")
            answer = house.send(who.client, house.path(f"chat/{chat.id}{rest}"), asked[rest], method)
            assert answer.status_code == 404, (method, rest, answer.text)
    assert mine.client.get(house.path(f"chat/{chat.id}")).status_code == 200
    assert find_chat(house.store, house.project.id, mine.name, chat.id) == chat


def test_a_task_is_not_reached_through_another_project(house):
    elsewhere = house.another_project()
    house.task()
    who = house.person()
    add_member(house.store, elsewhere.id, who.account.id, "labeller")
    number = house.next(who)["id"]
    path = house.path(f"desk/{number}", elsewhere)
    assert who.client.get(path).status_code == 404
    assert house.send(who.client, f"{path}/answer", {"key": "k" * 8, "tiers": [1, 2, 3, 4]}).status_code == 404


def test_a_lead_reaches_nothing_of_another_project(house):
    elsewhere = house.another_project()
    labeller, lead = house.person(), house.person("lead", elsewhere)
    issue_token(house.store, house.project.id, "t", "read", seconds=60)
    (token,) = tokens(house.store, house.project.id)
    add_endpoint(house.store, house.project.id, name="n", url="https://x", model="m", key_sealed="s")
    house.task()
    here, there = house.path, lambda rest: house.path(rest, elsewhere)
    for rest, data in (
        (f"people/{labeller.account.id}", {"state": "removed"}),
        (f"people/{labeller.account.id}/erase", {"pseudonym": labeller.name}),
        (f"tokens/{token.id}/revoke", {}),
        ("tasks/1/check", {"tier": ["1", "2", "3", "4"]}),
        ("models/1/remove", {}),
        ("models/1/test", {}),
    ):
        assert house.post(lead.client, here(rest), data).status_code == 404, rest
        # The owner may do it, but not by way of the other project.
        assert house.post(house.owner.client, there(rest), data).status_code == 404, rest
    assert lead.client.get(there("tasks/1")).status_code == 404 and len(endpoints(house.store, house.project.id)) == 1
    assert house.next(labeller) is not None and not tokens(house.store, house.project.id)[0].is_revoked


def test_a_token_reads_its_own_project_alone(house):
    elsewhere = house.another_project()
    house.task(question="What is our secret?")
    who = house.person()
    house.answer(who, house.next(who)["id"], "k" * 8)
    made = issue_token(house.store, elsewhere.id, "t", "write", seconds=60)
    headers = {"authorization": f"Bearer {made}"}
    paths = [p for (m, p), needs in house.app.state.needs.items() if m == "GET" and needs == TOKEN_READ]
    assert len(paths) >= 5
    for path in paths:
        for query in ("", "?source=round-1", "?source=house/round-1"):
            answer = house.nobody().get(path.replace("{what}", "rankings") + query, headers=headers)
            assert "secret" not in answer.text and who.name not in answer.text, path
    own = issue_token(house.store, house.project.id, "t", "read", seconds=60)
    answer = house.nobody().get("/api/v1/labels", headers={"authorization": f"Bearer {own}"})
    assert "What is our secret?" in answer.text and who.name in answer.text  # it would have been seen


def test_only_an_owner_makes_and_changes_leads(house):
    lead, other, labeller = house.person("lead"), house.person("lead"), house.person()
    assert house.post(lead.client, house.path("people/invite"), {"role": "lead"}).status_code == 403
    assert house.post(lead.client, house.path(f"people/{labeller.account.id}"), {"role": "lead"}).status_code == 403
    for change in ({"state": "removed"}, {"role": "labeller"}):
        assert house.post(lead.client, house.path(f"people/{other.account.id}"), change).status_code == 403
        assert house.post(house.owner.client, house.path(f"people/{other.account.id}"), change).status_code == 303
    assert house.post(house.owner.client, house.path("people/invite"), {"role": "lead"}).status_code == 200


# What other sites send.


def test_every_form_and_call_needs_the_mark_of_its_session(house):
    house.without_limits()
    foreign = house.app.state.label.keys.form_mark("another session")
    for mark in (None, "", "x", foreign, "é"):
        assert refused_everywhere(house, {"sec-fetch-site": "same-origin"}, mark) > 20


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"sec-fetch-site": "cross-site", "origin": "http://127.0.0.1:8484"},
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:8484.evil.example"},
    ],
    ids=str,
)
def test_what_another_site_sends_is_refused(house, headers):
    house.without_limits()
    assert refused_everywhere(house, headers, house.mark(house.owner.client)) > 20


def refused_everywhere(house, headers, mark) -> int:
    """Sends to every route that changes something, as the owner; returns how many there are."""
    n = 0
    for (method, path), needs in house.app.state.needs.items():
        if method not in UNSAFE or any(need.startswith("token:") for need in needs):
            continue
        body = {} if mark is None else {"form_mark": mark}
        answer = house.owner.client.request(method, filled(path, house), data=body, headers=headers)
        assert answer.status_code == 403, f"{method} {path}: {answer.status_code}"
        n += 1
    return n


def test_the_page_itself_may_send(house):
    for headers in ({"sec-fetch-site": "same-origin"}, {"origin": house.config.address}):
        data = {"form_mark": house.mark(house.owner.client), "name": f"P {next(iter(headers))}"}
        assert house.owner.client.post("/projects", data=data, headers=headers).status_code == 303


def test_a_call_with_a_token_takes_no_cookie_and_a_page_no_token(house):
    made = issue_token(house.store, house.project.id, "t", "write", seconds=60)
    headers = {"accept": "application/json", "authorization": f"Bearer {made}"}
    assert house.owner.client.get("/api/v1/project").status_code == 401
    assert house.nobody().get("/projects", headers=headers).status_code == 401


def test_a_mark_in_a_header_of_any_bytes_is_refused_and_not_a_crash(house):
    headers = [("sec-fetch-site", "same-origin"), (b"x-form-mark", b"\xe9\xff")]
    assert house.owner.client.post("/projects", headers=headers).status_code == 403


def test_an_invitation_belongs_to_no_role_but_its_own(house):
    token = invite(house.store, house.project.id, "labeller", seconds=60)
    who = house.stranger()
    assert house.post(who.client, f"/invite/{token}", {"role": "lead", "email": "", "password": ""}).status_code == 303
    assert who.client.get(house.path("people")).status_code == 403
    assert who.client.get(house.path("work")).status_code == 200
