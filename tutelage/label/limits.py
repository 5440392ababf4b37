"""What a client may ask of the server: so many requests, so many bytes. All counts live in this process."""

import contextlib
import threading
import time
from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send


class TooMany(Exception):
    """A client asked too often; `seconds` says when to come back."""

    def __init__(self, seconds: int) -> None:
        super().__init__(f"too many requests; try again in {seconds} s")
        self.seconds = seconds


class RateLimit:
    """A token bucket for each client: `burst` at once, then one every `every_s`."""

    def __init__(self, burst: int, every_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.burst, self.every_s, self._clock = burst, every_s, clock
        self._level: dict[str, tuple[float, float]] = {}  # tokens left, and when that was
        self._lock = threading.Lock()

    def take(self, who: str) -> None:
        """Raises TooMany when the bucket is empty."""
        with self._lock:
            now = self._clock()
            if len(self._level) > 10_000:
                self._level = {k: v for k, v in self._level.items() if now - v[1] < self.burst * self.every_s}
            left, since = self._level[who] if who in self._level else (float(self.burst), now)
            left = min(float(self.burst), left + (now - since) / self.every_s)
            if left < 1:
                self._level[who] = (left, now)
                raise TooMany(max(1, round((1 - left) * self.every_s + 0.5)))
            self._level[who] = (left - 1, now)


class BodyLimit:
    """Refuses a body that is too long before anything parses it, whatever its length header says."""

    def __init__(self, app: ASGIApp, *, most: int, uploads: int, upload_paths: tuple[str, ...]) -> None:
        self.app, self.most, self.uploads, self.upload_paths = app, most, uploads, upload_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        most = self.uploads if scope["path"].endswith(self.upload_paths) else self.most
        length = next((v for k, v in scope["headers"] if k == b"content-length"), b"0")
        if not length.isdigit() or int(length) > most:
            return await _refuse(send, most)
        seen, answered = 0, False

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message["body"]) if message["type"] == "http.request" and "body" in message else 0
            if seen > most:
                raise _TooLong
            return message

        async def noted(message: Message) -> None:
            nonlocal answered
            if seen > most and not answered:
                return  # what the app makes of a body that was cut off; the answer stands below
            answered = answered or message["type"] == "http.response.start"
            await send(message)

        with contextlib.suppress(_TooLong):
            await self.app(scope, counted, noted)
        if seen > most and not answered:
            await _refuse(send, most)


class _TooLong(Exception):
    pass


async def _refuse(send: Send, most: int) -> None:
    body = f"The body is longer than {most // 1024} KiB.".encode()
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": 413, "headers": headers})
    await send({"type": "http.response.body", "body": body})
