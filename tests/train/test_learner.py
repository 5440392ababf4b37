"""The learner: cutting changes nothing, a resumed update is the update that would have come, nothing broken is kept."""

import math

import pytest
import torch
from torch import nn

from tutelage.algo.policy_loss import ppo_clip_loss, sequence_policy_loss
from tutelage.data.batch import TokenBatch, collate
from tutelage.data.comparisons import RankedRows, comparison_batch
from tutelage.data.packing import microbatches
from tutelage.errors import ConfigError, TrainingError
from tutelage.model.reward_model import RewardModel
from tutelage.model.value_model import ValueModel
from tutelage.train.learner import ComputeConfig, Learner, Term, cut
from tutelage.train.machines import critic_learner, policy_learner
from tutelage.train.optim import OptimConfig
from tutelage.train.ppo import PPOConfig, value_loss
from tutelage.train.pretrain import language_learner, mean_nll
from tutelage.train.reward_model import RewardConfig, ranking_loss, reward_learner
from tutelage.types import Message, Prompt, RankedGroup

PLAIN = OptimConfig(lr=1e-3, schedule="constant", warmup_steps=0, grad_clip=1e9)
WHOLE, ROW_BY_ROW = ComputeConfig(microbatch_tokens=10**6), ComputeConfig(microbatch_tokens=1)
LENGTHS = (12, 3, 7, 5, 11, 4, 9, 6)


def random_batch(lengths=LENGTHS, seed=0):
    """Rows whose first two tokens are a prompt."""
    g = torch.Generator().manual_seed(seed)
    rows = [torch.randint(1, 13, (n,), generator=g).tolist() for n in lengths]
    return collate([(ids, [False, False] + [True] * (len(ids) - 2)) for ids in rows])


def gradients(learner):
    return {n: torch.zeros_like(p) if p.grad is None else p.grad.clone() for n, p in learner.named.items()}


def assert_cut_changes_nothing(build, term):
    """One batch of eight, and eight of one: the same loss and the same gradients to 1e-6."""
    found = []
    for compute in (WHOLE, ROW_BY_ROW):
        learner = build(compute)
        parts = term.parts(compute.microbatch_tokens)
        metrics = learner.step([term])
        found.append((len(parts), metrics, gradients(learner)))
    (n_whole, metrics, whole), (n_cut, cut_metrics, cut) = found
    assert n_whole == 1 and n_cut > 2
    assert sum(g.abs().sum() for g in whole.values()) > 1e-3
    for name in whole:
        torch.testing.assert_close(cut[name], whole[name], atol=1e-6, rtol=1e-5)
    assert cut_metrics.keys() == metrics.keys()
    for name in metrics:
        assert cut_metrics[name] == pytest.approx(metrics[name], abs=2e-6, rel=1e-4), name


@pytest.fixture
def policy(speaker_copy):
    return lambda compute: policy_learner(speaker_copy(), temperature=1.0, optim=PLAIN, compute=compute, total_steps=10)


def test_cutting_changes_nothing_of_the_policy_loss(policy):
    batch = random_batch()
    g = torch.Generator().manual_seed(1)
    old_BT = policy(WHOLE).infer(batch)[..., 0] + 0.2 * torch.randn(batch.mask_BT.shape, generator=g)
    adv_BT = torch.randn(batch.mask_BT.shape, generator=g)
    n_trained = batch.mask_BT.sum()

    def loss(out, rows):
        seen = (out[..., 0], old_BT[rows], adv_BT[rows], batch.mask_BT[rows])
        return ppo_clip_loss(*seen, clip_low=0.2, clip_high=0.2, n_trained=n_trained)

    assert_cut_changes_nothing(policy, Term(batch, torch.arange(8), loss))

    def by_sequence(out, rows):
        seen = (out[..., 0], old_BT[rows], adv_BT[rows, 0], batch.mask_BT[rows])
        return sequence_policy_loss(*seen, clip=0.2, n_sequences=8)

    assert_cut_changes_nothing(policy, Term(batch, torch.arange(8), by_sequence))


def test_cutting_changes_nothing_of_the_value_loss(speaker_copy, toy):
    batch = random_batch()

    def build(compute):
        model = ValueModel(speaker_copy())
        nn.init.normal_(model.head.weight, generator=torch.Generator().manual_seed(3))
        return critic_learner(model, optim=PLAIN, compute=compute, total_steps=10)

    reward_BT = torch.randn(batch.mask_BT.shape, generator=torch.Generator().manual_seed(2))
    for old_BT in (torch.zeros_like(reward_BT), None):
        loss = value_loss(PPOConfig(), toy_experience(batch), reward_BT, old_BT, torch.arange(8))
        assert_cut_changes_nothing(
            build, Term(batch, torch.arange(8), lambda out, rows, loss=loss: loss(out[..., 0], rows))
        )


def toy_experience(batch):
    class Seen:
        mask_BT = batch.mask_BT
        reward_B = torch.arange(8.0)

    return Seen()


def ranking(chat, words, tiers, margin=0.0):
    prompt = Prompt(messages=(Message(role="user", content="cat"),))
    group = RankedGroup(prompt=prompt, texts=tuple(words), tiers=tuple(tiers))
    before, answers = chat.prompt_ids(prompt), [chat.completion_ids(w) for w in words]
    rows = tuple(([*before, *a], [False] * len(before) + [True] * len(a)) for a in answers)
    return RankedRows(rows, tuple(tiers), margin, group)


def test_cutting_changes_nothing_of_the_reward_loss_and_cuts_no_prompt(speaker_copy, chat):
    rows = [
        ranking(chat, ["ant", "bee bee", "cat dog elk"], [1, 2, 2]),
        ranking(chat, ["fox", "gnu hen gnu hen"], [2, 1]),
        ranking(chat, ["ant ant", "dog", "elk fox gnu", "hen"], [1, 2, 3, 4]),
        ranking(chat, ["bee", "bee ant"], [1, 1]),
    ]
    data = comparison_batch(rows)
    cfg = RewardConfig(smoothing=0.1, margin_scale=0.5)
    models = []

    def build(compute):
        models.append(RewardModel(speaker_copy(), chat))
        return reward_learner(models[-1], optim=PLAIN, compute=compute, total_steps=10)

    def loss(raw, index):
        return ranking_loss(cfg, data, models[-1])(raw, index)

    term = Term(data.batch, torch.arange(len(data.batch)), loss, together=data.group_C)
    assert_cut_changes_nothing(build, term)
    for part in term.parts(1):
        groups = data.group_C[part]
        assert len(groups.unique()) == 1 and len(groups) == (data.group_C == groups[0]).sum()


def test_cutting_changes_nothing_of_the_language_loss(speaker_copy):
    batch = random_batch()

    def build(compute):
        return language_learner(speaker_copy(), optim=PLAIN, compute=compute, total_steps=10)

    assert_cut_changes_nothing(build, Term(batch, torch.arange(8), mean_nll(batch)))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_steps_on_one_batch_learn_it(precision, speaker_copy):
    # In bf16 each pass reads copies of the weights, which must be made again after each step.
    batch = random_batch()
    compute = ComputeConfig(precision=precision, microbatch_tokens=20)
    learner = language_learner(
        speaker_copy(), optim=OptimConfig(lr=1e-2, warmup_steps=0), compute=compute, total_steps=40
    )
    term = Term(batch, torch.arange(len(batch)), mean_nll(batch))
    losses = [learner.step([term])["loss"] for _ in range(40)]
    assert losses[-1] < 0.5 * losses[0]


def test_together_packs_whole_units_and_drops_no_row():
    batch = random_batch((5, 2, 3, 4, 2, 6, 1))
    unit_B = torch.tensor([4, 9, 4, 2, 9, 2, 7])
    term = Term(batch, torch.tensor([0, 1, 2, 3, 4, 5, 6]), lambda o, r: (o.sum(), {}), together=unit_B)
    parts = term.parts(10)  # units of 8, 4, 10 and 1 tokens
    assert sorted(i for p in parts for i in p.tolist()) == list(range(7))
    where = {int(u): {n for n, p in enumerate(parts) if (unit_B[p] == u).any()} for u in unit_B.unique()}
    assert all(len(n) == 1 for n in where.values())
    assert all(batch.length_B[p].sum() <= 10 for p in parts)


class Line(nn.Module):
    """y = w . token + b, as [B, T, 1]."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([[2.0]]))
        self.bias = nn.Parameter(torch.tensor([1.0]))


def line(optim=PLAIN, **more):
    module = Line()

    def forward(batch: TokenBatch):
        return batch.token_BT[..., None] * module.weight[0] + module.bias

    return Learner(module, forward, optim=optim, compute=more.pop("compute", WHOLE), total_steps=10, **more)


def scaled(by, **metrics):
    """A loss of `by` times the sum of the output."""
    batch = random_batch()
    return Term(batch, torch.arange(8), lambda out, rows: (by * out.sum(), {k: f(rows) for k, f in metrics.items()}))


def test_metrics_are_summed_over_microbatches_and_max_ones_joined_by_their_greatest():
    term = scaled(1e-3, n=lambda r: torch.tensor(float(len(r))), max_row=lambda r: r.max().float())
    for compute in (WHOLE, ROW_BY_ROW):
        metrics = line(compute=compute).step([term])
        assert (metrics["n"], metrics["max_row"]) == (8.0, 7.0)


def test_terms_are_added_before_the_one_step():
    both, first, second = line(), line(), line()
    both.step([scaled(0.01), scaled(0.02)])
    first.step([scaled(0.01)])
    second.step([scaled(0.02)])
    for name, gradient in gradients(both).items():
        torch.testing.assert_close(gradient, gradients(first)[name] + gradients(second)[name])
    assert both.n_steps == 1


def test_the_average_follows_the_weights_by_its_formula():
    learner = line(ema_decay=0.9)
    expected = 2.0
    for _ in range(3):
        learner.step([scaled(0.01)])
        expected = 0.9 * expected + 0.1 * float(learner.named["weight"].detach())
    assert learner.ema["weight"].item() == pytest.approx(expected)
    assert learner.ema["weight"].item() != pytest.approx(float(learner.named["weight"].detach()), abs=1e-4)


def test_the_average_is_lent_to_the_module_and_taken_back():
    learner = line(ema_decay=0.9)
    learner.step([scaled(0.01)])
    present, average = learner.state()["weights/weight"], learner.ema["weight"].clone()
    with pytest.raises(KeyError), learner.averaged():
        assert torch.equal(learner.named["weight"], average) and not torch.equal(average, present)
        raise KeyError
    assert torch.equal(learner.named["weight"], present) and torch.equal(learner.ema["weight"], average)
    plain = line()
    with plain.averaged():
        assert plain.named["weight"].item() == 2.0


def test_a_resumed_learner_makes_the_update_that_would_have_come(speaker_copy):
    optim = OptimConfig(lr=3e-3, warmup_steps=2, weight_decay=0.1)

    def build():
        return policy_learner(speaker_copy(), temperature=1.0, optim=optim, compute=WHOLE, total_steps=6, ema_decay=0.9)

    def update(learner, i):
        batch = random_batch(seed=i)
        return learner.step([Term(batch, torch.arange(8), mean_nll(batch))])

    unbroken = build()
    for i in range(3):
        update(unbroken, i)
    kept = unbroken.state()
    expected = update(unbroken, 3)
    resumed = build()
    update(resumed, 9)  # whatever it did before is forgotten
    resumed.load_state(kept)
    assert update(resumed, 3) == expected
    after, wanted = resumed.state(), unbroken.state()
    assert after.keys() == wanted.keys()
    assert {k.split("/")[0] for k in after} == {"weights", "moments", "ema", "n_steps"}
    for name in wanted:
        assert torch.equal(after[name], wanted[name]), name


def test_loading_the_state_of_before_the_first_update_forgets_the_moments():
    fresh, used = line(), line()
    start = fresh.state()
    used.step([scaled(5.0)])
    used.load_state(start)
    used.step([scaled(0.01)])
    fresh.step([scaled(0.01)])
    assert all(torch.equal(used.state()[k], v) for k, v in fresh.state().items())


def test_a_state_is_a_copy():
    learner = line()
    kept = learner.state()
    learner.step([scaled(1.0)])
    assert kept["weights/weight"].item() == 2.0


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_an_update_that_is_not_finite_is_skipped_and_the_third_in_a_row_ends_the_run(bad):
    learner = line(ema_decay=0.5)
    learner.step([scaled(0.01)])
    before = learner.state()
    for _ in range(2):
        assert learner.step([scaled(bad)])["skipped"] == 1
        assert all(torch.equal(learner.state()[k], v) for k, v in before.items())
    assert learner.step([scaled(0.01)])["skipped"] == 0  # counts from the beginning again
    for _ in range(2):
        learner.step([scaled(bad)])
    with pytest.raises(TrainingError, match="3 times in a row"):
        learner.step([scaled(bad)])
    assert learner.n_steps == 2


def test_a_gradient_of_nan_under_a_finite_loss_is_skipped():
    learner = line()
    batch = random_batch()

    def loss(out, rows):
        return (out - out.detach()).abs().sqrt().sum(), {}  # 0, with a slope of 0 x inf

    metrics = learner.step([Term(batch, torch.arange(8), loss)])
    assert metrics["loss"] == 0 and metrics["skipped"] == 1
    assert learner.named["weight"].item() == 2.0


def test_a_long_gradient_is_cut_to_its_norm():
    learner = line(OptimConfig(lr=1e-3, grad_clip=0.5))
    metrics = learner.step([scaled(1.0)])
    assert metrics["grad_norm"] > 10
    assert torch.cat([g.flatten() for g in gradients(learner).values()]).norm() == pytest.approx(0.5, rel=1e-4)


def test_a_model_without_a_trainable_weight_is_refused():
    module = Line().requires_grad_(False)
    with pytest.raises(ConfigError, match="frozen"):
        Learner(module, lambda batch: batch.token_BT, optim=PLAIN, compute=WHOLE, total_steps=1)


def test_infer_is_the_same_however_it_is_cut(speaker):
    batch = random_batch()
    outs = [
        policy_learner(speaker, temperature=0.7, optim=PLAIN, compute=c, total_steps=1).infer(batch)
        for c in (WHOLE, ROW_BY_ROW)
    ]
    torch.testing.assert_close(*outs, atol=1e-5, rtol=0)
    assert not outs[0].requires_grad and (outs[0][~batch.mask_BT] == 0).all()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_infer_cut_as_an_update_gives_the_updates_own_bits(speaker_copy, precision):
    compute = ComputeConfig(precision=precision, microbatch_tokens=20)
    learner = policy_learner(speaker_copy(), temperature=1.0, optim=PLAIN, compute=compute, total_steps=1)
    batch = random_batch()
    parts = [torch.tensor([6, 0, 3]), torch.tensor([5, 1, 7, 2, 4])]
    before = learner.infer(batch, parts)
    seen = torch.zeros_like(before)

    def loss(out, rows):
        seen[rows] = out.detach()
        return out[..., 0].sum() * 0.01, {}

    learner.step([Term(batch, parts[0], loss)])
    assert torch.equal(seen[parts[0]], before[parts[0]])
    assert (seen[parts[1]] == 0).all()


def test_microbatches_must_hold_something():
    with pytest.raises(ConfigError, match="microbatch_tokens = 0"):
        ComputeConfig(microbatch_tokens=0)


def test_answers_to_one_prompt_stay_together_where_they_fit():
    prompt, other = list(range(10, 40)), list(range(50, 80))
    rows = [(p + [1] * n, [False] * len(p) + [True] * n) for p, n in [(prompt, 3), (other, 9), (prompt, 8), (other, 1)]]
    parts = cut(collate(rows), 50)
    # 30 + 3 + 8 tokens are one microbatch, 30 + 9 + 1 the other; by length alone the prompts would have been mixed.
    assert sorted(p.tolist() for p in parts) == [[0, 2], [1, 3]]


def test_answers_that_do_not_fit_together_are_cut_as_other_rows_are():
    prompt = list(range(10, 40))
    batch = collate([(prompt + [1] * n, [False] * 30 + [True] * n) for n in (3, 9, 8)])
    assert [p.tolist() for p in cut(batch, 45)] == [p.tolist() for p in microbatches(batch.length_B.tolist(), 45)]
    assert len(cut(batch, 45)) == 3
