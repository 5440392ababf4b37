"""Rows that share a prompt against the same rows one by one: log-probabilities, values, scores and gradients.

In float32 both agree to 1e-5 of a nat and 1e-4 of a gradient's norm. In bf16 on the kernels both are as near to the
float32 result, and within 0.02 nats of each other.
"""

import pytest
import torch

from tutelage.data.batch import collate
from tutelage.model import attention
from tutelage.model.alike import LEAST, Family
from tutelage.model.attention import Packed
from tutelage.model.reward_model import RewardModel
from tutelage.model.value_model import ValueModel
from tutelage.native import kernels

KINDS = ["llama", "mistral", "qwen2", "qwen3", "gpt2", "gpt_neox"]
FUSED = KINDS[:4]


@pytest.fixture
def batch():
    """Five answers to a prompt of 40 tokens and three to one of 17, mixed, and a row alone."""
    g = torch.Generator().manual_seed(0)

    def draw(n):
        return torch.randint(5, 320, (n,), generator=g).tolist()

    first, second = draw(40), draw(LEAST + 1)
    rows = [(p, draw(n)) for p, n in [(first, 3), (second, 30), (first, 25), ([7], 9), (first, 1), (second, 2)]]
    rows += [(first, draw(31)), (second, draw(12)), (first, draw(20))]
    made = collate([(p + a, [False] * len(p) + [True] * len(a)) for p, a in rows])
    return made, torch.rand(made.token_BT.shape, generator=g)


@pytest.fixture
def separate(monkeypatch):
    """Switches sharing off."""
    return lambda: monkeypatch.setattr(attention, "families", lambda rows: [Family((b,), 0) for b in range(len(rows))])


def logp_and_gradients(model, batch, precision):
    made, weight_BT = batch
    model.zero_grad(set_to_none=True)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        logp_BT, entropy_BT = model.logp(made.token_BT, made.length_B, made.mask_BT, temperature=0.9)
    (logp_BT * weight_BT).sum().backward()
    grads = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    return logp_BT.detach(), entropy_BT.detach(), grads


def test_the_packed_row_holds_a_prompt_once_and_gives_every_row_back(batch):
    made = batch[0]
    packed = Packed.of(made.token_BT, made.length_B)
    real_BT = torch.arange(made.token_BT.shape[1]) < made.length_B[:, None]
    assert len(packed.flat_N) == int(made.length_B.sum()) - 4 * 40 - 2 * (LEAST + 1)
    assert torch.equal(packed.unpack(packed.pack(made.token_BT)), made.token_BT.where(real_BT, 0))
    step_BT = torch.arange(made.token_BT.shape[1]).expand_as(made.token_BT)
    assert torch.equal(packed.unpack(packed.position_N), step_BT.where(real_BT, 0))


@pytest.mark.parametrize("kind", KINDS)
def test_in_float32_sharing_changes_nothing(kind, small_causal, batch, separate):
    model = small_causal(kind)
    shared = logp_and_gradients(model, batch, "fp32")
    separate()
    alone = logp_and_gradients(model, batch, "fp32")
    for a, b in zip(shared[:2], alone[:2], strict=True):
        assert (a - b).abs().max() < 1e-5
    for name, grad in alone[2].items():
        assert (shared[2][name] - grad).norm() <= 1e-4 * grad.norm(), name


@pytest.mark.parametrize("kind", FUSED)
def test_on_the_kernels_sharing_is_as_exact(kind, small_causal, batch, separate):
    if not kernels.is_ready():
        pytest.skip("the native kernels cannot be compiled here")
    model = small_causal(kind)
    shared = logp_and_gradients(model, batch, "bf16")
    separate()
    alone, exact = logp_and_gradients(model, batch, "bf16"), logp_and_gradients(model, batch, "fp32")
    assert (shared[0] - alone[0]).abs().max() < 0.02
    for i in range(2):
        assert 0 < (shared[i] - exact[i]).norm() <= 1.5 * (alone[i] - exact[i]).norm()
    for name, grad in exact[2].items():
        error, allowed = (shared[2][name] - grad).norm(), (alone[2][name] - grad).norm()
        assert error <= 1.5 * allowed + 1e-3 * grad.norm(), name


def test_values_and_scores_too(small_causal, batch, separate):
    made = batch[0]
    value, reward = ValueModel(small_causal("llama")), RewardModel(small_causal("qwen2"), None)
    torch.nn.init.normal_(value.head.weight, generator=torch.Generator().manual_seed(1))

    def both():
        before_BT = value.before_tokens(made.token_BT, made.length_B, made.mask_BT)
        return before_BT.detach(), reward.heads(made.token_BT, made.length_B, made.mask_BT).detach()

    shared = both()
    separate()
    for a, b in zip(shared, both(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
