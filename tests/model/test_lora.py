"""Adapters: off is the base model to the bit, training leaves the base alone, merging gives a plain model."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from tutelage.errors import ConfigError
from tutelage.model.attention import Packed
from tutelage.model.checkpoint import save_causal, weights_sha
from tutelage.model.lora import Adapter, LoraSettings

# peft finds GPT-2's transposed layers by itself, and says so.
pytestmark = pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False")
TOKENS = torch.arange(5, 25)


def logits(model):
    packed = Packed([8, 12])
    return model.logits(TOKENS, packed.position_N, torch.arange(20), packed)


@pytest.fixture(params=["llama", "gpt2"])
def trained(request, small_causal):
    """(base logits, base weights, model, adapter) after three steps on the adapters."""
    model = small_causal(request.param)
    base_NV = logits(model).detach()
    base = {k: v.clone() for k, v in model.hf.state_dict().items()}
    adapter = Adapter(model, LoraSettings(rank=4, alpha=8.0), seed=0)
    optimiser = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for _ in range(3):
        optimiser.zero_grad()
        logits(model).log_softmax(-1)[:, 7].mean().neg().backward()
        optimiser.step()
    return base_NV, base, model, adapter


def test_a_fresh_adapter_changes_nothing_and_is_a_function_of_its_seed(small_causal):
    model = small_causal()
    before = logits(model)
    state = torch.random.get_rng_state()
    Adapter(model, LoraSettings(rank=4), seed=1)
    assert torch.equal(state, torch.random.get_rng_state())
    assert torch.equal(logits(model), before)
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    assert trained and all("lora_" in n for n in trained)
    assert not any("lm_head" in n for n in trained)
    again = small_causal()
    Adapter(again, LoraSettings(rank=4), seed=1)
    assert weights_sha(again.state_dict()) == weights_sha(model.state_dict())
    other = small_causal()
    Adapter(other, LoraSettings(rank=4), seed=2)
    assert weights_sha(other.state_dict()) != weights_sha(model.state_dict())


@torch.no_grad()
def test_off_is_the_base_to_the_bit_and_on_comes_back(trained):
    base_NV, _, model, adapter = trained
    on_NV = logits(model)
    assert (on_NV - base_NV).abs().max() > 0.1
    with adapter.off():
        assert torch.equal(logits(model), base_NV)
    assert torch.equal(logits(model), on_NV)
    with pytest.raises(RuntimeError, match="inside"), adapter.off():
        raise RuntimeError("inside")
    assert torch.equal(logits(model), on_NV)


def test_training_goes_on_after_the_adapter_was_off(trained):
    _, _, model, adapter = trained
    before = {n for n, p in model.named_parameters() if p.requires_grad}
    with adapter.off(), torch.no_grad():
        logits(model)
    assert {n for n, p in model.named_parameters() if p.requires_grad} == before
    model.zero_grad()
    logits(model).sum().backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_training_leaves_the_base_weights_alone(trained):
    _, base, model, _ = trained
    now = {k.replace(".base_layer", ""): v for k, v in model.hf.state_dict().items() if "lora_" not in k}
    assert weights_sha(now) == weights_sha(base)


@torch.no_grad()
def test_merged_equals_on_and_is_a_plain_model_on_disk(trained, small_chat, tmp_path):
    _, base, model, adapter = trained
    on_NV = logits(model)
    merged = adapter.merge()
    torch.testing.assert_close(logits(merged), on_NV, atol=1e-5, rtol=1e-5)
    assert merged.hf.state_dict().keys() == base.keys()
    assert all(p.requires_grad for p in merged.parameters())
    save_causal(tmp_path / "model", merged, small_chat, {})
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    torch.testing.assert_close(plain(TOKENS[None, :8]).logits[0], on_NV[:8], atol=1e-5, rtol=1e-5)


def test_a_negative_rank_is_refused():
    with pytest.raises(ConfigError, match=r"lora.rank = -1"):
        LoraSettings(rank=-1)
