"""A reward model learns an order from rankings: each likelihood, ties, noise, margins and aspects."""

import math
import random
from dataclasses import replace

import numpy as np
import pytest
import torch

from tutelage.data.comparisons import RankedRows, comparison_batch
from tutelage.errors import ConfigError
from tutelage.model.reward_model import RewardModel
from tutelage.train import reward_model
from tutelage.train.detectors import reward_model_alarms
from tutelage.train.learner import ComputeConfig, Term
from tutelage.train.optim import OptimConfig
from tutelage.train.reward_model import RewardConfig, ranking_loss, reward_learner
from tutelage.types import Message, Prompt, RankedGroup

N_ITEMS = 9
PROMPT = Prompt(messages=(Message(role="user", content="Go."),))
TRUE_SCORE = [-2.0, -1.4, -0.8, -0.2, 0.2, 0.4, 0.9, 1.2, 1.7]


class Bag(torch.nn.Module):
    """A backbone without a transformer: the hidden state of a row is a one-hot of its last token but one."""

    width, device = N_ITEMS, torch.device("cpu")

    def summary(self, token_BT, length_B):
        return torch.nn.functional.one_hot(token_BT[torch.arange(len(length_B)), length_B - 2], N_ITEMS).float()


class TabularReward(RewardModel):
    """A reward model with a free score for each item and aspect."""

    def heads(self, token_BT, length_B, mask_BT):
        return self.head(self.backbone.summary(token_BT, length_B))


def tabular(*aspects, seed=0):
    model = TabularReward(Bag(), None, aspects=dict.fromkeys(aspects or ("overall",), 1.0), seed=seed)
    torch.nn.init.zeros_(model.head.weight)
    return model


def ranking(items, tiers, *, margin=0.0, aspect="overall"):
    """Each item is one completion: [10, item, 11], where 10 opens and 11 ends."""
    group = RankedGroup(
        prompt=PROMPT, texts=tuple(str(i) for i in items), tiers=tuple(tiers), margin=margin, aspect=aspect
    )
    return RankedRows(tuple(([10, i, 11], [False, True, True]) for i in items), tuple(tiers), margin, group)


def again(row, *, tiers=None, **more):
    """The same items judged anew."""
    return ranking([int(t) for t in row.group.texts], tiers or row.tiers, **more)


def simulated(n, *, nu, k=2, seed=0):
    """Rankings by Davidson's law of the true scores (pairs), or by their order with Gumbel noise (k > 2)."""
    draw, rows = random.Random(seed), []
    for _ in range(n):
        items = draw.sample(range(N_ITEMS), k)
        if k > 2:
            noisy = sorted(items, key=lambda i: -(TRUE_SCORE[i] - math.log(-math.log(draw.random()))))
            rows.append(ranking(items, [noisy.index(i) + 1 for i in items]))
            continue
        d = TRUE_SCORE[items[0]] - TRUE_SCORE[items[1]]
        (outcome,) = draw.choices(["win", "tie", "loss"], [math.exp(d / 2), nu, math.exp(-d / 2)])
        rows.append(ranking(items, {"win": [1, 2], "tie": [1, 1], "loss": [2, 1]}[outcome]))
    return rows


def trained(rows, model=None, *, lr=0.05, **settings):
    """The scores [items, aspects] and the model after one run."""
    model = model or tabular()
    cfg = RewardConfig(**{"epochs": 4, "prompts_per_step": 64} | settings)
    total = reward_model.n_steps(cfg, len(rows))
    optim = OptimConfig(lr=lr, warmup_steps=0, schedule="linear", final_lr=0.0)
    learner = reward_learner(model, optim=optim, compute=ComputeConfig(), total_steps=total)
    log = []
    reward_model.run(
        cfg,
        rows=rows,
        model=model,
        learner=learner,
        seed=0,
        log=lambda step, metrics: log.append(metrics),
        save=lambda step: None,
    )
    assert len(log) == total == learner.n_steps
    return model.head.weight.detach().T + model.head.bias.detach(), model, log


def pearson(a, b):
    return float(np.corrcoef(np.asarray(a), np.asarray(b))[0, 1])


def loss_of(rows, model, **settings):
    data = comparison_batch(rows)
    term_loss = ranking_loss(RewardConfig(**settings), data, model)
    raw = model.heads(*spread(data))
    return term_loss(raw, torch.arange(len(data.batch)))


def with_scores(*scores):
    model = tabular()
    with torch.no_grad():
        model.head.weight[0, : len(scores)] = torch.tensor(scores)
    return model


def test_a_ranking_of_four_costs_the_mean_of_its_six_pairs():
    # Scores 2, 1, 0, -1 in rank order: three pairs one apart, two two apart, one three apart.
    by_hand = sum(n * math.log1p(math.exp(-d)) for n, d in ((3, 1), (2, 2), (1, 3))) / 6
    assert by_hand == pytest.approx(0.207038, abs=1e-6)
    loss, metrics = loss_of([ranking([0, 1, 2, 3], [1, 2, 3, 4])], with_scores(2.0, 1.0, 0.0, -1.0), ties="half")
    assert loss.item() == pytest.approx(by_hand, abs=1e-6) and metrics["accuracy"].item() == pytest.approx(1.0)
    model = with_scores(2.0, 1.0, 0.0, -1.0)
    loss, _ = loss_of([ranking([0, 1, 2, 3], [1, 2, 3, 4])], model, likelihood="plackett_luce")
    assert loss.item() == pytest.approx(1.161057, abs=1e-6)


def test_prompts_count_alike_whatever_their_number_of_pairs():
    model = with_scores(2.0, 1.0, 0.0, -1.0)
    four, two = ranking([0, 1, 2, 3], [1, 2, 3, 4]), ranking([3, 0], [1, 2])
    separate = [loss_of([r], model, ties="drop")[0].item() for r in (four, two)]
    assert loss_of([four, two], model, ties="drop")[0].item() == pytest.approx(sum(separate) / 2)


def test_nine_answers_do_not_pull_six_times_as_hard_as_four():
    # 36 pairs against 6. At equal scores the mean over pairs gives norms .215 and .373; a sum would give 7.7 and 2.2.
    norms = {}
    for k in (4, 9):
        model = tabular()
        loss, _ = loss_of([ranking(list(range(k)), list(range(1, k + 1)))], model, ties="drop")
        loss.backward()
        norms[k] = model.head.weight.grad.norm().item()
    assert norms == pytest.approx({4: 5**0.5 / 6, 9: 60**0.5 / 36})
    both = tabular()
    rows = [ranking([0, 1, 2, 3], [1, 2, 3, 4]), ranking(list(range(9)), list(range(1, 10)))]
    loss_of(rows, both, ties="drop")[0].backward()
    assert 0.5 < both.head.weight.grad.norm().item() / norms[4] < 1.0


@pytest.mark.parametrize(
    ("ties", "tied", "won"),
    [
        # d = 1: half of the loss both ways; Davidson with nu = .5; Rao-Kupper with theta = 1.5, log-excess log .5.
        ("half", 0.5 * (math.log1p(math.exp(-1)) + math.log1p(math.e)), math.log1p(math.exp(-1))),
        ("davidson", -math.log(0.181472), -math.log(0.598392)),
        ("rao_kupper", -math.log(0.158645), -math.log(0.644405)),
    ],
)
def test_each_tie_model_by_hand(ties, tied, won):
    model = with_scores(1.0, 0.0)
    with torch.no_grad():
        model.log_tie.fill_(math.log(0.5))
    assert loss_of([ranking([0, 1], [1, 1])], model, ties=ties)[0].item() == pytest.approx(tied, abs=1e-5)
    assert loss_of([ranking([0, 1], [1, 2])], model, ties=ties)[0].item() == pytest.approx(won, abs=1e-5)


def test_dropped_ties_leave_no_trace_but_half_ties_pull_together():
    tie, win = ranking([0, 1], [1, 1]), ranking([2, 3], [1, 2])
    model = with_scores(1.0, 0.0)
    assert loss_of([tie, win], model, ties="drop")[0].item() == pytest.approx(math.log(2))
    assert loss_of([tie], model, ties="drop")[0].item() == 0.0
    loss_of([tie], model, ties="half")[0].backward()
    assert model.head.weight.grad[0, 0] > 0 > model.head.weight.grad[0, 1]


def test_smoothing_and_margin_by_hand():
    model = with_scores(0.15, 0.0)
    pair = [ranking([0, 1], [1, 2], margin=2.0)]
    assert loss_of(pair, model, ties="drop", smoothing=0.1)[0].item() == pytest.approx(0.635957, abs=1e-6)
    # The winner should lead by .5 x 2 = 1 and leads by .15; the wrong way round, the other trails by .15.
    right, wrong = math.log1p(math.exp(-(0.15 - 1))), math.log1p(math.exp(-(-0.15 - 1)))
    assert loss_of(pair, model, ties="drop", margin_scale=0.5)[0].item() == pytest.approx(right, abs=1e-6)
    both = loss_of(pair, model, ties="drop", margin_scale=0.5, smoothing=0.1)[0].item()
    assert both == pytest.approx(0.9 * right + 0.1 * wrong, abs=1e-6)


def test_margins_are_counted_for_the_winner_wherever_it_stands():
    model = with_scores(0.7, 0.2)
    first = loss_of([ranking([0, 1], [1, 2], margin=1.0)], model, margin_scale=0.3)[0]
    second = loss_of([ranking([1, 0], [2, 1], margin=1.0)], model, margin_scale=0.3)[0]
    torch.testing.assert_close(first, second)


def test_a_constant_model_orders_nothing():
    rows = simulated(200, nu=0.0)
    _, metrics = loss_of(rows, tabular(), ties="half")
    assert metrics["accuracy"].item() == 0.0
    tied = [ranking([0, 1], [1, 1]), ranking([0, 1], [1, 2])]
    assert loss_of(tied, tabular(), ties="half")[1]["accuracy"].item() == pytest.approx(0.25)  # a tie counts half


def test_davidson_recovers_scores_and_ties():
    score, model, log = trained(simulated(5000, nu=0.6), ties="davidson", prompts_per_step=128)
    assert pearson(score[:, 0], TRUE_SCORE) > 0.98
    centred = score[:, 0] - score[:, 0].mean()
    assert centred.tolist() == pytest.approx(TRUE_SCORE, abs=0.25)
    assert model.log_tie.exp().item() == pytest.approx(0.6, abs=0.08)
    assert log[-1]["log_tie"] == pytest.approx(model.log_tie.item(), abs=1e-2)
    losses = [m["loss"] for m in log]
    assert sum(losses[-50:]) / 50 < sum(losses[:3]) / 3 - 0.1


@pytest.mark.parametrize(
    "settings",
    [
        {"ties": "rao_kupper"},
        {"ties": "half"},
        {"ties": "drop"},
        {"ties": "drop", "smoothing": 0.1},
        {"likelihood": "plackett_luce"},
    ],
    ids=str,
)
def test_every_likelihood_learns_the_order(settings):
    score, _, _ = trained(simulated(2000, nu=0.6, seed=1), epochs=2, **settings)
    assert pearson(score[:, 0], TRUE_SCORE) > 0.95


def test_whole_rankings_teach_the_scores():
    for settings in ({"likelihood": "plackett_luce"}, {"likelihood": "pairs", "ties": "drop"}):
        score, _, _ = trained(simulated(1500, nu=0, k=4), **settings)
        assert pearson(score[:, 0], TRUE_SCORE) > 0.98, settings
        # Both are Bradley-Terry on each pair, whose unit is the nat: a slope of 1, not only the order.
        slope = np.polyfit(TRUE_SCORE, score[:, 0].numpy(), 1)[0]
        assert slope == pytest.approx(1.0, abs=0.15), settings


def test_smoothing_draws_scores_together_and_margins_push_them_apart():
    rows = [again(r, margin=1.0) for r in simulated(1500, nu=0.0)]
    settings = {"plain": {}, "smooth": {"smoothing": 0.2}, "margin": {"margin_scale": 1.0}}
    spread = {name: trained(rows, ties="drop", **more)[0].std().item() for name, more in settings.items()}
    assert spread["smooth"] < 0.8 * spread["plain"]
    assert spread["margin"] > 1.1 * spread["plain"]


def test_each_aspect_is_learned_from_its_own_rankings_alone():
    up = simulated(1500, nu=0.0, seed=3)
    kind = [
        again(r, tiers=[3 - t for t in r.tiers], aspect="kind")  # the other way round
        for r in simulated(1500, nu=0.0, seed=4)
    ]
    score, _, _ = trained([*up, *kind], tabular("overall", "kind"), ties="drop")
    assert pearson(score[:, 0], TRUE_SCORE) > 0.95 and pearson(score[:, 1], TRUE_SCORE) < -0.95
    model = tabular("overall", "kind")
    loss_of(kind[:5], model, ties="drop")[0].backward()
    assert model.head.weight.grad[0].abs().sum() == 0 < model.head.weight.grad[1].abs().sum()


def held_out(score, rows):
    """Pairs ordered as the labeller did, and all untied ones."""
    strict = [r for r in rows if r.tiers[0] != r.tiers[1]]
    right = 0
    for r in strict:
        first, second = (score[int(t), 0] for t in r.group.texts)
        right += bool(first > second) if r.tiers[0] < r.tiers[1] else bool(second > first)
    return right, len(strict)


def test_swapped_labels_give_an_inverted_model_and_its_alarm():
    test = simulated(500, nu=0.3, seed=9)
    alarms = {}
    for name in ("clean", "swapped"):
        rows = simulated(1500, nu=0.3, seed=5)
        if name == "swapped":
            rows = [again(r, tiers=[max(r.tiers) + 1 - t for t in r.tiers]) for r in rows]
        correct, n = held_out(trained(rows, epochs=1)[0], test)
        found = reward_model_alarms(correct=correct, n=n, length_only=0.5, agreement=None)
        alarms[name] = ([a.name for a in found], correct / n)
    assert alarms["clean"][0] == [] and alarms["clean"][1] > 0.75
    assert alarms["swapped"][0] == ["inverted reward model"] and alarms["swapped"][1] < 0.45


def row_of(chat, text):
    before, answer = chat.prompt_ids(PROMPT), chat.completion_ids(text)
    return [*before, *answer], [False] * len(before) + [True] * len(answer)


def test_a_transformer_learns_which_word_is_better(speaker_copy, chat):
    # The answer with more cats wins: from the words alone, by the hidden state of the end token.
    draw, rows = random.Random(0), []
    words = ["ant", "bee", "cat", "dog"]
    for _ in range(400):
        texts = [" ".join(draw.choices(words, k=4)) for _ in range(3)]
        n_cats = [t.split().count("cat") for t in texts]
        tiers = [sorted(set(n_cats), reverse=True).index(n) + 1 for n in n_cats]
        group = RankedGroup(prompt=PROMPT, texts=tuple(texts), tiers=tuple(tiers))
        rows.append(RankedRows(tuple(row_of(chat, t) for t in texts), tuple(tiers), 0.0, group))
    model = RewardModel(speaker_copy(), chat)
    _, _, log = trained(rows[:320], model, lr=3e-3, prompts_per_step=32)
    _, metrics = loss_of(rows[320:], model, ties="drop")
    assert metrics["accuracy"] > 0.9 > log[0]["accuracy"]


def test_a_resumed_run_is_the_unbroken_one():
    rows = simulated(300, nu=0.5)
    cfg = RewardConfig(epochs=1, prompts_per_step=32, save_every=4)
    optim = OptimConfig(lr=0.05, warmup_steps=0)
    kept, models = {}, [tabular(), tabular(seed=1)]
    learners = [reward_learner(m, optim=optim, compute=ComputeConfig(), total_steps=10) for m in models]

    def go(i, save):
        reward_model.run(
            cfg, rows=rows, model=models[i], learner=learners[i], seed=0, log=lambda step, metrics: None, save=save
        )

    go(0, lambda step: kept.update({step: learners[0].state()}))
    learners[1].load_state(kept[4])
    go(1, lambda step: None)
    assert sorted(kept) == [4, 8]
    assert all(torch.equal(learners[1].state()[k], v) for k, v in learners[0].state().items())


def test_a_batch_is_one_update_and_the_last_may_be_short():
    cfg = RewardConfig(epochs=2, prompts_per_step=32)
    assert reward_model.n_steps(cfg, 65) == 6 and reward_model.n_steps(cfg, 64) == 4


def test_a_ranking_is_never_cut_in_two():
    data = comparison_batch(simulated(10, nu=0.3, k=4))
    term = Term(data.batch, torch.arange(40), ranking_loss(RewardConfig(), data, tabular()), together=data.group_C)
    assert [len(p) for p in term.parts(5)] == [4] * 10


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"smoothing": 0.5}, "one half"),
        ({"smoothing": -0.1}, "reward.smoothing = -0.1"),
        ({"likelihood": "plackett_luce", "smoothing": 0.1}, "defined on pairs"),
        ({"likelihood": "plackett_luce", "margin_scale": 1.0}, "defined on pairs"),
    ],
)
def test_settings_that_cannot_be(wrong, message):
    with pytest.raises(ConfigError, match=message):
        RewardConfig(**wrong)


def test_the_tie_parameter_starts_at_the_share_of_ties_in_the_data():
    from types import SimpleNamespace

    from tutelage.algo.preference_loss import davidson_prob, rao_kupper_prob

    # One ranking of three with one tie: a share of 1/3, so nu = 2 (1/3) / (2/3) = 1.
    start = reward_model.log_tie_of([SimpleNamespace(tiers=(1, 1, 2))])
    assert start == pytest.approx(0.0)
    for prob in (davidson_prob, rao_kupper_prob):
        assert prob(torch.zeros(1), start)[1].item() == pytest.approx(1 / 3)


def test_a_ranking_counts_by_the_weight_of_its_labeler():
    # Two people contradict one another; with weights 2 and 0 only the first is heard, and the loss is that of her
    # ranking at scores 0, ln 2 (Bradley-Terry, ties halved): (2 ln 2 + 0 ln 2) / 2 rankings.
    rows = [replace(ranking([0, 1], [1, 2]), weight=2.0), replace(ranking([0, 1], [2, 1]), weight=0.0)]
    data, model = comparison_batch(rows), tabular()
    loss, _ = ranking_loss(RewardConfig(ties="half"), data, model)(model.heads(*spread(data)), torch.arange(4))
    assert loss.item() == pytest.approx(math.log(2))
    loss.backward()
    gradient = model.head.weight.grad[0]
    assert gradient[0].item() == pytest.approx(-0.5) and gradient[1].item() == pytest.approx(0.5)


def spread(data):
    return data.batch.token_BT, data.batch.length_B, data.batch.mask_BT
