"""The critic: it starts as the reward model or at nothing, and values a token by what stood before it."""

import pytest
import torch

from tutelage.data.batch import collate
from tutelage.model.reward_model import RewardModel
from tutelage.model.value_model import PolicyWithValue, ValueModel


@pytest.fixture
def batch():
    g = torch.Generator().manual_seed(0)
    rows = [torch.randint(5, 320, (n,), generator=g).tolist() for n in (6, 9, 3)]
    return collate([(r, [False] * 2 + [True] * (len(r) - 2)) for r in rows])


@torch.no_grad()
def test_a_critic_from_a_reward_model_gives_the_score_at_the_last_token(small_causal, small_chat, batch):
    reward = RewardModel(small_causal(), small_chat, aspects={"helpful": 1.0, "kind": -0.5}, seed=1)
    reward.head.bias.copy_(torch.tensor([0.3, -0.2]))
    reward.normalise(mean=0.7, std=2.5)
    score_B = reward.combine(reward.heads(batch.token_BT, batch.length_B, batch.mask_BT))
    value_BT = ValueModel.from_reward(reward).at_tokens(batch.token_BT, batch.length_B)
    last_B = value_BT.gather(1, batch.length_B[:, None] - 1).squeeze(1)
    torch.testing.assert_close(last_B, score_B, atol=1e-5, rtol=0)
    assert score_B.std() > 0.1


@pytest.mark.parametrize("form", [{"read": "answer"}, {"weigh": "prompt"}])
def test_a_critic_takes_no_head_that_means_something_else(small_causal, small_chat, form):
    reward = RewardModel(small_causal(), small_chat, aspects={"a": 0.5, "b": 0.5}, **form)
    torch.nn.init.ones_(reward.head.weight)
    critic = ValueModel.from_reward(reward)
    assert critic.backbone is reward.backbone and critic.head.weight.eq(0).all()


@torch.no_grad()
def test_a_fresh_critic_values_everything_at_0(small_causal, batch):
    assert ValueModel(small_causal()).at_tokens(batch.token_BT, batch.length_B).eq(0).all()


@torch.no_grad()
def test_a_token_is_valued_by_what_stood_before_it(small_causal, small_chat, batch):
    critic = ValueModel.from_reward(RewardModel(small_causal(), small_chat))
    at_BT = critic.at_tokens(batch.token_BT, batch.length_B)
    before_BT = critic.before_tokens(batch.token_BT, batch.length_B, batch.mask_BT)
    for i, n in enumerate(batch.length_B.tolist()):
        torch.testing.assert_close(before_BT[i, 2:n], at_BT[i, 1 : n - 1], atol=1e-6, rtol=1e-5)
        assert before_BT[i, :2].eq(0).all() and before_BT[i, n:].eq(0).all()
        assert at_BT[i, n:].eq(0).all()
    # The token itself, and all that follow, do not move its value.
    other_BT = batch.token_BT.clone()
    other_BT[:, 2] = (other_BT[:, 2] + 1) % 300
    moved_BT = critic.before_tokens(other_BT, batch.length_B, batch.mask_BT)
    torch.testing.assert_close(moved_BT[:, :3], before_BT[:, :3], atol=1e-6, rtol=1e-5)
    assert (moved_BT - before_BT)[:2, 3:6].abs().min() > 1e-4


@torch.no_grad()
def test_padding_does_not_change_a_value(small_causal, small_chat, batch):
    critic = ValueModel.from_reward(RewardModel(small_causal(), small_chat))
    wide_BT = torch.nn.functional.pad(batch.token_BT, (0, 7), value=300)
    wide = critic.at_tokens(wide_BT, batch.length_B)
    assert torch.equal(wide[:, :9], critic.at_tokens(batch.token_BT, batch.length_B))
    assert wide[:, 9:].eq(0).all()


@pytest.fixture(params=["llama", "gpt2", "gpt_neox"])
def actor_critic(request, small_causal):
    joint = PolicyWithValue(small_causal(request.param))
    with torch.no_grad():
        joint.head.weight.copy_(torch.linspace(-1, 1, 32))
    return joint


@torch.no_grad()
def test_a_head_on_the_policy_reads_the_state_before_each_token(actor_critic, batch):
    three_BT3 = actor_critic.channels(batch.token_BT, batch.length_B, batch.mask_BT, temperature=0.7)
    logp_BT, entropy_BT = actor_critic.model.logp(batch.token_BT, batch.length_B, batch.mask_BT, temperature=0.7)
    critic = ValueModel(actor_critic.model)
    critic.head.load_state_dict(actor_critic.head.state_dict())
    value_BT = critic.before_tokens(batch.token_BT, batch.length_B, batch.mask_BT)
    for i, expected_BT in enumerate((logp_BT, entropy_BT, value_BT)):
        torch.testing.assert_close(three_BT3[..., i], expected_BT, atol=1e-5, rtol=1e-5)
    assert value_BT[batch.mask_BT].std() > 0.1


def test_a_held_trunk_gets_no_gradient_and_the_head_does(actor_critic, batch):
    with actor_critic.hold_trunk():
        three_BT3 = actor_critic.channels(batch.token_BT, batch.length_B, batch.mask_BT, temperature=1.0)
    three_BT3[..., 2].sum().backward()
    assert all(p.grad is None for p in actor_critic.model.parameters())
    assert actor_critic.head.weight.grad.abs().max() > 0
    three_BT3 = actor_critic.channels(batch.token_BT, batch.length_B, batch.mask_BT, temperature=1.0)
    three_BT3[..., 2].sum().backward()
    assert actor_critic.model.hf.get_input_embeddings().weight.grad.abs().max() > 0
