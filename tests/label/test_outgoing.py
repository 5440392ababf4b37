"""Calls to other servers: what may be called, what a hostile server can do, and what is told of it."""

import socket
import threading
import time

import pytest

from tutelage.errors import DataError
from tutelage.label import outgoing
from tutelage.label.outgoing import NoAnswer, call_json, is_public, resolve


@pytest.fixture
def names(monkeypatch):
    """names["host"] = [addresses]: what a name stands for; any other name is unknown."""
    known, really = {}, socket.getaddrinfo

    def look_up(host, port, *args, **more):
        if host == "127.0.0.1":
            return really(host, port, *args, **more)
        if host not in known:
            raise socket.gaierror("unknown")
        return [(socket.AF_INET6 if ":" in ip else socket.AF_INET, 1, 6, "", (ip, port)) for ip in known[host]]

    monkeypatch.setattr(outgoing.socket, "getaddrinfo", look_up)
    return known


@pytest.mark.parametrize(
    "ip",
    [
        "127.0.0.1", "127.8.8.8", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254",
        "100.64.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255", "192.0.2.1", "198.18.0.1", "::", "::1", "fe80::1",
        "fe80::1%eth0", "fc00::1", "fd00:ec2::254", "ff02::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "2002:7f00:1::",
        "2002:a00:1::", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "2001:db8::1", "::127.0.0.1",
    ],
)  # fmt: skip
def test_an_address_inside_is_never_called(ip, names):
    assert not is_public(ip)
    names["inside.example"] = [ip]
    with pytest.raises(DataError, match=r"private or local address.*--private-endpoint inside\.example:443"):
        resolve("https://inside.example/v1")


@pytest.mark.parametrize("ip", ["1.1.1.1", "8.8.8.8", "2606:4700::1111", "64:ff9b::808:808"])
def test_an_address_outside_is_called(ip, names):
    names["api.example"] = [ip]
    assert resolve("https://api.example/v1").ip == ip


def test_one_private_address_among_public_ones_is_enough_to_refuse(names):
    names["mixed.example"] = ["1.1.1.1", "10.0.0.1"]
    with pytest.raises(DataError, match="private or local"):
        resolve("https://mixed.example")


def test_the_address_that_was_checked_is_the_one_that_is_called(names, fake_model):
    # A name that is resolved anew at the call could stand for something else by then.
    names["rebinds.example"] = ["127.0.0.1"]
    at = resolve(f"http://rebinds.example:{fake_model.port}/v1", private=[f"rebinds.example:{fake_model.port}"])
    names["rebinds.example"] = ["192.0.2.1"]
    assert call_json(at, "/chat/completions", {"model": "m"}, {})["model"] == "m"
    assert fake_model.calls[0]["headers"]["Host"] == f"rebinds.example:{fake_model.port}"


@pytest.mark.parametrize(
    "url",
    [
        "", "api.example", "ftp://api.example", "file:///etc/passwd", "gopher://api.example", "https://", "https:///v1",
        "https://user:pass@api.example", "https://user@api.example", "https://:pass@api.example", "https://@api.example",
        "https://api.example:0", "https://api.example:99999", "https://api.example:x", "https://[::1", "javascript:1",
    ],
)  # fmt: skip
def test_what_is_no_address_of_a_server_is_refused(url, names):
    names["api.example"] = ["1.1.1.1"]
    with pytest.raises(DataError, match="address"):
        resolve(url)


@pytest.mark.parametrize("path", ["/ä", "/a b", "/a\x7f"])
def test_a_character_that_no_address_may_hold_is_named(path, names):
    names["api.example"] = ["1.1.1.1"]
    with pytest.raises(DataError, match="percent-encoded"):
        resolve(f"https://api.example{path}")


def test_a_call_in_the_clear_needs_the_operators_leave(names):
    names["api.example"] = ["1.1.1.1"]
    with pytest.raises(DataError, match="not https"):
        resolve("http://api.example/v1")
    assert resolve("http://api.example/v1", private=["api.example:80"]).port == 80
    with pytest.raises(DataError, match="not https"):  # the leave is for one port
        resolve("http://api.example:81/v1", private=["api.example:80"])


def test_decimal_and_short_forms_of_loopback_are_seen_through():
    for host in ("2130706433", "127.1", "0x7f000001", "localhost", "[::1]", "[::ffff:127.0.0.1]"):
        with pytest.raises(DataError):
            resolve(f"https://{host}/v1")


def test_a_literal_of_ipv6_keeps_its_brackets():
    at = resolve("http://[::1]:8000/v1", private=["[::1]:8000"])
    assert (at.ip, at.name) == ("::1", "[::1]:8000")


def test_an_unknown_name_is_said_to_be_unknown(names):
    with pytest.raises(DataError, match="cannot be found"):
        resolve("https://nowhere.example")


def here(fake, path="/v1"):
    return resolve(f"http://{fake.where}{path}", private=[fake.where])


def test_a_path_and_a_query_of_an_address_are_kept(fake_model):
    fake_model.say = lambda body, n: (200, b"{}", {})
    call_json(here(fake_model, "/token/?p=1"), "", None, {})
    call_json(here(fake_model, "/v1/"), "/models", None, {})
    call_json(here(fake_model, ""), "", None, {})
    assert [c["path"] for c in fake_model.calls] == ["/token/?p=1", "/v1/models", "/"]


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_not_followed(fake_model, status):
    fake_model.say = lambda body, n: (status, b"", {"Location": "http://169.254.169.254/"})
    with pytest.raises(NoAnswer, match=f"status {status}"):
        call_json(here(fake_model), "/x", {"model": "m"}, {})
    assert len(fake_model.calls) == 1


def test_an_error_of_the_server_is_told_by_its_number_alone(fake_model):
    fake_model.say = lambda body, n: (500, b"secret: hunter2 <script>", {})
    with pytest.raises(NoAnswer) as e:
        call_json(here(fake_model), "/x", {"model": "m"}, {})
    assert "hunter2" not in str(e.value) and e.value.status == 500


def test_when_to_ask_again_is_kept_where_it_is_a_number(fake_model):
    for given, kept in (("7", 7.0), ("Wed, 21 Oct 2026 07:28:00 GMT", None), ("999999999", None), ("-1", None)):
        fake_model.say = lambda body, n, given=given: (429, b"", {"Retry-After": given})
        with pytest.raises(NoAnswer) as e:
            call_json(here(fake_model), "/x", {"model": "m"}, {})
        assert e.value.after_s == kept


def test_an_answer_without_end_is_cut(fake_model, monkeypatch):
    monkeypatch.setattr(outgoing, "MOST", 1000)
    fake_model.say = lambda body, n: (200, b'"' + b"x" * 2000 + b'"', {})
    with pytest.raises(NoAnswer, match="more than"):
        call_json(here(fake_model), "/x", {"model": "m"}, {})


@pytest.mark.parametrize("body", [b"", b"<html>", b"\xff\xfe", b"[" * 200_000, b'{"a":'])
def test_an_answer_that_is_no_json_is_refused(fake_model, body):
    fake_model.say = lambda _, n: (200, body, {})
    with pytest.raises(NoAnswer, match="not JSON"):
        call_json(here(fake_model), "/x", {"model": "m"}, {})


def test_a_server_that_is_not_there_is_said_to_be_away():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(NoAnswer, match="did not answer") as e:
        call_json(resolve(f"http://127.0.0.1:{port}", private=[f"127.0.0.1:{port}"]), "/x", None, {})
    assert e.value.status == 0


@pytest.mark.parametrize("drip", [b"", b"H", b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n"])
def test_a_server_that_drips_is_left_in_time(drip):
    # Each byte comes within any limit on silence; only a limit on the whole call ends it.
    over = threading.Event()

    def serve(listening):
        with listening.accept()[0] as conn:
            try:
                conn.sendall(drip)
                while not over.wait(0.05):
                    conn.sendall(b"H")
            except OSError:
                pass

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve, args=(listening,), daemon=True)
        thread.start()
        where = f"127.0.0.1:{listening.getsockname()[1]}"
        began = time.monotonic()
        with pytest.raises(NoAnswer, match="in time"):
            call_json(resolve(f"http://{where}", private=[where]), "/x", None, {}, timeout_s=0.4)
        assert time.monotonic() - began < 5
        over.set()
        thread.join(timeout=5)


def test_nothing_is_sent_in_the_clear_to_a_port_that_speaks_no_tls(fake_model):
    at = resolve(f"https://127.0.0.1:{fake_model.port}", private=[fake_model.where])
    with pytest.raises(NoAnswer, match="did not answer"):
        call_json(at, "/x", {"secret": 1}, {})
    assert not fake_model.calls
