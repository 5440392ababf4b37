"""Runs the server until it is stopped."""

import socket
from collections.abc import Callable

import uvicorn

from tutelage.errors import ConfigError
from tutelage.serve.app import create_app
from tutelage.serve.config import ServeConfig
from tutelage.serve.memory import Memory
from tutelage.serve.voice import Voice


def serve(config: ServeConfig, voice: Voice, memory: Memory | None, *, told: Callable[[str], None]) -> None:
    """Blocks until the process is told to stop. Raises ConfigError when the port is taken."""
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((config.host, config.port))
        except OSError as e:
            raise ConfigError(
                f"{config.host}:{config.port} cannot be listened on ({e.strerror}). Another server may use it: choose "
                f"another --port."
            ) from e
        port = listening.getsockname()[1]
        host = f"[{config.host}]" if ":" in config.host else config.host
        told(f"{voice.name} ({voice.version}) at http://{host}:{port}/v1 (stop with Ctrl-C)")
        told(f"to let the labelling app call it: tutelage label … --private-endpoint {host}:{port}")
        settings = uvicorn.Config(
            create_app(config, voice, memory), log_level="warning", access_log=False, server_header=False,
            h11_max_incomplete_event_size=16 * 1024, timeout_keep_alive=30,
        )  # fmt: skip
        uvicorn.Server(settings).run(sockets=[listening])
