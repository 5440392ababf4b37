"""The quick lane: two threads for what labelers wait for, so that it never queues behind a slow model or an export.

Two, because Python runs one thread at a time and the store takes one writer at a time: with more, each waits for all
the others at every statement, and the last one answered waits longest. They take their work in the order it came.
"""

import asyncio
import functools
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from starlette.responses import JSONResponse, Response

T = TypeVar("T")

_LANE = ThreadPoolExecutor(max_workers=2, thread_name_prefix="tutelage-quick")


async def quickly(function: Callable[..., T], *args: Any, **named: Any) -> T:
    """Calls in a thread of the lane."""
    return await asyncio.get_running_loop().run_in_executor(_LANE, functools.partial(function, *args, **named))


def beside_the_loop(handler: Callable[..., Any]) -> Callable[..., Coroutine[Any, Any, Response]]:
    """The handler of a route in the lane. What it returns becomes JSON there, too, and not on the loop."""

    def respond(**named: Any) -> Response:
        found = handler(**named)
        return found if isinstance(found, Response) else JSONResponse(found)

    @functools.wraps(handler)
    async def route(**named: Any) -> Response:
        return await quickly(respond, **named)

    return route
