"""Runs the app until it is stopped: opens the store, prints the owner's link, listens."""

import socket
import sys
from collections.abc import Callable

import uvicorn

from tutelage.errors import ConfigError
from tutelage.label.app import create_app, owner_link
from tutelage.label.config import LabelConfig
from tutelage.store.db import open_store

# The loop and the threads beside it hand each request to and fro. At Python's own 5 ms, whoever wants to go on while
# another computes waits as long as a whole answer takes.
SWITCH_S = 0.0005


def serve(config: LabelConfig, *, told: Callable[[str], None]) -> None:
    """Blocks until the process is told to stop. Raises ConfigError when the port is taken."""
    sys.setswitchinterval(SWITCH_S)
    with open_store(config.store) as store:
        listening = _listen(config)
        app = create_app(config, store)
        link = owner_link(app.state.label)
        if link:
            told(f"Nobody owns this installation yet. Open this link to become its owner; it works once:\n  {link}")
        told(f"listening on {config.address} (stop with Ctrl-C)")
        server = uvicorn.Server(
            uvicorn.Config(
                app,
                log_level="warning",
                access_log=False,
                server_header=False,
                date_header=True,
                timeout_keep_alive=30,
                h11_max_incomplete_event_size=16 * 1024,
                proxy_headers=config.is_secure,
            )
        )
        server.run(sockets=[listening])


def _listen(config: LabelConfig) -> socket.socket:
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    # Named as TCP, so that asyncio turns off the algorithm of Nagle, which holds each answer back for 40 ms.
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((config.host, config.port))
        listening.listen(1024)  # at once: until then another process could bind the port as well
    except OSError as e:
        listening.close()
        raise ConfigError(
            f"{config.host}:{config.port} cannot be listened on ({e.strerror}). Another server may use it: choose "
            f"another --port."
        ) from e
    return listening
