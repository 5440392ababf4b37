"""How often and how much a client may ask; what stands on every answer."""

import json
import re
from concurrent.futures import ThreadPoolExecutor

import anyio
import pytest

from tutelage.label.app import SMALL
from tutelage.label.limits import RateLimit, TooMany

SAFE = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}


class Watch:
    def __init__(self):
        self.at = 0.0

    def __call__(self):
        return self.at


def test_a_burst_is_served_and_then_one_by_one():
    watch = Watch()
    limit = RateLimit(3, 2.0, clock=watch)
    for _ in range(3):
        limit.take("a")
    with pytest.raises(TooMany) as e:
        limit.take("a")
    assert e.value.seconds == 2
    limit.take("b")  # another client has a bucket of its own
    watch.at = 1.9
    with pytest.raises(TooMany):
        limit.take("a")
    watch.at = 2.1
    limit.take("a")
    with pytest.raises(TooMany):
        limit.take("a")


def test_a_bucket_never_holds_more_than_a_burst():
    watch = Watch()
    limit = RateLimit(3, 2.0, clock=watch)
    limit.take("a")
    watch.at = 1e6
    for _ in range(3):
        limit.take("a")
    with pytest.raises(TooMany):
        limit.take("a")


def test_waiting_as_long_as_was_said_is_enough():
    for every in (0.3, 1.0, 6.0, 7.7):
        watch = Watch()
        limit = RateLimit(1, every, clock=watch)
        limit.take("a")
        watch.at = 0.1
        with pytest.raises(TooMany) as e:
            limit.take("a")
        watch.at += e.value.seconds
        limit.take("a")


def test_a_flood_of_names_does_not_empty_or_fill_the_memory():
    watch = Watch()
    limit = RateLimit(2, 10.0, clock=watch)
    limit.take("a")
    limit.take("a")
    for i in range(20_000):
        watch.at += 0.01
        limit.take(f"name {i}")
    assert len(limit._level) < 12_000
    watch.at = 5.0  # a clock that an attacker cannot turn; here: still within the time of "a"
    fresh = RateLimit(2, 10.0, clock=watch)
    for _ in range(2):
        fresh.take("a")
    for i in range(10_500):
        fresh.take(f"name {i}")
    with pytest.raises(TooMany):
        fresh.take("a")


# Bodies.


def sent(house, path, body, **headers):
    client = house.owner.client
    given = {"sec-fetch-site": "same-origin", "x-form-mark": house.mark(client), **headers}
    return client.post(path, content=body, headers=given)


def test_a_body_that_says_it_is_too_long_is_not_read(house):
    answer = sent(house, "/projects", b"x", **{"content-length": str(SMALL + 1)})
    assert answer.status_code == 413 and "KiB" in answer.text


def test_a_body_that_does_not_say_how_long_it_is_is_counted(house):
    def chunks():
        yield from [b"name=" + b"x" * 65536] * 40

    kind = {"content-type": "application/x-www-form-urlencoded"}
    assert sent(house, "/projects", chunks(), **kind).status_code == 413
    assert sent(house, "/projects", b"name=" + b"x" * (SMALL + 1), **kind).status_code == 413


def test_what_is_too_long_is_not_read_to_the_end(house):
    read, said = [], []

    async def receive():
        read.append(1)
        assert len(read) < 1000, "it reads on and on"
        return {"type": "http.request", "body": b"x" * 65536, "more_body": True}

    async def send(message):
        said.append(message)

    client, path = house.owner.client, house.path("desk/keys/own")
    headers = {
        "cookie": f"tutelage={client.cookies['tutelage']}", "sec-fetch-site": "same-origin", "host": "127.0.0.1:8484",
        "x-form-mark": house.mark(client), "content-type": "application/json",
    }  # fmt: skip
    scope = {
        "type": "http", "method": "PUT", "path": path, "raw_path": path.encode(), "query_string": b"",
        "headers": [(k.encode(), v.encode()) for k, v in headers.items()], "http_version": "1.1", "scheme": "http",
        "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 8484), "root_path": "",
    }  # fmt: skip
    with ThreadPoolExecutor(1) as own:  # a thread without a loop: a browser that another test opened runs one in this
        own.submit(anyio.run, house.app, scope, receive, send).result()
    assert said[0]["status"] == 413 and len(read) == SMALL // 65536 + 1


def test_a_json_body_without_a_length_is_counted_too(house):
    house.task()
    who = house.person()
    number = house.next(who)["id"]

    def chunks():
        yield b'{"key": "'
        for _ in range(40):
            yield b"x" * 65536

    headers = {
        "sec-fetch-site": "same-origin",
        "x-form-mark": house.mark(who.client),
        "content-type": "application/json",
    }
    answer = who.client.post(house.path(f"desk/{number}/answer"), content=chunks(), headers=headers)
    assert answer.status_code == 413


@pytest.mark.parametrize("length", ["-1", "x", "1e9", "99999999999999999999999", ""])
def test_an_odd_length_is_refused(house, length):
    assert sent(house, "/projects", b"name=x", **{"content-length": length}).status_code in (400, 413)


def test_only_the_routes_of_files_take_large_bodies(house):
    from tutelage.label.app import UPLOADS

    large = str(house.config.max_upload_mb << 20)
    taking = set()
    for method, path in house.app.state.needs:
        if method == "GET":
            continue
        address = re.sub(r"\{[^}]*\}", "1", path).replace("/p/1/", house.path())
        headers = {"content-length": large, "sec-fetch-site": "same-origin"}
        if house.nobody().request(method, address, content=b"", headers=headers).status_code != 413:
            taking.add(path)
    assert all(path.endswith(UPLOADS) for path in taking) and "/p/{slug}/tasks/upload" in taking


# What stands on every answer.


def every_kind_of_answer(house):
    client = house.owner.client
    yield "page", client.get("/projects")
    yield "redirect", client.get("/")
    yield "static", client.get("/static/label.css")
    yield "not there", client.get("/static/nothing.css")
    yield "no such page", client.get("/nothing")
    yield "wrong method", client.patch("/projects")
    yield "refused", client.post("/projects")
    yield "json", client.get(house.path("desk/next"))
    yield "invalid", client.get(house.path("desk/next?kind=x"))
    yield "no token", client.get("/api/v1/project")
    yield "too long", sent(house, "/projects", b"x", **{"content-length": str(SMALL + 1)})
    yield "health", client.get("/health")


def test_every_answer_carries_the_headers_that_keep_it_safe(house):
    for name, answer in every_kind_of_answer(house):
        for header, value in SAFE.items():
            assert answer.headers.get(header) == value, (name, header)
        rules = dict(part.strip().partition(" ")[::2] for part in answer.headers["content-security-policy"].split(";"))
        assert rules["default-src"] == rules["frame-ancestors"] == rules["base-uri"] == "'none'", name
        assert rules["script-src"] == "'self'" and rules["style-src"] == "'self'", name
        assert rules["require-trusted-types-for"] == "'script'" and rules["form-action"] == "'self'"
        assert "unsafe" not in answer.headers["content-security-policy"]
        assert answer.headers["cache-control"] == ("no-cache" if name in ("static", "not there") else "no-store"), name
        assert "server" not in answer.headers


def test_a_crash_of_ours_carries_them_too_and_tells_nothing(house, monkeypatch):
    from starlette.testclient import TestClient

    def broken(*_):
        raise ZeroDivisionError("a secret detail")

    monkeypatch.setattr("tutelage.label.pages.account.has_owner", broken)
    client = TestClient(house.app, base_url=house.config.address, raise_server_exceptions=False)
    answer = client.get("/health")
    assert answer.status_code == 500 and "secret" not in answer.text
    assert answer.headers["content-security-policy"] and answer.headers["x-content-type-options"] == "nosniff"


def test_no_page_has_a_script_or_a_style_of_its_own(house):
    house.task()
    pages = [
        p for (m, p), needs in house.app.state.needs.items()
        if m == "GET" and "{" not in p.replace("{slug}", "") and not any(n.startswith("token:") for n in needs)
    ]  # fmt: skip
    seen = 0
    for path in pages:
        answer = house.owner.client.get(path.replace("{slug}", house.project.slug))
        if not answer.headers.get("content-type", "").startswith("text/html"):
            continue
        seen += 1
        page = re.sub(
            r'<script type="application/json"[^>]*>([^<]*)</script>', lambda m: json.loads(m[1]) and "", answer.text
        )
        assert not re.search(r"<script(?![^>]* src=\"/static/)", page), path
        assert not re.search(r"\son[a-z]+\s*=|\sstyle\s*=|<style|javascript:", page, re.IGNORECASE), path
        assert not re.search(r"(?:src|href|action)=\"(?:https?:)?//", page), f"{path} asks another server"
    assert seen >= 10


def test_a_store_that_is_busy_or_full_is_no_refusal_of_what_was_sent(house, monkeypatch):
    # The browser keeps an answer that met a 503 and sends it again; a 4xx would be final.
    from tutelage.errors import BusyError, DiskError

    for error in (BusyError("busy"), DiskError("full")):

        def broken(*_, error=error):
            raise error

        monkeypatch.setattr("tutelage.label.pages.account.has_owner", broken)
        assert house.nobody().get("/health").status_code == 503
