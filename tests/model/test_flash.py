"""Attention without padding against attention on padded blocks: the same answers and gradients, whatever rows share.

N packed tokens, K keys, H query heads, G key heads, D head width.
"""

import pytest
import torch

from tutelage.model import flash
from tutelage.model.alike import Family
from tutelage.model.attention import Packed

LENGTHS = [5, 9, 1, 12, 7, 6]
SHARED = [Family((0, 3, 4), 4), Family((1,), 0), Family((2,), 0), Family((5,), 0)]


def plain(query_NHD, key_KGD, value_KGD, query_S1, key_S1, longest_query, longest_key, scaling):
    """What the kernel computes, span by span: the last query sees all keys of its span, each before it one fewer."""
    out, borders = [], zip(query_S1[:-1], query_S1[1:], key_S1[:-1], key_S1[1:], strict=True)
    for q0, q1, k0, k1 in borders:
        q, k, v = query_NHD[q0:q1], key_KGD[k0:k1], value_KGD[k0:k1]
        shared = q.shape[1] // k.shape[1]
        k, v = k.repeat_interleave(shared, dim=1), v.repeat_interleave(shared, dim=1)
        assert len(q) <= longest_query and len(k) <= longest_key
        sees = torch.ones(len(q), len(k)).tril(len(k) - len(q)) > 0
        score = torch.einsum("qhd,khd->hqk", q, k) * scaling
        weight = score.masked_fill(~sees.to(score.device), -torch.inf).softmax(dim=-1)
        out.append(torch.einsum("hqk,khd->qhd", weight, v))
    return torch.cat(out)


def test_the_plain_kernel_on_a_case_by_hand():
    # One head of width 1, queries 0: means of the values seen. Two queries and three keys: the first sees two of them.
    value = torch.tensor([1.0, 3.0, 8.0])[:, None, None]
    out = plain(
        torch.zeros(2, 1, 1), torch.zeros(3, 1, 1), value, torch.tensor([0, 2]), torch.tensor([0, 3]), 2, 3, 1.0
    )
    assert out.flatten().tolist() == [2.0, 4.0]


@pytest.mark.parametrize("families", [None, SHARED])
def test_spans_see_what_padded_rows_see(families, monkeypatch):
    packed, g = Packed(LENGTHS, families=families), torch.Generator().manual_seed(0)
    n = len(packed.flat_N)
    qkv = [torch.randn(heads, n, 8, generator=g, requires_grad=True) for heads in (4, 2, 2)]
    slope = torch.randn(n, 4, 8, generator=g)
    padded = packed.attend(0, *qkv, 0.3)
    expected = torch.autograd.grad((padded * slope).sum(), qkv)
    monkeypatch.setattr(flash, "serves", lambda value: True)
    monkeypatch.setattr(flash, "kernel", plain)
    found = packed.attend(0, *qkv, 0.3)
    torch.testing.assert_close(found, padded, atol=1e-5, rtol=1e-5)
    for a, b in zip(torch.autograd.grad((found * slope).sum(), qkv), expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_a_shared_trunk_is_asked_once_and_its_keys_serve_every_branch():
    spans = Packed(LENGTHS, families=SHARED)._spans
    # Trunk of 4, branches of 1, 8 and 3 behind it, then three rows alone.
    assert spans.query_S1.tolist() == [0, 4, 5, 13, 16, 25, 26, 32]
    assert spans.key_S1.diff().tolist() == [4, 5, 12, 7, 9, 1, 6]
    assert spans.where_K[4:9].tolist() == [0, 1, 2, 3, 4] and spans.where_K[9:21].tolist() == [
        0,
        1,
        2,
        3,
        *range(5, 13),
    ]
    assert (spans.longest_query, spans.longest_key) == (9, 12)
    assert Packed(LENGTHS)._spans.where_K is None


def test_the_processor_and_float32_keep_to_padded_blocks():
    assert not flash.serves(torch.zeros(3, 2, 64, dtype=torch.bfloat16))


@pytest.mark.gpu
@pytest.mark.parametrize("families", [None, SHARED])
def test_the_kernel_of_torch_sees_what_spans_say(families):
    packed, g = Packed(LENGTHS, families=families, device=torch.device("cuda")), torch.Generator().manual_seed(0)
    n = len(packed.flat_N)
    qkv = [torch.randn(heads, n, 64, generator=g).cuda().bfloat16().requires_grad_() for heads in (4, 2, 2)]
    assert flash.serves(qkv[2])
    slope = torch.randn(n, 4, 64, generator=g).cuda()
    found = packed.attend(0, *qkv, 0.125)
    wide = [x.detach().float().requires_grad_() for x in qkv]
    exact = packed.attend(0, *wide, 0.125)
    torch.testing.assert_close(found.float(), exact, atol=2e-2, rtol=2e-2)
    grads = torch.autograd.grad((found.float() * slope).sum(), qkv)
    for a, b in zip(grads, torch.autograd.grad((exact * slope).sum(), wide), strict=True):
        torch.testing.assert_close(a.float(), b, atol=5e-2, rtol=5e-2)
