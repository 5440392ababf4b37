"""A causal model over padded rows: log-probabilities where the mask says so, whatever the padding holds."""

import pytest
import torch

from tutelage.algo.logprob import entropy, token_logp
from tutelage.model import causal, logits
from tutelage.model.causal import CausalModel
from tutelage.model.lora import Adapter, LoraSettings

LENGTHS = [6, 9, 3]


def problem(width=9, fill=0):
    g = torch.Generator().manual_seed(0)
    token_BT = torch.full((3, width), fill)
    mask_BT = torch.zeros(3, width, dtype=torch.bool)
    for i, n in enumerate(LENGTHS):
        token_BT[i, :n] = torch.randint(5, 320, (n,), generator=g)
        mask_BT[i, 2:n] = True
    mask_BT[1, 4] = False  # a hole
    return token_BT, torch.tensor(LENGTHS), mask_BT


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_logp_and_entropy_are_those_of_a_plain_forward_of_each_row(kind, temperature, small_hf, small_causal):
    token_BT, length_B, mask_BT = problem()
    logp_BT, entropy_BT = small_causal(kind).logp(token_BT, length_B, mask_BT, temperature=temperature)
    plain = small_hf(kind)
    for i, n in enumerate(LENGTHS):
        with torch.no_grad():
            logits_TV = plain(input_ids=token_BT[i : i + 1, :n]).logits[0, :-1]
        for t in range(1, token_BT.shape[1]):
            if mask_BT[i, t]:
                expected = token_logp(logits_TV[t - 1], token_BT[i, t], temperature=temperature)
                torch.testing.assert_close(logp_BT[i, t], expected, atol=1e-5, rtol=1e-5)
                spread = entropy(logits_TV[t - 1], temperature=temperature)
                torch.testing.assert_close(entropy_BT[i, t], spread, atol=1e-5, rtol=1e-5)
    assert logp_BT[~mask_BT].eq(0).all() and entropy_BT[~mask_BT].eq(0).all()
    assert logp_BT[mask_BT].lt(0).all()


@pytest.mark.parametrize("kind", ["llama", "mistral", "qwen2", "qwen3", "gpt2", "gpt_neox"])
def test_logits_that_are_too_many_to_hold_are_made_by_slices(kind, small_causal, monkeypatch):
    model, asked = small_causal(kind), problem()
    expected = [*model.logp(*asked, temperature=0.7), *model.logp_and_hidden(*asked)]
    expected[0].sum().backward()
    grads = {n: p.grad.clone() for n, p in model.named_parameters()}
    model.zero_grad()
    monkeypatch.setattr(causal, "MOST_LOGITS", 700)
    monkeypatch.setattr(logits, "MOST_LOGITS", 700)  # two rows of 336
    monkeypatch.setattr(CausalModel, "logits", lambda *a: pytest.fail("all logits were made"))
    found = [*model.logp(*asked, temperature=0.7), *model.logp_and_hidden(*asked)]
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, atol=3e-5, rtol=1e-5)
    found[0].sum().backward()
    for n, p in model.named_parameters():
        torch.testing.assert_close(p.grad, grads[n], atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_neither_the_amount_of_padding_nor_what_it_holds_matters(small_causal):
    model = small_causal()
    one, two, three = (model.logp(*problem(width, fill)) for width, fill in [(9, 0), (9, 319), (40, 5)])
    assert torch.equal(one[0], two[0])
    assert torch.equal(one[0], three[0][:, :9])
    assert three[0][:, 9:].eq(0).all()


@torch.no_grad()
def test_batch_mates_do_not_matter(small_causal):
    model, (token_BT, length_B, mask_BT) = small_causal(), problem()
    together = model.logp(token_BT, length_B, mask_BT)[0]
    for i in range(3):
        alone = model.logp(token_BT[i : i + 1], length_B[i : i + 1], mask_BT[i : i + 1])[0]
        torch.testing.assert_close(together[i], alone[0], atol=1e-5, rtol=1e-5)


def test_gradient_reaches_the_weights_through_the_masked_tokens_alone(small_causal):
    model, (token_BT, length_B, mask_BT) = small_causal(), problem()
    logp_BT, _ = model.logp(token_BT, length_B, mask_BT)
    logp_BT[~mask_BT].sum().backward()
    assert all(p.grad is None or p.grad.eq(0).all() for p in model.parameters())
    logp_BT, _ = model.logp(token_BT, length_B, mask_BT)
    logp_BT.sum().backward()
    assert all(p.grad.abs().max() > 0 for p in model.parameters())


def test_the_model_stays_in_evaluation_mode(small_causal):
    model = small_causal("gpt2", resid_pdrop=0.5, embd_pdrop=0.5)
    model.train()
    assert not any(m.training for m in model.modules())
    torch.nn.Sequential(model).train()
    assert not any(m.training for m in model.modules())
    with torch.no_grad():
        assert torch.equal(model.logp(*problem())[0], model.logp(*problem())[0])


def test_positions_that_were_replaced_are_read_with_and_without_gradient(small_causal):
    model = small_causal("gpt2")
    token_BT, length_B = torch.tensor([[5, 6, 7, 8, 9]]), torch.tensor([5])
    mask_BT = torch.arange(5)[None] > 0

    def logp():
        with torch.autocast("cpu", torch.bfloat16):
            return model.logp(token_BT, length_B, mask_BT)[0].detach()

    with torch.no_grad():
        before_BT = logp()
        model.hf.transformer.wpe.weight = torch.nn.Parameter(model.hf.transformer.wpe.weight * 2)
        scored_BT = logp()
    torch.testing.assert_close(scored_BT, logp(), atol=1e-3 if model.is_fusable else 0.1, rtol=0)
    assert not torch.allclose(scored_BT, before_BT, atol=0.2)


def test_contents_are_equal_while_nothing_is_written_and_no_longer(small_causal):
    model = small_causal()
    Adapter(model, LoraSettings(rank=2), seed=0)
    layer = model.hf.base_model.layers[0].self_attn.q_proj
    weight, seen = layer.base_layer.weight, [model.contents()]
    assert model.contents() == seen[0] and model.contents() is not seen[0]
    with torch.no_grad():
        for change in (
            lambda: weight.mul_(1.0),
            lambda: setattr(weight, "data", weight.data.clone()),
            lambda: setattr(layer.base_layer, "weight", torch.nn.Parameter(weight)),
            lambda: layer.enable_adapters(False),
            lambda: layer.scaling.update(default=3.0),
            model.forget_copies,
        ):
            change()
            assert all(model.contents() != before for before in seen)
            seen.append(model.contents())
    assert model.contents() == seen[-1]
