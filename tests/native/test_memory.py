"""Memory that is kept: what is live never overlaps, what is freed is used again, and neighbours join."""

import mmap
import random

import pytest
import torch

from tutelage.native.memory import PIECE, SMALL, Arena, arena, empty, mapped, zeros


def test_live_tensors_never_share_memory():
    rng = random.Random(0)
    live: list[torch.Tensor] = []
    for i in range(400):
        if live and rng.random() < 0.5:
            live.pop(rng.randrange(len(live)))
        else:
            live.append(empty(rng.randrange(SMALL // 4, SMALL * 2), dtype=torch.float32).fill_(i))
    assert live
    for x in live:
        assert float(x.min()) == float(x.max())


def test_a_freed_tensor_makes_room_for_the_next_even_of_another_length():
    own = Arena(mapped)
    views = [own.take(PIECE // 4) for _ in range(4)]
    assert own.held == PIECE
    del views
    own.take(PIECE // 2 + 1)
    assert own.held == PIECE


def test_a_view_keeps_the_memory_of_its_tensor():
    whole = empty(1024, 1024, dtype=torch.float32).fill_(7.0)
    part = whole[3:5]
    del whole
    other = empty(1024, 1024, dtype=torch.float32).fill_(0.0)
    assert float(part.min()) == 7.0 and float(other.max()) == 0.0


def test_more_than_a_piece_is_a_piece_of_its_own():
    own = Arena(mapped)
    view = own.take(PIECE + 1)
    assert len(view) == PIECE + 1 and own.held > PIECE


def test_small_tensors_are_left_to_torch():
    held = arena.held
    small = empty(SMALL // 4 - 1, dtype=torch.float32)
    assert arena.held == held and len(small) == SMALL // 4 - 1


def test_zeros_are_zero_where_something_stood():
    x = empty(512, 512, dtype=torch.float32).fill_(3.0)
    del x
    assert float(zeros(512, 512, dtype=torch.float32).abs().max()) == 0.0


@pytest.mark.skipif(not hasattr(mmap, "MADV_DONTNEED"), reason="the system cannot be told")
def test_what_is_given_back_is_gone_and_what_is_held_is_not():
    own = Arena(mapped)
    kept, freed = own.take(SMALL), own.take(SMALL)
    kept[:], freed[:] = b"k" * SMALL, b"f" * SMALL
    del freed
    own.give_back()
    assert bytes(kept) == b"k" * SMALL
    assert bytes(own.take(SMALL)) == bytes(SMALL)
