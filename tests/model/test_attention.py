"""Packed attention against plain forwards of `transformers`, unpadded and padded on either side.

B rows, T tokens, N packed tokens, V vocabulary, H query heads, G key heads, D head width.
"""

from types import SimpleNamespace

import pytest
import torch

from tutelage.errors import ModelError
from tutelage.model.alike import Family
from tutelage.model.attention import Packed, attention

KINDS = ["llama", "mistral", "qwen2", "qwen3", "gpt2", "gpt_neox"]
LENGTHS = [5, 12, 1, 9]


def random_rows(lengths, seed=0):
    g = torch.Generator().manual_seed(seed)
    return [torch.randint(5, 320, (n,), generator=g) for n in lengths]


def packed_logits(model, rows):
    """Logits [T, V] of each row, all computed in one packed row."""
    packed = Packed([len(r) for r in rows])
    logits_NV = model.logits(torch.cat(rows), packed.position_N, torch.arange(sum(packed.lengths)), packed)
    return logits_NV.split(packed.lengths)


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@torch.no_grad()
def test_packed_equals_each_row_alone_in_the_model_of_transformers(kind, small_hf, small_causal):
    plain, model, rows = small_hf(kind), small_causal(kind), random_rows(LENGTHS)
    for row, logits_TV in zip(rows, packed_logits(model, rows), strict=True):
        torch.testing.assert_close(logits_TV, plain(input_ids=row[None]).logits[0], atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("side", ["left", "right"])
def test_packed_equals_a_padded_batch_of_transformers(kind, side, small_hf, small_causal):
    plain, model, rows = small_hf(kind), small_causal(kind), random_rows(LENGTHS)
    token_BT = torch.full((len(rows), max(LENGTHS)), 7)
    seen_BT = torch.zeros_like(token_BT)
    for i, row in enumerate(rows):
        span = slice(0, len(row)) if side == "right" else slice(max(LENGTHS) - len(row), None)
        token_BT[i, span], seen_BT[i, span] = row, 1
    position_BT = (seen_BT.cumsum(1) - 1).clamp(min=0)
    padded_BTV = plain(input_ids=token_BT, attention_mask=seen_BT, position_ids=position_BT).logits
    for i, logits_TV in enumerate(packed_logits(model, rows)):
        torch.testing.assert_close(logits_TV, padded_BTV[i][seen_BT[i].bool()], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_changing_one_row_leaves_the_others_equal_to_the_bit(kind, small_causal):
    model, rows = small_causal(kind), random_rows(LENGTHS)
    other = [rows[0], (rows[1] + 1) % 300, rows[2], rows[3]]
    before, after = packed_logits(model, rows), packed_logits(model, other)
    for i in (0, 2, 3):
        assert torch.equal(before[i], after[i])
    assert not torch.allclose(before[1], after[1], atol=0.1)


@torch.no_grad()
def test_the_order_of_rows_does_not_matter(kind, small_causal):
    model, rows, order = small_causal(kind), random_rows(LENGTHS), [2, 0, 3, 1]
    straight = packed_logits(model, rows)
    permuted = packed_logits(model, [rows[i] for i in order])
    for i, logits_TV in zip(order, permuted, strict=True):
        torch.testing.assert_close(logits_TV, straight[i], atol=1e-5, rtol=1e-5)


def test_the_gradient_of_a_packed_row_is_the_sum_of_the_gradients_of_its_parts(kind, small_hf, small_causal):
    plain, model, rows = small_hf(kind), small_causal(kind), random_rows(LENGTHS)
    sum(logits_TV.log_softmax(-1)[:, 7].sum() for logits_TV in packed_logits(model, rows)).backward()
    for row in rows:
        plain(input_ids=row[None]).logits[0].log_softmax(-1)[:, 7].sum().backward()
    expected = {name: p.grad for name, p in plain.named_parameters() if p.grad is not None}
    got = {name: p.grad for name, p in model.hf.named_parameters() if p.grad is not None}
    assert expected.keys() == got.keys()
    for name, grad in expected.items():
        assert (got[name] - grad).norm() <= 1e-5 * grad.norm() + 1e-5, name


@torch.no_grad()
def test_hidden_states_are_those_of_the_plain_model(kind, small_hf, small_causal):
    plain, model, rows = small_hf(kind), small_causal(kind), random_rows(LENGTHS)
    packed = Packed(LENGTHS)
    hidden_ND = model.hidden(torch.cat(rows), packed.position_N, packed)
    for row, hidden_TD in zip(rows, hidden_ND.split(LENGTHS), strict=True):
        expected_TD = plain.base_model(input_ids=row[None]).last_hidden_state[0]
        torch.testing.assert_close(hidden_TD, expected_TD, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("lengths", [[4, 2, 3], [3, 3], [1]])
def test_attend_equals_one_masked_softmax_over_the_whole_row(causal, lengths):
    g = torch.Generator().manual_seed(0)
    query_HND = torch.randn(4, sum(lengths), 8, generator=g)
    key_GND, value_GND = (torch.randn(2, sum(lengths), 8, generator=g) for _ in range(2))
    row_N = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    seen_NN = row_N[:, None] == row_N
    if causal:
        seen_NN = seen_NN.tril()
    # Query heads 0 and 1 read key head 0, heads 2 and 3 key head 1.
    score_HNN = query_HND @ key_GND.repeat_interleave(2, 0).transpose(1, 2) * 0.3
    weight_HNN = score_HNN.masked_fill(~seen_NN, -torch.inf).softmax(-1)
    expected_NHD = (weight_HNN @ value_GND.repeat_interleave(2, 0)).transpose(0, 1)
    got_NHD = Packed(lengths, causal=causal).attend(0, query_HND, key_GND, value_GND, 0.3)
    torch.testing.assert_close(got_NHD, expected_NHD, atol=1e-6, rtol=1e-5)


def test_positions_begin_anew_in_each_row():
    packed = Packed([3, 1, 2])
    assert packed.position_N.tolist() == [0, 1, 2, 0, 0, 1]
    assert packed.flat_N.tolist() == [0, 1, 2, 3, 6, 7]


def test_a_row_behind_others_counts_on_and_is_refused_where_these_are_not_known(small_causal):
    packed, x = Packed([3, 1], after=64), torch.zeros(2, 4, 8)
    assert packed.position_N.tolist() == [64, 65, 66, 64]
    with pytest.raises(AssertionError, match="not known here"):
        packed.attend(0, x, x, x, 1.0)
    model = small_causal()
    if model.is_fusable:
        with (
            pytest.raises(AssertionError, match="not known here"),
            torch.no_grad(),
            torch.autocast("cpu", torch.bfloat16),
        ):
            model.hidden(torch.arange(4), packed.position_N, packed)
    with pytest.raises(AssertionError, match="families"):
        Packed([3, 3], families=[Family((0, 1), 2)], after=64)


@pytest.mark.parametrize("lengths", [[3, 1, 2], [2, 2]])
def test_unpack_after_pack_is_the_same_and_zero_on_the_padding(lengths):
    packed = Packed(lengths)
    x_BTD = torch.randn(len(lengths), max(lengths), 5)
    is_token_BT = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    expected_BTD = torch.where(is_token_BT[..., None], x_BTD, 0.0)
    assert torch.equal(packed.unpack(packed.pack(x_BTD)), expected_BTD)


def call(**kw):
    x = torch.zeros(1, 4, 2, 8)
    return attention(SimpleNamespace(layer_idx=0), x, x, x, None, **({"scaling": 1.0, "layout": Packed([2])} | kw))


@pytest.mark.parametrize(
    ("kw", "words"),
    [
        ({"softcap": 30.0}, "caps its attention"),
        ({"s_aux": torch.zeros(4)}, "attention sinks"),
        ({"dropout": 0.1}, "attention dropout is 0.1"),
        ({"layout": None}, "rows would mix"),
    ],
)
def test_attention_that_is_not_computed_is_refused(kw, words):
    assert call()[0].shape == (1, 2, 4, 8)
    with pytest.raises(ModelError, match=words):
        call(**kw)
