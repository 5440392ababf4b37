"""The routes as a client sees them: answers, streams, caps, keys, and who is not let in."""

import json
import threading

import pytest

from tutelage.errors import ConfigError
from tutelage.serve.config import ServeConfig
from tutelage.store.completions import get_completion
from tutelage.store.feedback import current
from tutelage.store.lineage import model_versions

CHAT = "/v1/chat/completions"


def test_the_model_is_listed_by_its_name_and_its_weights(client):
    [model] = client().get("/v1/models").json()["data"]
    assert (model["id"], model["version"], model["object"]) == ("sft", "sft-0123456789ab", "model")


def test_an_answer_has_the_shape_that_clients_know(client, request_body):
    answer = client().post(CHAT, json=request_body(n=2))
    body = answer.json()
    assert answer.status_code == 200 and body["object"] == "chat.completion" and body["model"] == "sft-0123456789ab"
    assert [c["index"] for c in body["choices"]] == [0, 1]
    for choice in body["choices"]:
        assert choice["message"]["role"] == "assistant" and isinstance(choice["message"]["content"], str)
        assert choice["finish_reason"] in ("stop", "length")
    usage = body["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"] <= usage["prompt_tokens"] + 12


def test_the_same_seed_gives_the_same_answer_and_another_gives_another(client, request_body):
    def said(**changed):
        return (
            client().post(CHAT, json=request_body(max_tokens=20, **changed)).json()["choices"][0]["message"]["content"]
        )

    assert said(seed=1) == said(seed=1)
    assert len({said(seed=s) for s in range(4)}) > 1
    assert said(temperature=0, seed=1) == said(temperature=0, seed=2)  # the likeliest token has no seed


def streamed(answer):
    lines = [line.removeprefix("data: ") for line in answer.text.split("\n\n") if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def test_a_stream_says_what_the_whole_answer_says(client, request_body):
    for seed in range(6):
        asked = request_body(n=3, max_tokens=24, seed=seed, top_p=0.9)
        whole = client().post(CHAT, json=asked).json()
        answer = client().post(CHAT, json={**asked, "stream": True, "stream_options": {"include_usage": True}})
        assert answer.headers["content-type"].startswith("text/event-stream")
        pieces = streamed(answer)
        *pieces, total = pieces
        assert total["usage"] == whole["usage"] and total["choices"] == []
        for i, choice in enumerate(whole["choices"]):
            mine = [p["choices"][0] for p in pieces if p["choices"][0]["index"] == i]
            assert mine[0]["delta"]["role"] == "assistant"
            assert "".join(p["delta"].get("content", "") for p in mine) == choice["message"]["content"]
            assert mine[-1]["finish_reason"] == choice["finish_reason"]
            assert mine[-1]["completion_id"] == choice["completion_id"]
        assert len({p["id"] for p in pieces}) == 1


def test_a_stream_comes_in_pieces(client, request_body):
    answer = client().post(CHAT, json=request_body(max_tokens=40, seed=5, stream=True))
    assert sum("content" in p["choices"][0]["delta"] for p in streamed(answer)) > 5


@pytest.mark.parametrize(
    ("changed", "status", "why"),
    [
        ({"max_tokens": 1025}, 400, "at most 1024"), ({"max_completion_tokens": 5000}, 400, "at most 1024"),
        ({"n": 9}, 400, "at most 8"), ({"n": 0}, 400, "n:"), ({"max_tokens": 0}, 400, "max_tokens"),
        ({"temperature": -1}, 400, "temperature"), ({"temperature": 3}, 400, "temperature"),
        ({"top_p": 0}, 400, "top_p"),
        ({"model": "gpt"}, 404, "no model 'gpt'"), ({"messages": []}, 400, "messages"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, 400, "last message"),
        ({"messages": [{"role": "tool", "content": "x"}]}, 400, "role"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}]}, 400, "content"),
        ({"messages": [{"role": "user", "content": "word " * 200}]}, 400, "no room"),
        ({"messages": [{"role": "user", "content": "x" * 7000}]}, 400, "never fit"),
        ({"stop": ["x"]}, 400, "stop"), ({"tools": []}, 400, "tools"),
        ({"presence_penalty": 1}, 400, "presence_penalty"),
        ({"logprobs": True}, 400, "logprobs"), ({"no_such": 1}, 400, "no_such"), ({"seed": 2**70}, 400, "seed"),
    ],
)  # fmt: skip
def test_what_cannot_be_served_is_refused_by_name(client, request_body, changed, status, why):
    answer = client().post(CHAT, json=request_body(**changed))
    assert answer.status_code == status and why in answer.json()["error"]["message"]


def test_parts_of_text_and_the_developers_role_are_understood(client, request_body):
    lines = [
        {"role": "developer", "content": "Be kind."},
        {"role": "user", "content": [{"type": "text", "text": "Is the "}, {"type": "text", "text": "pool open?"}]},
    ]
    plain = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Is the pool open?"}]
    both = [client().post(CHAT, json=request_body(messages=m)).json()["choices"] for m in (lines, plain)]
    assert both[0] == both[1]


def test_where_the_window_ends_the_answer_ends_and_says_so(client, request_body):
    long = [{"role": "user", "content": "Is the pool open today? " * 3}]
    body = client().post(CHAT, json=request_body(messages=long, max_tokens=1000, seed=1)).json()
    assert body["usage"]["total_tokens"] <= 96
    if body["usage"]["total_tokens"] == 96:
        assert body["choices"][0]["finish_reason"] == "length"


def test_a_body_that_is_too_long_is_refused_before_it_is_read_whole(client, request_body):
    taken = []

    def endless():
        for _ in range(10_000):
            taken.append(1)
            yield b" " * 1024

    answer = client(max_body_kb=4).post(CHAT, content=endless(), headers={"content-type": "application/json"})
    assert answer.status_code == 413


@pytest.mark.parametrize("body", [b"", b"{", b"[" * 10_000, b"\xff", b"[]", b"7"])
def test_a_body_that_is_no_request_is_refused(client, body):
    answer = client().post(CHAT, content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400 and answer.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
def test_a_form_of_some_web_page_is_no_request(client, request_body, kind):
    headers = {"content-type": kind} if kind else {}
    assert client().post(CHAT, content=json.dumps(request_body()), headers=headers).status_code == 415


@pytest.mark.parametrize(
    "headers",
    [{"origin": "https://evil.example"}, {"origin": "null"}, {"sec-fetch-site": "cross-site"}, {"host": "evil.example"},
     {"host": "evil.example:8585"}],
)  # fmt: skip
def test_a_web_page_cannot_talk_to_the_model_on_this_machine(client, request_body, headers):
    assert client().post(CHAT, json=request_body(), headers=headers).status_code == 403
    assert client().get("/v1/models", headers=headers).status_code == 403


def test_with_a_key_nothing_is_said_without_it(client, request_body):
    key = "k" * 20
    guarded = client(key=key)
    for given in ("", "Bearer", "Bearer wrong", f"Basic {key}", f"Bearer {key}x", "Bearer é"):
        headers = {"authorization": given.encode("latin-1")} if given else {}
        assert guarded.get("/v1/models", headers=headers).status_code == 401
        assert guarded.post(CHAT, json=request_body(), headers=headers).status_code == 401
        assert guarded.post("/v1/feedback", json={}, headers=headers).status_code == 401
    assert guarded.post(CHAT, json=request_body(), headers={"authorization": f"Bearer {key}"}).status_code == 200


def test_beyond_this_machine_a_key_is_needed():
    with pytest.raises(ConfigError, match="there is no key"):
        ServeConfig(host="0.0.0.0")
    with pytest.raises(ConfigError, match="fewer than 16"):
        ServeConfig(host="0.0.0.0", key="short")
    assert ServeConfig(host="0.0.0.0", key="k" * 16)


def test_more_than_may_wait_are_told_to_come_back(client, voice, request_body, monkeypatch):
    inside, let_go = threading.Event(), threading.Event()
    speak = voice.speak

    def slow(*args, **more):
        inside.set()
        assert let_go.wait(20)
        return speak(*args, **more)

    monkeypatch.setattr(voice, "speak", slow)
    busy, first = client(waiting=1), []
    with busy:  # one event loop for all requests
        thread = threading.Thread(target=lambda: first.append(busy.post(CHAT, json=request_body()).status_code))
        thread.start()
        assert inside.wait(20)
        refused = busy.post(CHAT, json=request_body())
        let_go.set()
        thread.join(timeout=20)
        assert (refused.status_code, refused.headers["retry-after"], first) == (429, "1", [200])
        assert busy.post(CHAT, json=request_body()).status_code == 200  # the place is free again
        assert busy.post(CHAT, json=request_body(stream=True)).status_code == 200
        assert busy.post(CHAT, json=request_body()).status_code == 200


def test_a_prompt_that_does_not_become_tokens_in_time_is_refused(client, voice, request_body, monkeypatch):
    let_go = threading.Event()
    monkeypatch.setattr(voice, "understand", lambda *args, **more: let_go.wait(20))
    answer = client(tokenise_s=0.05).post(CHAT, json=request_body())
    let_go.set()
    assert answer.status_code == 503 and "did not become tokens" in answer.json()["error"]["message"]


def test_thumbs_are_kept_with_the_weights_that_wrote_the_answer(client, request_body, served_store):
    talk = client(served_store)
    number = talk.post(CHAT, json=request_body()).json()["choices"][0]["completion_id"]
    given = {"completion_id": number, "value": 1, "reasons": ["helpful"]}
    first = talk.post("/v1/feedback", json=given).json()
    assert first["model"] == "sft-0123456789ab"
    assert talk.post("/v1/feedback", json=given).json() == first  # the same again is one thumb
    kept = get_completion(served_store, number)
    assert (kept.model_version, len(kept.token_ids) > 0) == ("sft-0123456789ab", True)
    assert [(v.id, v.stage) for v in model_versions(served_store)] == [("sft-0123456789ab", "sft")]
    talk.post("/v1/feedback", json={**given, "value": -1})
    again = client(served_store)  # a server that was started anew knows what was said
    again.post("/v1/feedback", json={"completion_id": number, "value": -1, "reasons": ["wrong"]})
    [stands] = current(served_store, kinds=["thumb"])
    assert (stands.feedback.judgement.value, stands.feedback.judgement.reasons) == (-1, ("wrong",))


def test_a_streamed_answer_can_be_judged_too(client, request_body, served_store):
    talk = client(served_store)
    number = streamed(talk.post(CHAT, json=request_body(stream=True)))[-1]["choices"][0]["completion_id"]
    assert talk.post("/v1/feedback", json={"completion_id": number, "value": -1}).status_code == 200


def test_a_thumb_on_nothing_is_refused(client, request_body, served_store):
    unknown = {"completion_id": "0" * 20, "value": 1}
    assert client(served_store).post("/v1/feedback", json=unknown).status_code == 400
    assert client().post("/v1/feedback", json=unknown).status_code == 404
    for wrong in ({"value": 0}, {"value": 5}, {"completion_id": "../x"}, {"reasons": ["x" * 61]}):
        assert client(served_store).post("/v1/feedback", json=unknown | wrong).status_code == 400


def test_without_a_store_nothing_is_written(client, request_body, tmp_path):
    client().post(CHAT, json=request_body())
    assert not list(tmp_path.rglob("*.db"))
