"""Gradient checkpointing changes no bit of a pass and of its gradients, and keeps the layers' inputs alone."""

import pytest
import torch

from tutelage.data.batch import collate
from tutelage.model import causal, fused
from tutelage.model.reward_model import RewardModel
from tutelage.native import kernels
from tutelage.train.learner import ComputeConfig, Learner
from tutelage.train.optim import OptimConfig

KINDS = ["llama", "mistral", "qwen2", "qwen3", "gpt2", "gpt_neox"]


@pytest.fixture
def batch():
    g = torch.Generator().manual_seed(0)
    rows = [torch.randint(5, 320, (n,), generator=g).tolist() for n in (40, 7, 23)]
    return collate([(r, [False] * 3 + [True] * (len(r) - 3)) for r in rows])


def kept_and_gradients(model, batch, precision, recompute):
    """Bytes kept for the way back, log-probabilities and gradients."""
    model.zero_grad(set_to_none=True)
    model.gradient_checkpointing = recompute
    kept = []
    known = {p.data_ptr() for p in model.parameters()}

    def pack(x):
        if x.data_ptr() not in known:
            kept.append(x.nbytes)
        return x

    precise = torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16")
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x), precise:
        logp_BT, _ = model.logp(batch.token_BT, batch.length_B, batch.mask_BT)
    logp_BT.sum().backward()
    return sum(kept), logp_BT.detach(), {n: p.grad.clone() for n, p in model.named_parameters()}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("kind", KINDS)
def test_no_bit_changes_and_less_is_kept(kind, precision, small_causal, batch):
    if precision == "bf16" and not kernels.is_ready():
        pytest.skip("the native kernels cannot be compiled here")
    model = small_causal(kind)
    all_kept, logp_BT, grads = kept_and_gradients(model, batch, precision, False)
    kept, found_BT, found = kept_and_gradients(model, batch, precision, True)
    assert torch.equal(found_BT, logp_BT)
    assert all(torch.equal(found[n], grads[n]) for n in grads) and len(found) == len(grads)
    assert kept < 0.6 * all_kept


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_each_layer_runs_once_more_on_the_way_back_and_never_without_one(precision, small_causal, batch, monkeypatch):
    if precision == "bf16" and not kernels.is_ready():
        pytest.skip("the native kernels cannot be compiled here")
    model, runs, layer, cls = small_causal(), [], fused.layer, type(small_causal().hf.base_model.layers[0])
    forward = cls.forward
    monkeypatch.setattr(fused, "layer", lambda *a: (runs.append(1), layer(*a))[1])
    monkeypatch.setattr(cls, "forward", lambda *a, **kw: (runs.append(1), forward(*a, **kw))[1])
    kept_and_gradients(model, batch, precision, True)
    assert len(runs) == 2 * 2  # layers, there and back
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        model.logp(batch.token_BT, batch.length_B, batch.mask_BT)
    assert len(runs) == (4 if precision == "bf16" else 6)
    assert "forward" not in vars(model.hf.base_model.layers[0])


def test_a_learner_switches_it_on_in_every_model_that_it_trains(small_causal, small_chat):
    model = RewardModel(small_causal(), small_chat)
    for wanted in (True, False):
        compute = ComputeConfig(gradient_checkpointing=wanted)
        Learner(model, lambda batch: batch.token_BT, optim=OptimConfig(), compute=compute, total_steps=1)
        assert isinstance(model.backbone, causal.CausalModel) and model.backbone.gradient_checkpointing is wanted
