"""Threads that share a kernel's parts: every part is done once, whoever does it, and whoever else is at work."""

import multiprocessing
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from tutelage.native.linear import Paired, linear, pair


@pytest.fixture
def threads():
    """Sets how many threads a kernel may use, and puts it back."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture
def work():
    g = torch.Generator().manual_seed(0)
    weight_OI = torch.randn(96, 64, generator=g).bfloat16()
    return torch.randn(3000, 64, generator=g).bfloat16(), Paired(pair([weight_OI]), 96, 64)


@pytest.mark.parametrize("n_threads", [2, 3, 7])
def test_the_number_of_threads_changes_no_bit(threads, work, n_threads):
    threads(1)
    alone = linear(*work)
    threads(n_threads)
    for _ in range(50):
        assert torch.equal(linear(*work), alone)


def test_callers_at_the_same_time_get_their_own_results(threads, work):
    threads(1)
    alone = linear(*work)
    x, layer = work
    start = threading.Barrier(4)

    def many(i: int) -> bool:
        torch.set_num_threads(2)
        start.wait()
        return all(torch.equal(linear(x[i:], layer), alone[i:]) for _ in range(50))

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(many, range(4)))


def _digest(x: torch.Tensor) -> int:
    """Without torch's own threads, which do not live through a fork."""
    return zlib.crc32(x.view(torch.int16).numpy().tobytes())


def _in_a_child(x, layer, answer):
    answer.put(_digest(linear(x, layer)))


def test_a_forked_process_has_threads_of_its_own(threads, work):
    threads(2)
    expected = _digest(linear(*work))
    context = multiprocessing.get_context("fork")
    answer = context.SimpleQueue()
    child = context.Process(target=_in_a_child, args=(*work, answer))
    child.start()
    child.join(60)
    assert child.exitcode == 0 and answer.get() == expected
