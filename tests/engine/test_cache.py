"""One token at a time through the cache gives what the whole sequence gives at once.

S slots, N packed tokens, H query heads, G key heads, T positions, D head width.
"""

import pytest
import torch

from tutelage.engine.cache import PrefillLayout, SlotCache
from tutelage.engine.prefix_cache import Prefix
from tutelage.model.attention import Packed
from tutelage.native.kernels import Heads

KINDS = ["llama", "mistral", "qwen2", "qwen3", "gpt2", "gpt_neox"]


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_decoding_through_slots_equals_the_full_forward(kind, small_causal):
    model = small_causal(kind)
    g = torch.Generator().manual_seed(0)
    n_prompt, n_new = [4, 30, 1], 6  # the second passes the first rounding of the read length
    rows = [torch.randint(5, 320, (n + n_new,), generator=g) for n in n_prompt]
    packed = Packed(n_prompt)
    cache = SlotCache(4, 40)
    layout = PrefillLayout(packed, cache, [[0], [1], [2]])
    prompt_N = torch.cat([r[:n] for r, n in zip(rows, n_prompt, strict=True)])
    last_B = torch.tensor(n_prompt).cumsum(0) - 1
    got = [[logits_V] for logits_V in model.logits(prompt_N, packed.position_N, last_B, layout)]
    for t in range(n_new):
        position_S = torch.tensor([n + t for n in n_prompt])
        token_S = torch.stack([r[n + t] for r, n in zip(rows, n_prompt, strict=True)])
        for slot, logits_V in enumerate(model.logits(token_S, position_S, torch.arange(3), cache.step(position_S, 40))):
            got[slot].append(logits_V)
    for row, n, logits in zip(rows, n_prompt, got, strict=True):
        alone = Packed([len(row)])
        full_TV = model.logits(row, alone.position_N, torch.arange(len(row)), alone)
        torch.testing.assert_close(torch.stack(logits), full_TV[n - 1 :], atol=1e-5, rtol=1e-5)


def fill(cache, slots, value, length):
    """A prompt of this many tokens, whose keys and values are all alike."""
    layout = PrefillLayout(Packed([length]), cache, [slots])
    x = torch.full((2, length, 8), value)
    layout.attend(0, x, x, x, 1.0)


def step(cache, values, positions):
    """One decoding step with these keys and values; returns [S, H] (all head widths are alike)."""
    x_GND = torch.tensor(values)[None, :, None].expand(2, -1, 8).clone()
    query_HND = torch.zeros(4, len(values), 8)  # looks at all positions alike: the mean of the values
    return cache.step(torch.tensor(positions), max(positions) + 1).attend(0, query_HND, x_GND, x_GND, 1.0)[:, :, 0]


def test_what_a_slot_held_before_is_not_seen():
    cache = SlotCache(2, 64)
    fill(cache, [0], 1e6, 60)
    fill(cache, [1], 7.0, 2)
    fill(cache, [0], 1.0, 2)  # a shorter one moves into the slot
    # Means: (1 + 1 + 4) / 3 and (7 + 7 + 1) / 3.
    assert step(cache, [4.0, 1.0], [2, 2]).tolist() == [pytest.approx([2.0] * 4), pytest.approx([5.0] * 4)]


def test_samples_of_one_prompt_each_get_it_and_those_that_wait_a_copy():
    cache = SlotCache(4, 8)
    fill(cache, [0, 3], 1.0, 2)  # slot 3 holds it for samples that wait
    fill(cache, [0], 9.0, 3)  # the first sample is done, and another prompt takes its slot
    cache.move(3, 1, 2)
    cache.move(3, 2, 2)
    assert step(cache, [9.0, 4.0, 7.0], [3, 2, 2]).tolist() == [
        pytest.approx([9.0] * 4),
        pytest.approx([2.0] * 4),  # (1 + 1 + 4) / 3
        pytest.approx([3.0] * 4),  # (1 + 1 + 7) / 3
    ]


def test_a_moved_sequence_takes_its_keys_along():
    cache = SlotCache(2, 8)
    fill(cache, [0], 9.0, 3)
    fill(cache, [1], 1.0, 2)
    step(cache, [9.0, 4.0], [3, 2])
    cache.move(1, 0, 3)
    assert step(cache, [6.0], [3]).tolist() == [pytest.approx([3.0] * 4)]  # (1 + 1 + 4 + 6) / 4


def test_reading_further_changes_nothing_and_never_passes_the_capacity():
    cache = SlotCache(1, 70)
    fill(cache, [0], 1e6, 70)
    fill(cache, [0], 1.0, 2)
    x_GND = torch.full((2, 1, 8), 4.0)
    for read in (3, 32, 70, 96):
        out_SHD = cache.step(torch.tensor([2]), read).attend(0, torch.zeros(4, 1, 8), x_GND, x_GND, 1.0)
        assert out_SHD[0, :, 0].tolist() == pytest.approx([2.0] * 4)  # (1 + 1 + 4) / 3


def test_a_model_that_repeats_a_layer_is_refused():
    layout = PrefillLayout(Packed([2]), SlotCache(1, 8), [[0]])
    x = torch.zeros(2, 2, 8)
    layout.attend(0, x, x, x, 1.0)
    with pytest.raises(AssertionError, match="layer 0 ran after 1 layers"):
        layout.attend(0, x, x, x, 1.0)


def test_a_prefix_is_what_a_slot_begins_with_and_begins_others():
    cache, heads = SlotCache(4, 128), Heads(4, 2, 8, 1.0, 0.0)
    slots = cache.open_native(3, heads)
    for i, buffer in enumerate((*cache.keys, *cache.values)):
        buffer[1] = i + torch.arange(128)[:, None] / 128  # by layer and position
    expected = [buffer[1, :, :64].clone() for buffer in (*cache.keys, *cache.values)]
    prefix = cache.prefix(1, tuple(range(64))).copy()
    for buffer in (*cache.keys, *cache.values):
        buffer[1].zero_()
    cache.put(prefix, [3, 0])
    assert slots.n_layers == 3 and len(prefix) == 64 and prefix.keys_LGPW.shape == (3, 2, 64, 32)
    for buffer, rows_GPW in zip((*cache.keys, *cache.values), expected, strict=True):
        assert torch.equal(buffer[0, :, :64], rows_GPW) and torch.equal(buffer[3, :, :64], rows_GPW)
        assert buffer[1].eq(0).all()


def test_only_the_kernels_go_on_behind_a_prefix():
    ids, x = tuple(range(64)), torch.zeros(2, 3, 8)
    prefix = Prefix(ids, torch.zeros(1, 2, 64, 32), torch.zeros(1, 2, 64, 32))
    with pytest.raises(AssertionError, match="count on from the prefix"):
        PrefillLayout(Packed([3]), SlotCache(1, 128), [[0]], prefix)
    layout = PrefillLayout(Packed([3], after=64), SlotCache(1, 128), [[0]], prefix)
    with pytest.raises(AssertionError, match="only the kernels"):
        layout.attend(0, x, x, x, 1.0)
