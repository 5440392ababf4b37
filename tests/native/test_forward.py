"""Whole sequences through a whole decoder. Its hidden states are held to passes with gradient in tests/model.

N tokens, B sequences, U rows that are read, D width, G key heads, K head width.
"""

from dataclasses import replace

import pytest
import torch

from tutelage.native.forward import Into, forward
from tutelage.native.kernels import Heads, Norm, Sequences
from tutelage.native.layer import GELU, SILU_OF_GATE, LayerWeights
from tutelage.native.linear import Paired, pair
from tutelage.native.plain import rms_norm, rotate
from tutelage.native.slots import PAGE, POSITIONS, Slots
from tutelage.native.weights import DecoderWeights

V, D, F, K = 99, 48, 72, 24  # no size is a multiple of what the kernels like
HEADS = Heads(4, 2, K, K**-0.5, 1e-6)
NORM = Norm(torch.linspace(0.5, 1.5, D), None, 1e-5)
ANGLE_TK = torch.arange(700)[:, None] * torch.logspace(0, -2, K // 2).repeat(2)


def noise(*shape, seed, scale=0.4):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale


def layer_of(*sizes, seed):
    return Paired(pair([noise(*sizes, seed=seed)]), *sizes)


def layer_at(i, kind, k_norm_K):
    """Norms by root mean square and gates, or means, biases and no gates; one after the other, or both beside."""
    if kind == "llama":
        norm, bias, gate = NORM, lambda _n: None, layer_of(F, D, seed=i + 2)
    else:
        norm, bias, gate = replace(NORM, bias_D=noise(D, seed=i)), lambda n: noise(n, seed=n).bfloat16(), None
    qkv, out, up, down = (
        replace(layer_of(o, n, seed=i + seed), bias_O=bias(o))
        for seed, o, n in ((0, HEADS.columns, D), (1, D, 4 * K), (3, F, D), (4, D, F))
    )
    activation = SILU_OF_GATE if gate else GELU
    return LayerWeights(
        qkv, out, gate, up, down, norm, norm, k_norm_K, k_norm_K, None, activation, is_parallel=kind == "neox"
    )


def weights_of(kind="llama", k_norm_K=None):
    layers = [layer_at(i, kind, k_norm_K) for i in (10, 20)]
    embedding_VD, place_PD = noise(V, D, seed=1, scale=1.0), None if kind == "llama" else noise(700, D, seed=2)
    last = NORM if kind == "llama" else replace(NORM, bias_D=noise(D, seed=3))
    return DecoderWeights(embedding_VD, place_PD, layers, last, None, HEADS, ANGLE_TK.cos(), ANGLE_TK.sin())


@pytest.fixture(scope="module", params=["llama", "gpt", "neox"])
def weights(request):
    return weights_of(request.param)


def rows_of(lengths):
    position_N = torch.cat([torch.arange(n) for n in lengths])
    return Sequences(
        torch.tensor([0, *lengths]).cumsum(0), torch.zeros(len(lengths), dtype=torch.int64),
        torch.zeros_like(position_N), position_N, ANGLE_TK.cos(), ANGLE_TK.sin(),
    )  # fmt: skip


def tokens(n):
    return torch.randint(V, (n,), generator=torch.Generator().manual_seed(n))


# Short ones that are dealt out, one that all threads share, more than a thread takes together, ragged ends, and what
# two threads share in two goes.
LENGTHS = [[5], [1, 2, 3], [64] * 12, [600], [300, 5, 290], [17, 130, 64, 1, 33, 200, 7, 129] * 3, [690, 690, 690, 20]]


@pytest.mark.parametrize("n_threads", [1, 2, 3])
@pytest.mark.parametrize("lengths", LENGTHS)
def test_a_sequence_does_not_depend_on_its_company_or_the_threads(lengths, n_threads, weights, on_threads):
    token_N = tokens(sum(lengths))
    alone = [forward(weights, x.clone(), rows_of([len(x)])) for x in token_N.split(lengths)]
    together_ND = on_threads(n_threads, lambda: forward(weights, token_N, rows_of(lengths)))
    assert torch.equal(together_ND, torch.cat(alone)) and together_ND.isfinite().all()


@pytest.mark.parametrize("n_threads", [1, 3])
@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("chosen", ["last", "every third", "none"])
def test_the_rows_that_are_read_are_those_of_the_whole_pass(chosen, lengths, n_threads, weights, on_threads):
    n = sum(lengths)
    token_N, rows = tokens(n), rows_of(lengths)
    read_U = {"last": rows.start_B1[1:] - 1, "every third": torch.arange(1, n, 3), "none": torch.arange(0)}[chosen]
    whole_ND = forward(weights, token_N, rows)
    read_UD = on_threads(n_threads, lambda: forward(weights, token_N, rows, read_U=read_U))
    assert read_UD.shape == (len(read_U), D) and torch.equal(read_UD, whole_ND[read_U])


@pytest.mark.parametrize("n_threads", [1, 3])
def test_branches_are_what_they_are_behind_a_trunk_of_their_own(n_threads, weights, on_threads):
    trunk, branches = 40, [3, 150, 20]
    token_N = tokens(trunk + sum(branches))
    begin = torch.tensor([trunk, *branches]).cumsum(0)
    own_N = torch.cat([torch.zeros(trunk, dtype=torch.int64), begin[:-1].repeat_interleave(torch.tensor(branches))])
    position_N = torch.cat([torch.arange(trunk), *(trunk + torch.arange(n) for n in branches)])
    family = Sequences(
        torch.tensor([0, len(token_N)]), torch.tensor([trunk]), own_N, position_N, ANGLE_TK.cos(), ANGLE_TK.sin()
    )
    got_ND = on_threads(n_threads, lambda: forward(weights, token_N, family))
    for first, n in zip(begin.tolist()[:-1], branches, strict=True):
        row = torch.cat([token_N[:trunk], token_N[first : first + n]])
        alone_ND = forward(weights, row, rows_of([len(row)]))
        torch.testing.assert_close(got_ND[first : first + n], alone_ND[trunk:], atol=0.05, rtol=0.05)


@pytest.mark.parametrize("n_threads", [1, 3])
@pytest.mark.parametrize("has_norm", [False, True])
def test_slots_are_filled_with_turned_keys_and_values_of_their_prompt_alone(has_norm, n_threads, on_threads):
    norm_K = noise(K, seed=2) + 1 if has_norm else None
    lengths, taken = [3, 14, 2], [[4, 1], [], [2]]
    token_N, rows = tokens(sum(lengths)), rows_of(lengths)
    keys, values = ([torch.zeros(5, 2, POSITIONS, 32).bfloat16() for _ in range(2)] for _ in range(2))
    into = Into(Slots(keys, values, HEADS), taken)
    on_threads(n_threads, lambda: forward(weights_of(k_norm_K=norm_K), token_N, rows, into=into))
    h_ND = rms_norm(noise(V, D, seed=1, scale=1.0)[token_N], NORM.weight_D, NORM.eps).bfloat16().float()
    qkv_NHK = (h_ND @ noise(HEADS.columns, D, seed=10).bfloat16().float().T).view(len(token_N), 8, K)
    key_GNK, value_GNK = qkv_NHK[:, 4:6].transpose(0, 1), qkv_NHK[:, 6:].transpose(0, 1)
    key_GNK = key_GNK if norm_K is None else rms_norm(key_GNK, norm_K, HEADS.eps)
    key_GNK = rotate(key_GNK, ANGLE_TK.cos()[rows.position_N], ANGLE_TK.sin()[rows.position_N])
    for slot, span in ((4, slice(0, 3)), (1, slice(0, 3)), (2, slice(17, 19))):
        n = span.stop - span.start
        torch.testing.assert_close(keys[0][slot, :, :n, :K].float(), key_GNK[:, span], atol=0.03, rtol=0.02)
        torch.testing.assert_close(values[0][slot, :, :n, :K].float(), value_GNK[:, span], atol=0.03, rtol=0.02)
        for buffer in (*keys, *values):
            assert buffer[slot, :, :n, :K].ne(0).any(dim=-1).all() and buffer[slot, :, n:].eq(0).all()
    for buffer in (*keys, *values):
        assert buffer[..., K:].eq(0).all() and buffer[[0, 3]].eq(0).all() and torch.equal(buffer[1], buffer[4])


def slots_of(capacity):
    """Five slots of two layers, and their buffers."""
    keys, values = ([torch.zeros(5, 2, capacity, 32).bfloat16() for _ in range(2)] for _ in range(2))
    return Slots(keys, values, HEADS), [*keys, *values]


@pytest.mark.parametrize("n_threads", [1, 3])
@pytest.mark.parametrize("after", [PAGE, 5 * PAGE])
@pytest.mark.parametrize("lengths", [[1], [3, 64, 200, 31], [300]])
def test_behind_a_beginning_that_stands_in_the_slots_nothing_differs_by_a_bit(
    lengths, after, n_threads, weights, on_threads
):
    begin, rests = tokens(after), tokens(sum(lengths)).split(lengths)
    whole, taken = [torch.cat([begin, rest]) for rest in rests], [[0, 3], [1], [4], [2]][: len(lengths)]
    capacity = 1024
    expected, buffers = slots_of(capacity)
    whole_ND = forward(weights, torch.cat(whole), rows_of([*map(len, whole)]), into=Into(expected, taken))
    got, held = slots_of(capacity)
    forward(weights, begin, rows_of([after]), into=Into(got, [[slot for slot, *_ in taken]]))
    rows = rows_of(lengths)
    rows.position_N.add_(after)
    got_ND = on_threads(n_threads, lambda: forward(weights, torch.cat(rests), rows, into=Into(got, taken, after)))
    assert torch.equal(got_ND, torch.cat([x[after:] for x in whole_ND.split([*map(len, whole)])]))
    assert all(torch.equal(a, b) for a, b in zip(buffers, held, strict=True))


def test_what_cannot_be_read_is_refused(weights):
    with pytest.raises(AssertionError, match="token out of range"):
        forward(weights, torch.tensor([0, V]), rows_of([2]))
    far = rows_of([2])
    far.position_N[1] = len(ANGLE_TK)
    with pytest.raises(AssertionError, match="position that the model does not have"):
        forward(weights, tokens(2), far)
    slots = Slots(*[[torch.zeros(2, 2, POSITIONS, 32).bfloat16()] * 2] * 2, HEADS)
    for lengths, taken, words in [
        ([POSITIONS + 1], [[0]], "do not fit"), ([1], [[2]], "does not exist"), ([1], [[-1]], "does not exist"),
        ([1, 1], [[0]], "for each sequence"),
    ]:  # fmt: skip
        with pytest.raises(AssertionError, match=words):
            forward(weights, tokens(sum(lengths)), rows_of(lengths), into=Into(slots, taken))
    for taken, after, words in [([[0]], 1, "stands in no slot"), ([[]], PAGE, "stands in no slot"),
                                ([[0]], PAGE, "do not fit")]:  # fmt: skip
        with pytest.raises(AssertionError, match=words):
            forward(weights, tokens(1), rows_of([1]), into=Into(slots, taken, after))
