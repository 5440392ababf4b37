"""A step of the decoder: what it draws, and from which numbers. Its logits are held to whole passes in tests/engine.

S running sequences, G key heads, T positions a slot can hold, K head width, W padded head width, V vocabulary.
"""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from tutelage.engine.request import SamplingConfig
from tutelage.engine.sampling import draw, uniform
from tutelage.native.decode import Decoder, Draws
from tutelage.native.kernels import Heads, Norm
from tutelage.native.layer import LayerWeights
from tutelage.native.linear import Paired, pair
from tutelage.native.plain import rms_norm
from tutelage.native.slots import Slots
from tutelage.native.weights import DecoderWeights

V, D, K = 321, 48, 24  # no size is a multiple of what the kernels like
HEADS = Heads(2, 1, K, K**-0.5, 1e-6)
PLAIN_NORM = Norm(torch.ones(D), None, 1e-5)


def noise(*shape, seed, scale=0.4):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale


def layer_of(*sizes, seed):
    return Paired(pair([noise(*sizes, seed=seed).bfloat16()]), *sizes)


def weights_of(vocabulary, inner):
    layers = [
        LayerWeights(
            replace(layer_of(HEADS.columns, D, seed=i), bias_O=noise(HEADS.columns, seed=i + 5).bfloat16()),
            layer_of(D, 2 * K, seed=i + 1), layer_of(inner, D, seed=i + 2), layer_of(inner, D, seed=i + 3),
            layer_of(D, inner, seed=i + 4), PLAIN_NORM, PLAIN_NORM, None, None, None,
        )
        for i in (10, 20)
    ]  # fmt: skip
    angle_TK = noise(64, K // 2, seed=3).repeat(1, 2)
    embedding_VD = noise(vocabulary, D, seed=1, scale=1.0)
    head = layer_of(vocabulary, D, seed=2)
    return DecoderWeights(embedding_VD, None, layers, PLAIN_NORM, head, HEADS, angle_TK.cos(), angle_TK.sin())


@pytest.fixture(scope="module")
def weights():
    return weights_of(V, 40)


def open_decoder(weights, slots=70):
    keys, values = ([torch.zeros(slots, 1, 32, 32).bfloat16() for _ in range(2)] for _ in range(2))
    return Decoder(weights, Slots(keys, values, weights.heads)), keys, values


def inputs(n):
    g = torch.Generator().manual_seed(n)
    return torch.randint(V, (n,), generator=g), torch.randint(20, (n,), generator=g)


def draws_of(token_S, position_S, *, limit=9, seed=0):
    """Samples that have drawn one token, so that it stands at its position."""
    n = len(token_S)
    draws = Draws.of([1000 * seed + i for i in range(n)], position_S.tolist(), [limit] * n)
    draws.token_RL[:, 0], draws.drawn_R[:] = token_S, 1
    return draws


@pytest.mark.parametrize("temperature", [1.0, 0.7, 3.0])
@pytest.mark.parametrize("n", [1, 3, 17, 65])
def test_it_draws_what_the_sampler_draws_from_the_same_logits(weights, n, temperature):
    token_S, position_S = inputs(n)
    logits_SV = open_decoder(weights)[0].logits(token_S, position_S)
    for seed in range(20):
        draws = draws_of(token_S, position_S, seed=seed)
        uniform_S = uniform(draws.seed_R, np.ones(n, dtype=np.uint64))
        expected_S, logp_S = draw(logits_SV, uniform_S, SamplingConfig(temperature=temperature))
        left = open_decoder(weights)[0].run(draws, np.arange(n), n, end_id=V, temperature=temperature, steps=1)
        assert left == (n, n) and draws.drawn_R.tolist() == [2] * n
        assert torch.equal(torch.from_numpy(draws.token_RL[:, 1]), expected_S)
        torch.testing.assert_close(torch.from_numpy(draws.logp_RL[:, 1]), logp_S, atol=2e-6, rtol=1e-6)


def rollout(weights, n, *, steps, limits, end_id, few=0, on=lambda call: call()):
    """Runs n samples to their ends, or until few run; the draws, which samples ran in which slots after each call."""
    token_S, position_S = inputs(n)
    draws = draws_of(token_S, position_S % 7, limit=max(limits))
    draws.limit_R[:] = limits
    decoder, row_S, left, order, total = open_decoder(weights)[0], np.arange(n), n, [], n
    while left > few:
        call = partial(decoder.run, draws, row_S, left, end_id=end_id, temperature=1.0, steps=steps, few=few)
        left, drawn = on(call)
        total += drawn
        order.append(row_S[:left].tolist())
    assert total == draws.drawn_R.sum()
    return draws, order


def same(a, b):
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in ("drawn_R", "token_RL", "logp_RL"))


@pytest.mark.parametrize("n_threads", [1, 3])
def test_many_steps_in_one_call_are_the_steps_one_by_one_and_a_sample_is_what_it_is_alone(
    weights, n_threads, on_threads
):
    n = 40
    limits = [2 + i % 9 for i in range(n)]
    alone, order = rollout(weights, n, steps=1, limits=limits, end_id=7)
    together, _ = rollout(weights, n, steps=100, limits=limits, end_id=7, on=partial(on_threads, n_threads))
    assert same(alone, together)
    ends = [alone.token_RL[i, d - 1] for i, d in enumerate(alone.drawn_R)]
    assert all(d == limits[i] or ends[i] == 7 for i, d in enumerate(alone.drawn_R))
    assert 7 in ends and sum(o != sorted(o) for o in order) > 3  # some ended early, and others moved
    token_S, position_S = inputs(n)
    for i in range(0, n, 7):
        one = draws_of(token_S[i : i + 1], position_S[i : i + 1] % 7, limit=max(limits))
        one.limit_R[:], one.seed_R[:] = limits[i], alone.seed_R[i]
        open_decoder(weights)[0].run(one, np.arange(1), 1, end_id=7, temperature=1.0, steps=100)
        assert all(
            np.array_equal(x[0], y[i]) for x, y in ((one.token_RL, alone.token_RL), (one.logp_RL, alone.logp_RL))
        )


def test_a_run_ends_when_few_are_left_and_says_which_they_are(weights):
    limits = [2, 5, 3, 9, 9, 4]
    draws, order = rollout(weights, 6, steps=100, limits=limits, end_id=V, few=3)
    assert draws.drawn_R.tolist() == [2, 4, 3, 4, 4, 4] and sorted(order[-1]) == [1, 3, 4] and len(order) == 1


def test_what_cannot_be_run_is_refused(weights):
    token_S, position_S = inputs(2)
    for change, words in [
        (("limit_R", 40), "a position that the slots"), (("drawn_R", 0), "without a first token"),
        (("drawn_R", 9), "is over"), (("limit_R", 12), "beyond the room"),
    ]:  # fmt: skip
        draws = draws_of(token_S, position_S)
        getattr(draws, change[0])[1] = change[1]
        with pytest.raises(AssertionError, match=words):
            open_decoder(weights)[0].run(draws, np.arange(2), 2, end_id=V, temperature=1.0, steps=1)


@pytest.mark.parametrize("n_threads", [1, 3])
def test_a_row_does_not_depend_on_its_company_or_the_threads(weights, n_threads, on_threads):
    token_S, position_S = inputs(67)
    together_SV = on_threads(n_threads, lambda: open_decoder(weights)[0].logits(token_S, position_S))
    for i in range(67):
        alone_SV = open_decoder(weights)[0].logits(token_S[i : i + 1], position_S[i : i + 1])
        assert torch.equal(alone_SV[0], together_SV[i])


@pytest.mark.parametrize("n", [1, 7, 23])
def test_threads_that_share_out_columns_change_no_bit(n, on_threads):
    # More weights than a thread's cache holds, and so few rows a thread that each reads only a part of them.
    large = weights_of(40_003, 2_001)
    token_S, position_S = inputs(n)
    found = []
    for n_threads in (1, 3):
        draws = draws_of(token_S, position_S)
        decoder, keys, values = open_decoder(large)
        run = partial(decoder.run, draws, np.arange(n), n, end_id=40_003, temperature=1.0, steps=3)
        logits = partial(decoder.logits, token_S, position_S)
        on_threads(n_threads, run)
        found.append(
            [*map(torch.from_numpy, (draws.token_RL, draws.logp_RL)), *keys, *values, on_threads(n_threads, logits)]
        )
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_a_slot_gets_its_own_key_and_value_and_no_other_is_touched(weights):
    decoder, keys, values = open_decoder(weights, slots=3)
    for buffer in (*keys, *values):
        buffer[:, :, :, :K] = 7.0
    decoder.logits(torch.tensor([5, 6]), torch.tensor([4, 9]))
    for buffer in (*keys, *values):
        written = (buffer[..., :K] != 7.0).any(dim=-1).nonzero().tolist()
        assert written == [[0, 0, 4], [1, 0, 9]]
        assert buffer[..., K:].eq(0).all()


def test_the_bias_of_a_column_is_its_own_in_every_panel(weights):
    # The values of the first layer by plain torch; they stand behind 72 columns of queries and keys, in a second panel.
    decoder, _, values = open_decoder(weights)
    decoder.logits(torch.tensor([5]), torch.tensor([4]))
    h_D = rms_norm(noise(V, D, seed=1, scale=1.0)[5], torch.ones(D), 1e-5).bfloat16().float()
    weight_CD, bias_C = noise(HEADS.columns, D, seed=10).bfloat16(), weights.layers[0].qkv.bias_O
    expected_K = (h_D @ weight_CD.float().T + bias_C.float())[-K:]
    torch.testing.assert_close(values[0][0, 0, 4, :K].float(), expected_K, atol=0.02, rtol=0.01)


def test_what_lies_beyond_a_position_is_not_read(weights):
    token_S, position_S = inputs(3)
    clean_SV = open_decoder(weights)[0].logits(token_S, position_S)
    decoder, keys, values = open_decoder(weights)
    for i, position in enumerate(position_S.tolist()):
        for buffer in (*keys, *values):
            buffer[i, :, position + 1 :, :K] = 1e30
            buffer[3:] = torch.nan
    assert torch.equal(decoder.logits(token_S, position_S), clean_SV)


def test_buffers_that_cannot_be_read_are_refused(weights):
    for shape, words in [
        ((2, 1, 32, 24), "another model"),
        ((2, 2, 32, 32), "another model"),
        ((2, 1, 24, 32), "length"),
    ]:
        with pytest.raises(AssertionError, match=words):
            Slots(*[[torch.zeros(shape).bfloat16()] * 2] * 2, weights.heads)
    with pytest.raises(AssertionError, match="71 rows, but 70 slots"):
        open_decoder(weights)[0].logits(*inputs(71))
