"""A step of the decoder: what it draws, and from which numbers. Its logits are held to whole passes in tests/engine.

S running sequences, G key heads, T positions a slot can hold, K head width, W padded head width, V vocabulary.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tutelage.engine.request import SamplingConfig
from tutelage.engine.sampling import draw, uniform
from tutelage.native.decode import Decoder
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
    return torch.randint(V, (n,), generator=g).numpy(), torch.randint(20, (n,), generator=g).numpy()


@pytest.mark.parametrize("temperature", [1.0, 0.7, 3.0])
@pytest.mark.parametrize("n", [1, 3, 17, 65])
def test_it_draws_what_the_sampler_draws_from_the_same_logits(weights, n, temperature):
    token_S, position_S = inputs(n)
    for seed in range(20):
        uniform_S = uniform(np.arange(n, dtype=np.uint64), np.full(n, seed, dtype=np.uint64))
        logits_SV = open_decoder(weights)[0].logits(token_S, position_S)
        expected_S, logp_S = draw(logits_SV, uniform_S, SamplingConfig(temperature=temperature))
        got_S, got_logp_S = open_decoder(weights)[0].draw(
            token_S, position_S, uniform_S.numpy(), temperature=temperature
        )
        assert torch.equal(torch.from_numpy(got_S), expected_S)
        torch.testing.assert_close(torch.from_numpy(got_logp_S), logp_S, atol=2e-6, rtol=1e-6)


def test_the_ends_of_the_interval_draw_tokens_of_the_vocabulary(weights):
    token_S, position_S = inputs(2)
    ends_S = torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64)
    logits_SV = open_decoder(weights)[0].logits(token_S, position_S)
    got_S, _ = open_decoder(weights)[0].draw(token_S, position_S, ends_S.numpy(), temperature=1.0)
    assert torch.equal(torch.from_numpy(got_S), draw(logits_SV, ends_S, SamplingConfig())[0])
    assert got_S.tolist() == [0, V - 1]


def test_what_a_step_gave_stays_when_the_next_one_is_made(weights):
    token_S, position_S = inputs(3)
    decoder = open_decoder(weights)[0]
    given = [*decoder.draw(token_S, position_S, np.array([0.1, 0.5, 0.9]), temperature=1.0)]
    logits_SV = decoder.logits(token_S, position_S)
    kept = [x.copy() for x in given], logits_SV.clone()
    decoder.draw((token_S + 1) % V, position_S, np.array([0.9, 0.1, 0.5]), temperature=1.0)
    assert all((a == b).all() for a, b in zip(given, kept[0], strict=True)) and torch.equal(logits_SV, kept[1])
    with pytest.raises(AssertionError, match="one position and one draw a row"):
        decoder.draw(token_S, position_S[:1], np.zeros(3), temperature=1.0)


@pytest.mark.parametrize("n_threads", [1, 3])
def test_a_row_does_not_depend_on_its_company_or_the_threads(weights, n_threads):
    token_S, position_S = inputs(67)
    torch.set_num_threads(n_threads)
    try:
        together_SV = open_decoder(weights)[0].logits(token_S, position_S)
    finally:
        torch.set_num_threads(1)
    for i in range(67):
        alone_SV = open_decoder(weights)[0].logits(token_S[i : i + 1], position_S[i : i + 1])
        assert torch.equal(alone_SV[0], together_SV[i])


@pytest.mark.parametrize("n", [1, 7, 23])
def test_threads_that_share_out_columns_change_no_bit(n):
    # More weights than a thread's cache holds, and so few rows a thread that each reads only a part of them.
    large = weights_of(40_003, 2_001)
    token_S, position_S = inputs(n)
    uniform_S = uniform(np.arange(n, dtype=np.uint64), np.zeros(n, dtype=np.uint64))
    found = []
    for n_threads in (1, 3):
        torch.set_num_threads(n_threads)
        try:
            decoder, keys, values = open_decoder(large)
            drawn = decoder.draw(token_S, position_S, uniform_S.numpy(), temperature=1.0)
            found.append([*map(torch.from_numpy, drawn), decoder.logits(token_S, position_S), *keys, *values])
        finally:
            torch.set_num_threads(1)
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
