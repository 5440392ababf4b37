"""A small model behind the server's routes."""

import pytest
from starlette.testclient import TestClient

from tutelage.serve.app import create_app
from tutelage.serve.config import ServeConfig
from tutelage.serve.memory import Memory
from tutelage.serve.voice import Voice
from tutelage.store.db import open_store


@pytest.fixture(params=["fp32", "bf16"])
def voice(request, small_causal, small_chat):
    lineage = {"stage": "sft", "weights": "0123"}
    return Voice("sft", "sft-0123456789ab", small_causal(), small_chat, lineage=lineage, precision=request.param)


@pytest.fixture
def served_store(tmp_path):
    with open_store(tmp_path / "served.db") as store:
        yield store


@pytest.fixture
def client(voice):
    """client(store=None, **settings): a program that talks to the server."""

    def make(store=None, **settings):
        memory = Memory(store, voice) if store else None
        app = create_app(ServeConfig(**settings), voice, memory)
        return TestClient(app, base_url="http://127.0.0.1:8585", raise_server_exceptions=True)

    return make


@pytest.fixture
def request_body():
    """request_body(**changed): a chat request."""
    return lambda **changed: {
        "model": "sft", "messages": [{"role": "user", "content": "Is the pool open?"}], "max_tokens": 6, "seed": 3,
    } | changed  # fmt: skip
