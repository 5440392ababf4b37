"""What the plan of memory reads from models, what a pass really keeps, and what is said where memory is short."""

import pytest
import torch
from transformers import GPT2Config

from tutelage.data.batch import TokenBatch
from tutelage.model.load import new_llama
from tutelage.model.lora import Adapter, LoraSettings
from tutelage.native.head import slice_rows
from tutelage.rounds.memory_notice import announce, need_of_learner, shape_of, shortage
from tutelage.rounds.memory_plan import Plan, Shape, activations
from tutelage.train.learner import ComputeConfig
from tutelage.train.machines import policy_learner
from tutelage.train.optim import OptimConfig

CPU = torch.device("cpu")
ROWS, LENGTH, PROMPT, VOCABULARY = 8, 64, 24, 500


def learner_of(precision):
    model = new_llama(vocabulary=VOCABULARY, width=64, layers=3, heads=4, window=LENGTH, eos_id=0, seed=0)
    compute = ComputeConfig(precision=precision)
    learner = policy_learner(model, temperature=1.0, optim=OptimConfig(), compute=compute, total_steps=1, ema_decay=0.9)
    return model, compute, learner


def kept_bytes(learner, batch):
    """What a forward pass keeps for its way back, each memory once and weights left out."""
    weights = {p.untyped_storage().data_ptr() for p in learner.module.parameters()}
    kept = {}

    def keep(t):
        if t.untyped_storage().data_ptr() not in weights:
            # Cut from one piece, memory of the kernels has its own addresses.
            kept[t.data_ptr()] = max(kept.get(t.data_ptr(), 0), t.numel() * t.element_size())
        return t

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        held = learner._pass(batch)  # the very pass that a step makes
    assert held.requires_grad
    return sum(kept.values())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_pass_keeps_about_what_was_planned(precision):
    model, compute, learner = learner_of(precision)
    token_BT = torch.randint(1, VOCABULARY, (ROWS, LENGTH), generator=torch.Generator().manual_seed(0))
    mask_BT = torch.arange(LENGTH).expand(ROWS, LENGTH) >= PROMPT
    kept = kept_bytes(learner, TokenBatch(token_BT, torch.full((ROWS,), LENGTH), mask_BT))
    share = 1 - PROMPT / LENGTH
    need = need_of_learner(learner, model, compute, n_tokens=ROWS * LENGTH, share_chosen=share)
    assert (need.tokens, need.chosen) == (ROWS * LENGTH, ROWS * (LENGTH - PROMPT))
    assert need.fused is (precision == "bf16" and model.is_fusable)
    assert kept / 1.5 < activations(need) - way_back(need) < kept * 1.5


def test_what_lies_under_adapters_is_counted():
    model, compute, _ = learner_of("bf16")
    n = sum(p.numel() for name, p in model.named_parameters() if "proj" in name)
    Adapter(model, LoraSettings(rank=4), seed=0)
    learner = policy_learner(model, temperature=1.0, optim=OptimConfig(), compute=compute, total_steps=1)
    need = need_of_learner(learner, model, compute, n_tokens=9)
    assert need.adapted == n > 10 * need.trained[0] > 0
    assert need_of_learner(learner_of("bf16")[2], model, compute, n_tokens=9).adapted == 0


def way_back(need):
    """What the plan adds for the steps themselves, which nothing keeps: slices of logits and the layer under way."""
    s = need.shape
    if need.fused:
        return min(need.chosen, slice_rows(s.vocabulary)) * 2 * s.vocabulary + need.tokens * (
            12 * s.width + 2 * (4 * s.width + 4 * s.inner + 3 * s.width)
        )
    element = 2 if need.half else 4
    return need.tokens * element * 4 * s.inner + s.vocabulary * need.chosen * (element + 8)


def test_a_learner_counts_its_weights_its_average_and_a_microbatch_at_most():
    model, _, learner = learner_of("fp32")
    n = sum(p.numel() for p in model.parameters())
    need = need_of_learner(learner, model, ComputeConfig(microbatch_tokens=100), n_tokens=9999, copies=1)
    assert (need.parameters, need.trained, need.copies, need.tokens, need.chosen) == ((n,), (n,), 2, 100, 0)


def test_shapes_are_read_from_configurations_of_any_family():
    assert shape_of(learner_of("fp32")[0].hf.config) == Shape(
        layers=3, width=64, inner=learner_of("fp32")[0].hf.config.intermediate_size, heads=4, groups=4, head_width=16,
        vocabulary=VOCABULARY,
    )  # fmt: skip
    gpt2 = shape_of(GPT2Config(n_embd=48, n_layer=2, n_head=3, vocab_size=99))
    assert gpt2 == Shape(layers=2, width=48, inner=192, heads=3, groups=3, head_width=16, vocabulary=99)


def test_too_little_memory_is_said_and_nothing_is_refused(capsys):
    small = Plan((("program", 2_000_000_000),))
    assert shortage(small, 2_000_000_000) == ""
    assert shortage(small, 1_900_000_000).startswith("only 1.9 GB are free here")
    model, compute, learner = learner_of("fp32")
    announce(need_of_learner(learner, model, compute, n_tokens=10**12), CPU)
    assert "memory: about" in (told := capsys.readouterr().err) and "!" not in told
    endless = ComputeConfig(microbatch_tokens=10**12)
    announce(need_of_learner(learner, model, endless, n_tokens=10**12), CPU)
    assert "are free here, so the run may be ended by the system" in capsys.readouterr().err
