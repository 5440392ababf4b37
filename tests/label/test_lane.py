"""The quick lane: what labelers wait for does not queue behind what takes long."""

import asyncio
import inspect
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response

from tutelage.label.lane import beside_the_loop, quickly


def run(coroutine):
    """On a loop of its own: a browser of another test may keep one in this thread."""
    with ThreadPoolExecutor(1) as beside:
        return beside.submit(asyncio.run, coroutine).result()


def test_a_quick_call_is_answered_while_every_other_thread_is_busy():
    over = threading.Event()

    async def busy() -> bool:
        # Starlette's own pool has 40 threads: all of them wait for a model, say, and ten more stand in line.
        slow = [asyncio.create_task(run_in_threadpool(over.wait, 30)) for _ in range(50)]
        await asyncio.sleep(0)
        try:
            return await asyncio.wait_for(quickly(lambda: not over.is_set()), 10)
        finally:
            over.set()
            await asyncio.gather(*slow)

    assert run(busy())


def test_a_route_in_the_lane_answers_in_json_and_raises_what_its_handler_raises():
    def handler(n: int) -> dict[str, int] | Response:
        if n < 0:
            raise LookupError("below")
        return {"n": n} if n else Response(status_code=204)

    route = beside_the_loop(handler)
    assert inspect.signature(route) == inspect.signature(handler)  # by which FastAPI reads what comes in
    made = run(route(n=3))
    assert isinstance(made, JSONResponse) and made.body == b'{"n":3}'
    assert run(route(n=0)).status_code == 204
    with pytest.raises(LookupError, match="below"):
        run(route(n=-1))
