"""Endpoints: what an owner may enter, what becomes of the key, and what a model server may answer."""

import dataclasses
import json

import pytest

from tutelage.errors import DataError
from tutelage.label.endpoints import Sampling, ask, keep_endpoint, try_out, version_of, whole, written
from tutelage.label.outgoing import NoAnswer
from tutelage.store.lineage import model_versions
from tutelage.store.prompts import add_prompts
from tutelage.store.tools import endpoints, remove_endpoint
from tutelage.types import Message, Prompt

HELLO = [Message(role="user", content="Hello")]


@pytest.fixture
def label(house, fake_model):
    """The app's own state, whose operator allows the fake model."""
    config = dataclasses.replace(house.config, private_endpoints=(fake_model.where,))
    house.app.state.label = dataclasses.replace(house.app.state.label, config=config)
    return house.app.state.label


def keep(house, label, fake_model, **changed):
    given = {"name": "One", "url": fake_model.url, "model": "m", "key": "", "key_env": ""} | changed
    number = keep_endpoint(label, house.project.id, **given)
    return next(e for e in endpoints(house.store, house.project.id) if e.id == number)


def test_a_key_is_kept_sealed_and_goes_to_its_own_server_alone(house, label, fake_model):
    found = keep(house, label, fake_model, key="sk-secret")
    assert "sk-secret" not in (found.key_sealed or "")
    assert ask(label, found, HELLO, Sampling(), 7).text == "answer 1 of m"
    assert fake_model.calls[0]["headers"]["Authorization"] == "Bearer sk-secret"
    assert fake_model.calls[0]["body"] == {
        "model": "m", "messages": [{"role": "user", "content": "Hello"}], "temperature": 1.0, "max_tokens": 512,
        "seed": 7,
    }  # fmt: skip


def test_a_key_can_come_from_the_servers_environment(house, label, fake_model, monkeypatch):
    found = keep(house, label, fake_model, key_env="FAKE_API_KEY")
    with pytest.raises(DataError, match="no variable FAKE_API_KEY"):
        ask(label, found, HELLO, Sampling(), 7)
    monkeypatch.setenv("FAKE_API_KEY", "from-outside")
    ask(label, found, HELLO, Sampling(), 7)
    assert fake_model.calls[0]["headers"]["Authorization"] == "Bearer from-outside"


@pytest.mark.parametrize("name", ["PATH", "TUTELAGE_OIDC_SECRET", "AWS_SECRET_ACCESS_KEY", "PGPASSWORD", "x_API_KEY\n"])
def test_no_other_secret_of_the_server_can_be_named(house, label, fake_model, name):
    with pytest.raises(DataError, match="no other secret"):
        keep(house, label, fake_model, key_env=name)


def test_a_removed_endpoint_loses_its_key(house, label, fake_model):
    found = keep(house, label, fake_model, key="sk-secret")
    assert remove_endpoint(house.store, house.project.id, found.id)
    assert not endpoints(house.store, house.project.id)
    from tutelage.store.desk_schema import endpoint

    with house.store.read() as conn:
        assert conn.execute(endpoint.select()).one().key_sealed is None


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"url": "http://192.0.2.1/v1"}, "not https"), ({"url": "https://10.0.0.1/v1"}, "private or local"),
        ({"url": "https://api.example.org/v1?key=sk"}, "without a query"), ({"name": " "}, "name needs"),
        ({"model": "a\nb"}, "model needs"), ({"key": "a b"}, "key holds"), ({"key": "a\r\nX-Evil: 1"}, "key holds"),
        ({"key": "k", "key_env": "A_API_KEY"}, "one of them"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_when_it_is_entered(house, label, fake_model, changed, why):
    with pytest.raises(DataError, match=why):
        keep(house, label, fake_model, **changed)
    assert not endpoints(house.store, house.project.id) and not fake_model.calls


def test_the_whole_address_of_the_chat_call_may_be_given(house, label, fake_model):
    assert keep(house, label, fake_model, url=fake_model.url + "/chat/completions").url == fake_model.url


ODD = {
    "no choices": {}, "empty choices": {"choices": []}, "a list": [], "a number": 7, "no message": {"choices": [{}]},
    "no words": {"choices": [{"message": {"content": None}}]},
    "a list of words": {"choices": [{"message": {"content": ["x"]}}]},
    "too many words": {"choices": [{"message": {"content": "x" * 200_001}}]},
}  # fmt: skip


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD.keys())
def test_an_answer_that_is_none_is_refused(house, label, fake_model, odd):
    fake_model.say = lambda body, n: (200, json.dumps(odd).encode(), {})
    with pytest.raises(NoAnswer):
        ask(label, keep(house, label, fake_model), HELLO, Sampling(), 7)


def test_halves_of_characters_are_replaced_and_whole_ones_stay(house, label, fake_model):
    answer = rb'{"model": "m", "choices": [{"message": {"content": "a\ud800b\ud83d\ude00"}}]}'
    fake_model.say = lambda body, n: (200, answer, {})
    assert ask(label, keep(house, label, fake_model), HELLO, Sampling(), 7).text == "a�b😀"
    assert whole("plain ä 😀") == "plain ä 😀"


def test_an_answer_is_kept_under_the_model_that_the_server_says_it_used(house, label, fake_model):
    found = keep(house, label, fake_model, model="latest")
    choice = {"message": {"content": "x"}, "finish_reason": "content_filter"}
    fake_model.say = lambda body, n: (200, json.dumps({"model": "m-2026", "choices": [choice]}).encode(), {})
    said = ask(label, found, HELLO, Sampling(temperature=0.5), 7)
    assert said.version == version_of(found, "m-2026") != version_of(found)
    assert said.version.stage == "external" and said.version.id.startswith("endpoint-")
    prompt = Prompt(messages=tuple(HELLO))
    add_prompts(house.store, [prompt])
    made = written(label, prompt, said, Sampling(temperature=0.5), 7, 2)
    assert (made.temperature, made.seed, made.sample, made.finish_reason) == (0.5, 7, 2, None)
    assert [v.id for v in model_versions(house.store)] == [made.model_version]


def test_a_trial_says_how_it_went_and_not_what_was_said(house, label, fake_model):
    fake_model.say = lambda body, n: "<script>secret</script>"
    told = try_out(label, keep(house, label, fake_model))
    assert "answered in" in told and "secret" not in told
    assert fake_model.calls[0]["body"]["max_tokens"] == 8


def test_a_key_of_another_installation_is_said_to_be_one(house, label, fake_model, tmp_path):
    from tutelage.label.keys import Keys

    found = keep(house, label, fake_model, key="sk")
    elsewhere = dataclasses.replace(label, keys=Keys(tmp_path / "elsewhere"))
    with pytest.raises(DataError, match="another installation"):
        ask(elsewhere, found, HELLO, Sampling(), 7)


@pytest.mark.parametrize(
    "wrong", [{"temperature": -0.1}, {"temperature": float("nan")}, {"max_tokens": 0}, {"max_tokens": 9000}]
)
def test_a_draw_that_cannot_be_is_refused(wrong):
    with pytest.raises(DataError):
        Sampling(**wrong)
