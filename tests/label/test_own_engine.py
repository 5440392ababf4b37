"""The project's own engine as an endpoint: a small model is served on loopback, and people get its answers to rank."""

import dataclasses
import socket
import threading

import pytest
import uvicorn

from tutelage.label.generate import generate
from tutelage.serve.app import create_app
from tutelage.serve.config import ServeConfig
from tutelage.serve.voice import Voice
from tutelage.store.completions import get_completions
from tutelage.store.lineage import model_versions
from tutelage.store.tasks import list_tasks
from tutelage.store.tools import take_job

KEY = "a-key-of-some-length"


class Server(uvicorn.Server):
    def install_signal_handlers(self):
        pass


@pytest.fixture
def engine(small_causal, small_chat):
    """The address of a small model that is served, with a key."""
    voice = Voice("sft", "sft-0123456789ab", small_causal(), small_chat)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        running = Server(uvicorn.Config(create_app(ServeConfig(key=KEY), voice), log_level="error", access_log=False))
        thread = threading.Thread(target=running.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        yield f"127.0.0.1:{listening.getsockname()[1]}"
        running.should_exit = True
        thread.join(timeout=10)


def test_people_rank_what_the_projects_own_model_wrote(house, engine):
    label = house.app.state.label
    allowed = dataclasses.replace(label, config=dataclasses.replace(house.config, private_endpoints=(engine,)))
    house.app.state.label = allowed
    form = {"name": "Our own", "url": f"http://{engine}/v1", "model": "sft", "key": KEY}
    assert house.post(house.owner.client, house.path("models"), form).status_code == 303
    assert "answered in" in house.post(house.owner.client, house.path("models/1/test")).text
    order = {
        "prompts_from": "lines", "lines": "Is the pool open?\nWhere is the kettle?", "endpoint": ["1"], "kind": "rank",
        "n": "4", "temperature": "1", "max_tokens": "16", "source": "ours",
    }  # fmt: skip
    assert house.post(house.owner.client, house.path("models/generate"), order).status_code == 303
    assert generate(allowed, take_job(house.store)) == {"tasks": 2, "incomplete": 0, "alike": 0, "error": ""}
    person = house.person("labeller")
    shown = house.next(person)
    assert shown["kind"] == "rank" and len(shown["cards"]) == 4
    [version] = model_versions(house.store)
    assert version.path.endswith("/v1#sft-0123456789ab")  # the weights that the server says it has
    for task, _ in list_tasks(house.store, house.project.id):
        assert task.source == "house/ours"
        assert {c.model_version for c in get_completions(house.store, task.completions)} == {version.id}
