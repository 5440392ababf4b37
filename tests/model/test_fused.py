"""The fused passes against `transformers`, in bf16 and in float32: as near the truth, and from the same weights.

N packed tokens, V vocabulary.
"""

import copy

import pytest
import torch
from peft import LoraConfig
from peft.tuners.lora import LoraModel

from tutelage.data.batch import collate
from tutelage.model import fused
from tutelage.model.attention import Packed
from tutelage.model.fused import Trunk, can_fuse, fits
from tutelage.model.lora import Adapter, LoraSettings
from tutelage.native import kernels
from tutelage.train.optim import OptimConfig, build_adamw

KINDS = ["llama", "mistral", "qwen2", "qwen3", "gpt2", "gpt_neox"]
LENGTHS = [5, 33, 1, 70]
SETTINGS = [{}, {"hidden_size": 64, "intermediate_size": 96, "head_dim": 16, "tie_word_embeddings": True}]


@pytest.fixture(autouse=True, scope="module")
def _compiled():
    if not kernels.is_ready():
        pytest.skip("the native kernels cannot be compiled here")


@pytest.fixture(params=SETTINGS, ids=["narrow", "tied"])
def make(request, small_causal):
    """(kind) -> a model whose biases, if it has some, are not 0."""

    def made(kind, **settings):
        model = small_causal(kind, **({"max_position_embeddings": 128} | request.param | settings))
        with torch.no_grad():
            for name, p in model.named_parameters():
                if name.endswith(("q_proj.weight", "k_proj.weight", "c_attn.weight", "query_key_value.weight")):
                    p.mul_(0.5)  # else every head looks at one token alone
        return model

    return made


def batch(lengths=LENGTHS, seed=0):
    g = torch.Generator().manual_seed(seed)
    rows = [torch.randint(5, 320, (n,), generator=g).tolist() for n in lengths]
    made = collate([(row, [False] + [True] * (len(row) - 1)) for row in rows])
    weight_BT = torch.rand(made.token_BT.shape, generator=g)
    return made, weight_BT


def run(model, precision, monkeypatch=None, data=None, lengths=LENGTHS):
    """Log-probabilities, entropies and the gradient of every parameter of one pass."""
    made, weight_BT = data or batch(lengths)
    model.zero_grad(set_to_none=True)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision != "fp32"), pytest.MonkeyPatch.context() as patch:
        if precision == "bf16 of transformers":
            patch.setattr(kernels, "is_ready", lambda: False)
        logp_BT, entropy_BT = model.logp(made.token_BT, made.length_B, made.mask_BT, temperature=0.9)
    (logp_BT * weight_BT).sum().backward()
    grads = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    return logp_BT.detach(), entropy_BT.detach(), grads


@torch.no_grad()
def said(model):
    """Log-probabilities of a bf16 pass without gradient."""
    made, _ = batch()
    with torch.autocast("cpu", torch.bfloat16):
        return model.logp(made.token_BT, made.length_B, made.mask_BT, temperature=0.9)[0]


@pytest.fixture
def fused_calls(monkeypatch):
    count = []
    layer = fused.layer
    monkeypatch.setattr(fused, "layer", lambda *a, **k: (count.append(1), layer(*a, **k))[1])
    return count


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_further_from_float32_than_under_autocast(kind, make, fused_calls):
    model = make(kind)
    exact, theirs = run(model, "fp32"), run(model, "bf16 of transformers")
    assert not fused_calls
    ours = run(model, "bf16")
    assert len(fused_calls) == 2
    for i in range(2):
        error, allowed = ((x[i] - exact[i]).norm() for x in (ours, theirs))
        assert 0 < error <= 1.5 * allowed
    assert ours[2].keys() == theirs[2].keys() == {n for n, _ in model.named_parameters()}
    for name, grad in exact[2].items():
        error, allowed = ((x[2][name] - grad).norm() for x in (ours, theirs))
        assert error <= 1.5 * allowed + 1e-3 * grad.norm(), (
            f"{name}: {error / grad.norm():.4f} {allowed / grad.norm():.4f}"
        )
        assert error <= 0.1 * grad.norm(), name


@pytest.mark.parametrize("kind", KINDS)
def test_hidden_states_and_logits_too(kind, make):
    model, packed = make(kind), Packed(LENGTHS)
    token_N = torch.randint(5, 320, (sum(LENGTHS),), generator=torch.Generator().manual_seed(0))
    keep_M = torch.tensor([4, 40, 107])
    with torch.no_grad():
        exact = [
            model.hidden(token_N, packed.position_N, packed),
            model.logits(token_N, packed.position_N, keep_M, packed),
        ]
        with torch.autocast("cpu", torch.bfloat16):
            ours = [
                model.hidden(token_N, packed.position_N, packed),
                model.logits(token_N, packed.position_N, keep_M, packed),
            ]
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(kernels, "is_ready", lambda: False)
                theirs = [
                    model.hidden(token_N, packed.position_N, packed),
                    model.logits(token_N, packed.position_N, keep_M, packed),
                ]
    for a, b, c in zip(ours, theirs, exact, strict=True):
        assert a.dtype == torch.float32 and a.shape == b.shape
        assert 0 < (a - c).norm() <= 1.5 * (b - c).norm()


@pytest.mark.parametrize("kind", KINDS)
def test_rows_that_nobody_reads_are_left_out_of_the_last_layer_and_nothing_else_changes(kind, make):
    model, packed = make(kind), Packed(LENGTHS)
    token_N = torch.randint(5, 320, (sum(LENGTHS),), generator=torch.Generator().manual_seed(0))
    keep_M = torch.tensor([40, 4, 40, 107])  # in no order, and one twice
    weight_MD = torch.randn(4, model.width, generator=torch.Generator().manual_seed(1))

    def grads(hidden_MD):
        model.zero_grad()
        (hidden_MD * weight_MD).sum().backward()
        return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}

    with torch.autocast("cpu", torch.bfloat16):
        whole_MD = model.hidden(token_N, packed.position_N, packed)[keep_M]
        few_MD = model.hidden(token_N, packed.position_N, packed, keep_M)
        all_ND = model.hidden(token_N, packed.position_N, packed, torch.arange(sum(LENGTHS)))
        with torch.no_grad():
            unlearned_MD = model.hidden(token_N, packed.position_N, packed, keep_M)
    assert torch.equal(few_MD, whole_MD) and torch.equal(unlearned_MD, whole_MD) and torch.equal(all_ND[keep_M], few_MD)
    for (name, few), whole in zip(grads(few_MD).items(), grads(whole_MD).values(), strict=True):
        # The row that is kept twice flows back as one sum, rounded to bf16 once.
        assert (few - whole).norm() <= 5e-3 * whole.norm(), name


@pytest.mark.parametrize("kind", KINDS)
def test_packed_rows_equal_each_row_alone_to_rounding(kind, make):
    model, (made, weight_BT) = make(kind), batch()
    together = run(model, "bf16", data=(made, weight_BT))
    total = {n: torch.zeros_like(g) for n, g in together[2].items()}
    for i, n in enumerate(LENGTHS):
        alone = run(model, "bf16", data=(made.rows(torch.tensor([i])), weight_BT[i : i + 1]))
        torch.testing.assert_close(alone[0][0, :n], together[0][i, :n], atol=0.03, rtol=0.01)
        for name, grad in alone[2].items():
            total[name] += grad
    for name, grad in total.items():
        assert (grad - together[2][name]).norm() <= 0.02 * grad.norm(), name


@pytest.mark.parametrize("kind", KINDS)
def test_two_passes_give_the_same_bits_with_or_without_gradient(kind, make):
    model = make(kind)
    one, two = run(model, "bf16"), run(model, "bf16")
    made, _ = batch()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        three = model.logp(made.token_BT, made.length_B, made.mask_BT, temperature=0.9)
    assert torch.equal(one[0], two[0]) and torch.equal(one[0], three[0]) and torch.equal(one[1], three[1])
    assert all(torch.equal(one[2][name], two[2][name]) for name in one[2])


def test_logp_and_hidden_gives_what_the_head_reads(make):
    model, (made, _) = make("llama"), batch()
    with torch.autocast("cpu", torch.bfloat16):
        logp_BT, entropy_BT, hidden_MD = model.logp_and_hidden(made.token_BT, made.length_B, made.mask_BT)
        expected = model.logp(made.token_BT, made.length_B, made.mask_BT)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(kernels, "is_ready", lambda: False)
            theirs_MD = model.logp_and_hidden(made.token_BT, made.length_B, made.mask_BT)[2]
    assert torch.equal(logp_BT, expected[0]) and torch.equal(entropy_BT, expected[1])
    assert hidden_MD.shape == theirs_MD.shape == (made.mask_BT.sum(), model.width)
    assert (hidden_MD - theirs_MD).norm() < 0.05 * theirs_MD.norm()
    hidden_MD.sum().backward()
    assert model.hf.model.embed_tokens.weight.grad.abs().max() > 0


CHANGES = {
    "optimiser": lambda m: torch.optim.AdamW(m.parameters(), lr=0.5, foreach=True).step(),
    "our optimiser": lambda m: build_adamw(dict(m.named_parameters()), OptimConfig(lr=0.5)).step(),
    "load_state_dict": lambda m: m.load_state_dict({n: t * 0.5 for n, t in m.state_dict().items()}),
    "copy_": lambda m: [p.copy_(p * 0.5) for p in m.parameters()],
    "mul_": lambda m: [p.mul_(0.5) for p in m.parameters()],
    "new storage": lambda m: [setattr(p, "data", p.data * 0.5) for p in m.parameters()],
    "new parameter": lambda m: setattr(
        m.hf.model.layers[0].mlp.up_proj, "weight", torch.nn.Parameter(m.hf.model.layers[0].mlp.up_proj.weight * 2)
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_of_the_weights_is_seen_by_the_next_pass(change, make):
    model = make("llama")
    before = run(model, "bf16")
    with torch.no_grad():
        CHANGES[change](model)
    after = run(model, "bf16")
    fresh = copy.deepcopy(model)
    fresh._trunk = None
    assert torch.equal(after[0], run(fresh, "bf16")[0])
    assert not torch.allclose(before[0], after[0], atol=0.01)


def test_unchanged_weights_are_converted_once(make):
    model = make("qwen2")
    run(model, "bf16")
    made = {name: m.tensor for name, m in model._trunk._cache._made.items()}
    run(model, "bf16")
    assert all(m.tensor is made[name] for name, m in model._trunk._cache._made.items())
    # Of each layer five weights, a bias, and four weights for the backward pass; and the head, both ways.
    assert len(made) == 2 * (5 + 1 + 4) + 2


def test_frozen_weights_get_no_gradient_and_cost_no_product(make, monkeypatch):
    model = make("qwen3")
    model.requires_grad_(False)
    model.hf.model.layers[1].mlp.down_proj.weight.requires_grad_(True)
    count = []
    product = kernels.weight_gradient
    monkeypatch.setattr(kernels, "weight_gradient", lambda *a: (count.append(1), product(*a))[1])
    grads = run(model, "bf16")[2]
    assert list(grads) == ["hf.model.layers.1.mlp.down_proj.weight"] and len(count) == 1
    monkeypatch.undo()
    model.requires_grad_(True)
    every = run(model, "bf16")[2]
    assert torch.equal(every["hf.model.layers.1.mlp.down_proj.weight"], *grads.values())


def test_a_wholly_frozen_model_builds_no_graph(make):
    model, (made, _) = make("llama").requires_grad_(False), batch()
    with torch.autocast("cpu", torch.bfloat16):
        logp_BT, _ = model.logp(made.token_BT, made.length_B, made.mask_BT)
    assert not logp_BT.requires_grad


def passes(model, layout=None, position_N=None):
    layout = layout or Packed([3, 2])
    with torch.autocast("cpu", torch.bfloat16):
        return can_fuse(model.hf, layout.position_N if position_N is None else position_N, layout)


def test_other_passes_are_left_to_transformers(make, small_causal):
    model, packed = make("llama"), Packed([3, 2])
    assert passes(model)
    assert not can_fuse(model.hf, packed.position_N, packed)  # float32
    assert not passes(model, Packed([3, 2], causal=False))
    assert not passes(model, packed, packed.position_N + 1)
    for kind, settings in (
        ("gpt2", {"activation_function": "relu"}),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}),
        ("gpt_neox", {"hidden_act": "relu"}),
    ):
        assert passes(small_causal(kind)) and not passes(small_causal(kind, **settings)), settings
    for settings in ({"attention_bias": True}, {"mlp_bias": True}, {"hidden_act": "gelu"}):
        assert not fits(make("llama", **settings).hf), settings
    dynamic = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}
    assert not fits(make("llama", rope_parameters=dynamic).hf)
    assert not fits(make("llama").to(torch.bfloat16).hf)


@pytest.fixture
def adapted(make):
    """(kind) -> a model with an adapter that changes much, the adapter, and what the model said before."""

    def made(kind):
        model = make(kind)
        before_BT = said(model)
        adapter = Adapter(model, LoraSettings(rank=4, alpha=8), seed=0)
        g = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for name, p in model.named_parameters():
                if "lora_B" in name:
                    p.copy_(torch.randn(p.shape, generator=g) * 0.1)
        return model, adapter, before_BT

    return made


@pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False")
@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_runs_on_the_kernels_as_the_weights_that_it_amounts_to(kind, adapted, fused_calls):
    model, adapter, before_BT = adapted(kind)
    exact, theirs = run(model, "fp32"), run(model, "bf16 of transformers")
    del fused_calls[:]
    ours = run(model, "bf16")
    assert len(fused_calls) == 2
    assert (exact[0] - before_BT).norm() > 0.05 * exact[0].norm()
    for i in range(2):
        error, allowed = ((x[i] - exact[i]).norm() for x in (ours, theirs))
        assert 0 < error <= 1.5 * allowed
    assert ours[2].keys() == exact[2].keys() and all("lora_" in n for n in ours[2])
    for name, grad in exact[2].items():
        error, allowed = ((x[2][name] - grad).norm() for x in (ours, theirs))
        assert error <= 1.5 * allowed + 0.02 * grad.norm() and error <= 0.1 * grad.norm(), name
    with adapter.off():
        assert torch.equal(said(model), before_BT)
    assert torch.equal(said(model), ours[0])
    torch.testing.assert_close(said(adapter.merge()), ours[0], atol=1e-6, rtol=1e-6)


def test_each_step_of_an_adapter_makes_its_copies_anew_and_none_of_the_bases(adapted):
    model, adapter, _ = adapted("llama")
    named = {n: p for n, p in model.named_parameters() if p.requires_grad}
    optimizer = build_adamw(named, OptimConfig(lr=0.05))
    with adapter.off():
        off_BT = said(model)
    before = run(model, "bf16")
    made = {name: m.tensor for name, m in model._trunk._cache._made.items()}
    optimizer.step()
    after = run(model, "bf16")
    with adapter.off():
        assert torch.equal(said(model), off_BT)
    for name, copied in model._trunk._cache._made.items():
        assert (copied.tensor is made[name]) == ("adapted" not in name), name
    model.forget_copies()
    assert torch.equal(run(model, "bf16")[0], after[0])
    assert not torch.allclose(before[0], after[0], atol=0.01)


def test_an_adapter_of_another_make_is_left_to_transformers(adapted):
    model, *_ = adapted("llama")
    assert passes(model)
    layer = model.hf.model.layers[1].mlp.up_proj
    layer.lora_dropout["default"] = torch.nn.Dropout(0.1)
    assert not passes(model)
    layer.lora_dropout["default"] = torch.nn.Identity()
    layer.lora_B["default"].to(torch.bfloat16)
    assert not passes(model)


@pytest.mark.filterwarnings("ignore")  # peft warns of tied weights
@pytest.mark.parametrize(("kind", "target"), [("llama", "lm_head"), ("llama", "embed_tokens"), ("gpt2", "wpe")])
def test_an_adapter_on_head_or_embedding_is_left_to_transformers(kind, target, small_causal):
    model = small_causal(kind)
    assert passes(model)
    LoraModel(model.hf, LoraConfig(r=4, target_modules=[target]), "default")
    assert not passes(model)


def test_longer_rows_and_scaled_rotations_follow_the_model(make):
    scaled = {"rope_type": "llama3", "rope_theta": 1e4, "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
              "original_max_position_embeddings": 32}  # fmt: skip
    model = make("llama", rope_parameters=scaled)
    for lengths in ([3], [90], [20]):
        exact, ours = run(model, "fp32", lengths=lengths), run(model, "bf16", lengths=lengths)
        assert (ours[0] - exact[0]).norm() < 0.02 * exact[0].norm()


def test_a_copied_model_has_weights_of_its_own(make):
    model = make("llama")
    before = run(model, "bf16")
    other = copy.deepcopy(model)
    with torch.no_grad():
        for p in other.parameters():
            p.mul_(0.5)
    assert not torch.allclose(run(other, "bf16")[0], before[0], atol=0.01)
    assert torch.equal(run(model, "bf16")[0], before[0])
    assert isinstance(other._trunk, Trunk) and other._trunk.hf is other.hf


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("gpt_neox", {"use_parallel_residual": False}),
        ("gpt_neox", {"attention_bias": False}),
        ("gpt_neox", {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 1.0}}),
        ("gpt_neox", {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.75},
                      "hidden_act": "gelu_new"}),
        ("gpt2", {"activation_function": "gelu", "scale_attn_weights": False, "n_inner": 40}),
    ],
)  # fmt: skip
def test_what_a_gpt_may_vary_is_followed(kind, settings, make):
    model = make(kind, **settings)
    exact, theirs, ours = run(model, "fp32"), run(model, "bf16 of transformers"), run(model, "bf16")
    assert passes(model)
    assert 0 < (ours[0] - exact[0]).norm() <= 1.5 * (theirs[0] - exact[0]).norm()
    for name, grad in exact[2].items():
        assert (ours[2][name] - grad).norm() <= 0.1 * grad.norm(), name
