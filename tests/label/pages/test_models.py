"""The page of models: who may add and remove, what is shown of a key, and orders that a form can send."""

import dataclasses

import pytest

from tutelage.store.tools import endpoints, jobs, report_job


@pytest.fixture
def allowed(house, fake_model):
    config = dataclasses.replace(house.config, private_endpoints=(fake_model.where,))
    house.app.state.label = dataclasses.replace(house.app.state.label, config=config)
    return fake_model


def add(house, fake_model, client=None, **changed):
    form = {"name": "One", "url": fake_model.url, "model": "m", "key": "sk-very-secret"} | changed
    return house.post(client or house.owner.client, house.path("models"), form)


ORDER = {
    "prompts_from": "lines", "lines": "one\ntwo", "endpoint": ["1"], "kind": "rank", "n": "4", "temperature": "1",
    "max_tokens": "64", "source": "generated",
}  # fmt: skip


def test_a_key_is_never_shown_again(house, allowed):
    assert add(house, allowed).status_code == 303
    for person in (house.owner, house.person("lead")):
        page = person.client.get(house.path("models")).text
        assert "a key is kept" in page and "very-secret" not in page
    found = endpoints(house.store, house.project.id)[0]
    assert found.key_sealed not in house.owner.client.get(house.path("models")).text


def test_only_an_owner_adds_tests_and_removes(house, allowed):
    add(house, allowed)
    lead = house.person("lead")
    assert add(house, allowed, lead.client).status_code == 403
    for verb in ("remove", "test"):
        assert house.post(lead.client, house.path(f"models/1/{verb}")).status_code == 403
    page = lead.client.get(house.path("models")).text
    assert "Add an endpoint" not in page and "Remove One" not in page
    assert house.person("labeller").client.get(house.path("models")).status_code == 403
    assert house.post(house.owner.client, house.path("models/1/remove")).status_code == 303
    assert not endpoints(house.store, house.project.id)


def test_a_trial_tells_how_it_went(house, allowed):
    add(house, allowed)
    assert "One answered in" in house.post(house.owner.client, house.path("models/1/test")).text
    allowed.say = lambda body, n: (500, b"<b>inner secret</b>", {})
    failed = house.post(house.owner.client, house.path("models/1/test"))
    assert failed.status_code == 422 and "status 500" in failed.text and "inner secret" not in failed.text


def test_an_address_inside_is_refused_on_the_page(house, fake_model):
    answer = add(house, fake_model)
    assert answer.status_code == 422 and "--private-endpoint" in answer.text
    assert "very-secret" not in answer.text


def test_an_endpoint_of_another_project_is_not_there(house, allowed):
    add(house, allowed)
    other = house.another_project()
    for verb in ("remove", "test"):
        assert house.post(house.owner.client, house.path(f"models/1/{verb}", other)).status_code == 404
    order = house.post(house.owner.client, house.path("models/generate", other), ORDER)
    assert order.status_code == 422 and not jobs(house.store, other.id)


def test_an_order_becomes_a_job_and_the_page_shows_how_far_it_is(house, allowed):
    add(house, allowed)
    lead = house.person("lead")
    assert house.post(lead.client, house.path("models/generate"), ORDER).status_code == 303
    [job] = jobs(house.store, house.project.id)
    assert (job.kind, job.total, job.request["source"]) == ("generate", 8, "house/generated")
    part = lead.client.get(house.path("models/jobs"))
    assert part.status_code == 200 and "0 of 8" in part.text and "<html" not in part.text
    report_job(house.store, job.id, state="failed", done=3, result={"error": "<b>gone</b>"})
    part = lead.client.get(house.path("models/jobs"))
    assert part.status_code == 286 and "&lt;b&gt;gone" in part.text  # htmx stops asking
    assert house.post(lead.client, house.path(f"models/jobs/{job.id}/again")).status_code == 303
    assert jobs(house.store, house.project.id)[0].state == "waiting"
    assert house.post(lead.client, house.path(f"models/jobs/{job.id}/again")).status_code == 409


def test_prompts_can_come_from_a_file_or_a_source(house, allowed):
    add(house, allowed)
    lead = house.person("lead")
    files = {"file": ("prompts.txt", "\ufefffrom a file\nand another\n".encode(), "text/plain")}
    assert house.post(lead.client, house.path("models/generate"), ORDER | {"lines": ""}, files=files).status_code == 303
    assert len(jobs(house.store, house.project.id)[0].request["prompts"]) == 2
    house.task("rank")
    from_source = ORDER | {"prompts_from": "source", "prompt_source": "round-1", "lines": ""}
    assert house.post(lead.client, house.path("models/generate"), from_source).status_code == 303
    assert len(jobs(house.store, house.project.id)[0].request["prompts"]) == 1


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"lines": " \n"}, "no prompt yet"), ({"n": "1"}, "2 to 9"), ({"n": "2.5"}, "whole number"),
        ({"n": "x"}, "number"),
        ({"temperature": "nan"}, "number"), ({"temperature": "9"}, "outside"), ({"max_tokens": "0"}, "tokens"),
        ({"endpoint": ["99"]}, "endpoints"), ({"endpoint": []}, "endpoints"), ({"kind": "chat"}, "ranking"),
        ({"source": "\x07"}, "source"),
        ({"prompts_from": "source", "prompt_source": "elsewhere", "lines": ""}, "no prompts"),
        ({"prompts_from": "source", "prompt_source": "round-1"}, "the one or the other"),
    ],
)  # fmt: skip
def test_an_order_that_cannot_be_is_said_on_the_page(house, allowed, changed, why):
    add(house, allowed)
    answer = house.post(house.person("lead").client, house.path("models/generate"), ORDER | changed)
    assert answer.status_code == 422 and why in answer.text and not jobs(house.store, house.project.id)


def test_a_file_that_is_no_text_is_said_to_be_none(house, allowed):
    add(house, allowed)
    files = {"file": ("prompts.txt", b"\xff\xfe\x00", "text/plain")}
    answer = house.post(house.person("lead").client, house.path("models/generate"), ORDER, files=files)
    assert answer.status_code == 422 and "UTF-8" in answer.text
