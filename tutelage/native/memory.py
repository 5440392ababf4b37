"""Memory for what the kernels write: in large pages, and kept from pass to pass, since new pages cost as much as sums.

A pass takes and frees the same hundreds of megabytes again and again. Here they are cut from a few long pieces, and
what is freed joins its free neighbours, so that passes of any length share them. Other memory of the process is
untouched.
"""

import mmap
import threading
import weakref
from bisect import insort
from collections import deque
from collections.abc import Callable

import torch
from torch import Tensor

SMALL = 1 << 18  # bytes below which torch's own memory serves as well
STEP = 4096  # a cut begins and ends at a multiple of this
PIECE = 128 << 20  # the least that is asked of the system at once
LARGE_PAGE = 2 << 20

Span = tuple[int, int, int]  # piece, first byte, end


class Arena:
    """Cuts from mapped pieces: the lowest free span that is long enough."""

    def __init__(self, new_piece: Callable[[int], mmap.mmap]) -> None:
        self._new_piece = new_piece
        self._pieces: list[mmap.mmap] = []
        self._free: list[Span] = []  # in order, none touching the next
        self._returned: deque[Span] = deque()  # by finalizers, which may run at any moment, even inside `take`
        self._lock = threading.Lock()

    @property
    def held(self) -> int:
        """Bytes that were asked of the system."""
        return sum(len(piece) for piece in self._pieces)

    def take(self, n_bytes: int) -> memoryview:
        """This much memory, whatever stands in it. It comes back when nobody holds the view."""
        size = n_bytes + -n_bytes % STEP
        with self._lock:
            self._collect()
            i = next((i for i, (_, first, end) in enumerate(self._free) if end - first >= size), None)
            if i is None:
                i = self._grow(size)
            piece, first, end = self._free.pop(i)
            if end - first > size:
                self._free.insert(i, (piece, first + size, end))
        view = memoryview(self._pieces[piece])[first : first + n_bytes]
        weakref.finalize(view, self._returned.append, (piece, first, first + size)).atexit = False
        return view

    def give_back(self) -> None:
        """Returns to the system what nobody uses; its addresses stay, and the next who takes it gets new pages."""
        if not hasattr(mmap, "MADV_DONTNEED"):
            return
        with self._lock:
            self._collect()
            for piece, first, end in self._free:
                self._pieces[piece].madvise(mmap.MADV_DONTNEED, first, end - first)

    def _collect(self) -> None:
        while self._returned:
            self._join(self._returned.popleft())

    def _grow(self, size: int) -> int:
        """One piece more; returns where it stands among the free spans: last."""
        length = max(PIECE, size + -size % LARGE_PAGE)
        self._pieces.append(self._new_piece(length))
        self._free.append((len(self._pieces) - 1, 0, length))
        return len(self._free) - 1

    def _join(self, span: Span) -> None:
        insort(self._free, span)
        i = self._free.index(span)
        for left in (i, i - 1):  # with the one after, then with the one before
            if 0 <= left < len(self._free) - 1:
                (piece, first, middle), (other, start, end) = self._free[left : left + 2]
                if piece == other and middle == start:
                    self._free[left : left + 2] = [(piece, first, end)]


def mapped(length: int) -> mmap.mmap:
    """New memory of this process alone, in large pages where the system has them."""
    if not hasattr(mmap, "MAP_PRIVATE"):
        return mmap.mmap(-1, length)
    piece = mmap.mmap(-1, length, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        piece.madvise(mmap.MADV_HUGEPAGE)
    return piece


arena = Arena(mapped)


def empty(*shape: int, dtype: torch.dtype) -> Tensor:
    """As `torch.empty`."""
    n = 1
    for size in shape:
        n *= size
    if n * dtype.itemsize < SMALL:
        return torch.empty(shape, dtype=dtype)
    return torch.frombuffer(arena.take(n * dtype.itemsize), dtype=dtype, count=n).view(shape)


def zeros(*shape: int, dtype: torch.dtype) -> Tensor:
    """As `torch.zeros`."""
    return empty(*shape, dtype=dtype).zero_()
