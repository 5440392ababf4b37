"""The server as a process listens: it says where, answers there, and says plainly when the port is taken."""

import http.client
import json
import re
import socket
import threading

import pytest
import uvicorn

from tutelage.errors import ConfigError
from tutelage.serve.config import ServeConfig
from tutelage.serve.server import serve


def test_it_says_where_it_listens_and_answers_there(voice, monkeypatch):
    running, said, started = [], [], threading.Event()

    class Server(uvicorn.Server):
        """One that the test can stop, since it is not the main thread."""

        def install_signal_handlers(self):
            pass

        async def startup(self, sockets=None):
            await super().startup(sockets=sockets)
            running.append(self)
            started.set()

    monkeypatch.setattr("uvicorn.Server", Server)
    thread = threading.Thread(target=serve, args=(ServeConfig(port=0), voice, None), kwargs={"told": said.append})
    thread.start()
    assert started.wait(30)
    port = int(re.search(r"http://127\.0\.0\.1:(\d+)/v1 ", said[0])[1])
    assert said[0].startswith("sft (sft-0123456789ab) at ") and f"--private-endpoint 127.0.0.1:{port}" in said[1]
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET", "/v1/models")
    answer = connection.getresponse()
    assert answer.status == 200 and json.loads(answer.read())["data"][0]["id"] == "sft"
    assert answer.getheader("server") is None
    connection.close()
    running[0].should_exit = True
    thread.join(timeout=30)
    assert not thread.is_alive()


def test_a_port_that_is_taken_is_said_plainly(voice):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(
            ConfigError, match=rf"127\.0\.0\.1:{port} cannot be listened on .*Another server may use it"
        ):
            serve(ServeConfig(port=port), voice, None, told=print)
