"""The actor-critics: what an update of policy, critic and language loss is made of, and what a warm-up leaves alone."""

import copy

import pytest
import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from tutelage.data.batch import collate
from tutelage.model.attention import NAME, Packed
from tutelage.model.causal import CausalModel
from tutelage.model.value_model import PolicyWithValue, ValueModel
from tutelage.train.kl_control import KLConfig
from tutelage.train.learner import ComputeConfig, Term
from tutelage.train.machines import (
    SeparateActorCritic,
    SharedActorCritic,
    critic_learner,
    policy_learner,
    shared_learner,
)
from tutelage.train.optim import OptimConfig
from tutelage.train.pretrain import mean_nll

PLAIN = OptimConfig(lr=1e-2, schedule="constant", warmup_steps=0, grad_clip=1e9, weight_decay=0.1)
COMPUTE = ComputeConfig()


def random_batch(lengths=(9, 4, 7, 5), seed=0):
    g = torch.Generator().manual_seed(seed)
    rows = [torch.randint(1, 13, (n,), generator=g).tolist() for n in lengths]
    return collate([(ids, [False, False] + [True] * (len(ids) - 2)) for ids in rows])


def policy_loss(out_BTC, rows):
    return -(out_BTC[..., 0] * (rows[:, None] + 1)).sum() / 20, {"max_ratio_error": torch.tensor(0.0)}


def value_loss(value_BT, rows):
    return 0.5 * (value_BT - 3.0 * (value_BT != 0)).square().sum() / 20, {"vf_clip_frac": torch.tensor(0.0)}


def gradients(module):
    return {n: p.grad.clone() for n, p in module.named_parameters() if p.grad is not None}


def with_head(module, seed=3):
    torch.nn.init.normal_(module.head.weight, std=0.5, generator=torch.Generator().manual_seed(seed))
    return module


def shared(model, *, vf_coef=0.1, head=True):
    module = PolicyWithValue(model)
    if head:
        with_head(module)
    learner = shared_learner(module, temperature=0.8, optim=PLAIN, compute=COMPUTE, total_steps=100)
    return SharedActorCritic(learner, module, vf_coef=vf_coef)


def separate(policy_model, value_model):
    policy = policy_learner(policy_model, temperature=0.8, optim=PLAIN, compute=COMPUTE, total_steps=100)
    critic = critic_learner(value_model, optim=PLAIN, compute=COMPUTE, total_steps=100)
    return SeparateActorCritic(policy, critic)


def values(machines, batch):
    return machines.values(batch, [torch.arange(len(batch))], value_loss)


def step(machines, batch, *, extra=(), train_policy=True):
    rows = torch.arange(len(batch))
    return machines.step(batch, rows, policy_loss, value_loss, extra=extra, train_policy=train_policy)


SMALL = {"vocab_size": 50, "attn_implementation": NAME}
WIDE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64} | SMALL
KINDS = {
    "gpt2": lambda: GPT2LMHeadModel(
        GPT2Config(
            n_embd=32, n_layer=2, n_head=2, n_positions=32, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0,
            bos_token_id=0, eos_token_id=0, **SMALL,
        )
    ),
    "gpt_neox": lambda: GPTNeoXForCausalLM(GPTNeoXConfig(bos_token_id=0, eos_token_id=0, **WIDE)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(num_key_value_heads=1, **WIDE)),
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**WIDE)),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_one_pass_gives_log_probabilities_and_the_hidden_states_they_come_from(kind):
    torch.manual_seed(0)
    model = CausalModel(KINDS[kind]())
    batch = random_batch()
    logp, entropy, hidden_MD = model.logp_and_hidden(batch.token_BT, batch.length_B, batch.mask_BT, temperature=0.7)
    alone = model.logp(batch.token_BT, batch.length_B, batch.mask_BT, temperature=0.7)
    assert torch.equal(logp, alone[0]) and torch.equal(entropy, alone[1])
    packed = Packed(batch.length_B.tolist())
    trunk = packed.unpack(model.hidden(packed.pack(batch.token_BT), packed.position_N, packed))
    torch.testing.assert_close(hidden_MD, trunk[:, :-1][batch.mask_BT[:, 1:]])
    logits_MV = model.hf.get_output_embeddings()(hidden_MD)
    by_hand = (logits_MV / 0.7).log_softmax(-1).gather(1, batch.token_BT[batch.mask_BT][:, None]).squeeze(1)
    torch.testing.assert_close(logp[batch.mask_BT], by_hand)
    assert not model.hf.get_output_embeddings()._forward_pre_hooks  # nothing is left at the door


def test_a_shared_critic_starts_at_0_and_leaves_the_policy_what_it_was(speaker_copy):
    batch = random_batch()
    machines = shared(speaker_copy(), head=False)
    assert (values(machines, batch) == 0).all()
    logp, entropy = machines.logp(batch, [torch.arange(4)])
    alone = separate(speaker_copy(), ValueModel(speaker_copy())).logp(batch, [torch.arange(4)])
    assert torch.equal(logp, alone[0]) and torch.equal(entropy, alone[1])


def test_a_shared_critic_reads_what_a_separate_one_would(speaker_copy):
    batch = random_batch()
    machines = shared(speaker_copy())
    alone = with_head(ValueModel(speaker_copy()))
    value_BT = values(separate(speaker_copy(), alone), batch)
    torch.testing.assert_close(values(machines, batch), value_BT, atol=1e-5, rtol=1e-5)
    assert value_BT.abs().max() > 0.1 and (values(machines, batch)[~batch.mask_BT] == 0).all()


def test_a_first_step_of_the_critic_that_was_skipped_is_told_once_and_not_made_again(speaker_copy):
    batch = random_batch()
    machines = separate(speaker_copy(), with_head(ValueModel(speaker_copy())))
    machines.values(batch, [torch.arange(4)], lambda value_BT, rows: (value_BT.sum() * torch.nan, {}))
    told = step(machines, batch)
    assert told["value_skipped"] == 1.0 and told["skipped"] == 0.0
    assert machines.critic.n_steps == 0 and machines.learner.n_steps == 1
    assert step(machines, batch)["value_skipped"] == 0.0 and machines.critic.n_steps == 1


def test_a_shared_update_is_the_policy_gradient_plus_a_share_of_the_critics(speaker_copy):
    batch, vf_coef = random_batch(), 0.3
    machines = shared(speaker_copy(), vf_coef=vf_coef)
    step(machines, batch)
    joint = gradients(machines.module)
    parts = separate(speaker_copy(), with_head(ValueModel(speaker_copy())))
    step(parts, batch)
    policy, critic = gradients(parts.learner.module), gradients(parts.critic.module)
    for name, gradient in policy.items():
        expected = gradient + vf_coef * critic[f"backbone.{name}"] if f"backbone.{name}" in critic else gradient
        torch.testing.assert_close(joint[f"model.{name}"], expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(joint["head.weight"], vf_coef * critic["head.weight"], atol=1e-5, rtol=1e-4)
    assert machines.learner.n_steps == 1


def test_figures_of_an_update_keep_policy_and_critic_apart(speaker_copy):
    batch = random_batch()
    for machines in (shared(speaker_copy()), separate(speaker_copy(), with_head(ValueModel(speaker_copy())))):
        warming = step(machines, batch, train_policy=False)
        assert set(warming) == {"value_loss", "value_grad_norm", "value_lr", "value_skipped", "vf_clip_frac"}
        both = step(machines, batch)
        assert {"loss", "grad_norm", "lr", "skipped", "max_ratio_error", "value_loss", "vf_clip_frac"} <= set(both)
    fresh = (shared(speaker_copy(), vf_coef=0.3), separate(speaker_copy(), with_head(ValueModel(speaker_copy()))))
    losses = [step(m, batch, train_policy=False)["value_loss"] for m in fresh]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)  # the loss itself, not its share


def test_the_warm_up_of_a_shared_critic_moves_no_weight_of_the_language_model(speaker_copy):
    batch = random_batch()
    machines = shared(speaker_copy())
    step(machines, batch)  # so that moments and weight decay could move what has no gradient
    before = copy.deepcopy(machines.module.state_dict())
    loss = [step(machines, batch, train_policy=False)["value_loss"] for _ in range(5)]
    after = copy.deepcopy(machines.module.state_dict())
    moved = {n for n in before if not torch.equal(before[n], after[n])}
    assert moved == {"head.weight", "head.bias"}
    assert loss[-1] < loss[0]
    assert not machines.module.is_held
    step(machines, batch)
    norm = "model.hf.model.norm.weight"
    assert not torch.equal(machines.module.state_dict()[norm], after[norm])


def test_the_warm_up_of_a_separate_critic_moves_no_weight_of_the_policy(speaker_copy):
    batch = random_batch()
    machines = separate(speaker_copy(), ValueModel(speaker_copy()))
    before = copy.deepcopy(machines.learner.state())
    step(machines, batch, train_policy=False)
    assert all(torch.equal(machines.learner.state()[k], v) for k, v in before.items())


@pytest.mark.parametrize("kind", ["shared", "separate"])
def test_the_language_loss_is_added_in_the_same_update(speaker_copy, kind):
    batch, text = random_batch(), random_batch((6, 8), seed=4)
    term = Term(text, torch.arange(2), mean_nll(text))

    def build():
        if kind == "shared":
            return shared(speaker_copy(), vf_coef=0.3)
        return separate(speaker_copy(), with_head(ValueModel(speaker_copy())))

    joint, plain, language = build(), build(), build()
    metrics = step(joint, batch, extra=[term])
    alone = step(plain, batch)
    words = language.learner.step([term])
    expected, more = gradients(plain.learner.module), gradients(language.learner.module)
    assert sum(g.abs().sum() for g in more.values()) > 1e-2
    for name, gradient in gradients(joint.learner.module).items():
        wanted = expected[name] + more[name] if name in more else expected[name]
        torch.testing.assert_close(gradient, wanted, atol=1e-6, rtol=1e-4)
    assert metrics["loss"] == pytest.approx(alone["loss"] + words["loss"], abs=1e-5)
    assert joint.learner.n_steps == 1


def test_ppo_learns_on_a_shared_trunk(course):
    # Scores of about one deviation, as a normalised reward model gives: the value loss grows with their square, and
    # against scores of a fifth of that the policy's gradient drowns the critic's.
    run = course(lr=3e-3)
    run.parts |= {"score": lambda p, t: 5 * run.world.cats(p, t), "kl": KLConfig(mode="fixed", coef=0.25)}
    module = PolicyWithValue(run.model)
    optim = OptimConfig(lr=3e-3, schedule="linear", warmup_steps=2, final_lr=0.0)
    learner = shared_learner(module, temperature=1.0, optim=optim, compute=COMPUTE, total_steps=80)
    run.parts["actor_critic"] = SharedActorCritic(learner, module)
    run.run_ppo(40, critic_warmup=2)
    first, last = run.rows[0], run.rows[-5:]
    assert first["score"] < 1.5 and min(r["score"] for r in last) > 4 and max(r["kl"] for r in run.rows) < 10
    assert "grad_norm" not in first and first["kl"] == run.rows[1]["kl"] == 0.0
    assert "ratio" not in run.alarms and sum(r["explained_variance"] for r in last) > 0
