"""Heads fitted on a backbone as it is: the most probable ones, and nothing else of the model moves."""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch

from tutelage.data.comparisons import RankedRows, comparison_batch, ranked_rows
from tutelage.errors import ConfigError
from tutelage.model.reward_model import RewardModel
from tutelage.reward.scorer import Scorer
from tutelage.train.learner import ComputeConfig
from tutelage.train.reward_heads import fit_heads
from tutelage.train.reward_model import RewardConfig, ranking_loss
from tutelage.types import Message, Prompt, RankedGroup

WORDS = ["ant", "bee", "cat", "dog"]
PLAIN = ComputeConfig(precision="fp32")


def asked(text):
    return Prompt(messages=(Message(role="user", content=text),))


def drawn(n, *, seed, prompt="ant", loved="cat", aspect="overall", noise=0.0):
    """Pairs in which more of the loved word wins; `noise` is the share that goes the other way."""
    draw, groups = random.Random(seed), []
    while len(groups) < n:
        texts = tuple(" ".join(draw.choices(WORDS, k=draw.randint(3, 6))) for _ in range(2))
        a, b = (t.split().count(loved) for t in texts)
        if a == b:
            continue
        tiers = (1, 2) if (a > b) != (draw.random() < noise) else (2, 1)
        words = " ".join([prompt, *draw.choices(WORDS[2:], k=2)])
        groups.append(RankedGroup(prompt=asked(words), texts=texts, tiers=tiers, aspect=aspect, source=aspect))
    return groups


def fitted(model, groups, **settings):
    cfg = RewardConfig(ties="half", **({"head_prior": 0.7} | settings))
    data = comparison_batch(ranked_rows(groups, model.row)[0])
    return cfg, data, fit_heads(cfg, data, model, PLAIN)


def share_right(model, groups):
    scorer = Scorer([model])
    rights = [scorer([g.prompt] * 2, g.texts).argmax().item() == g.tiers.index(1) for g in groups]
    return sum(rights) / len(rights)


@torch.no_grad()
def summaries(model, data):
    b = data.batch
    return model.summaries(b.token_BT, b.length_B, b.mask_BT)


def test_the_head_is_that_of_a_ridge_logistic_regression(speaker_copy, chat):
    # Independently: Newton on the differences of standardised summaries, prior precision width / 0.7^2 in raw units.
    model = RewardModel(speaker_copy(), chat, read="answer")
    _, data, _ = fitted(model, drawn(60, seed=1, noise=0.2))
    x_CD = summaries(model, data)[0].double().numpy()
    unit_D = x_CD.std(axis=0, ddof=1) * np.sqrt(x_CD.shape[1])
    x_CD = x_CD / unit_D
    sign_M = np.where(data.tier_C[::2].numpy() == 1, 1.0, -1.0)
    d_MD = (x_CD[::2] - x_CD[1::2]) * sign_M[:, None]
    w_D = np.zeros(d_MD.shape[1])
    for _ in range(50):
        p_M = 1 / (1 + np.exp(d_MD @ w_D))
        hessian = (d_MD * (p_M * (1 - p_M))[:, None]).T @ d_MD + np.eye(len(w_D)) / 0.7**2
        w_D -= np.linalg.solve(hessian, w_D / 0.7**2 - d_MD.T @ p_M)
    np.testing.assert_allclose(model.head.weight[0].detach().numpy(), w_D / unit_D, rtol=2e-3, atol=1e-4)
    assert np.abs(d_MD @ w_D).max() > 0.1


def test_the_weights_of_n_grams_are_those_of_a_ridge_logistic_regression(speaker_copy, chat):
    # Independently: Newton on dense counts over the root of their number, scaled so that a row's squares sum to 1. The
    # head is held at 0 by a prior that leaves it nothing.
    model = RewardModel(speaker_copy(), chat, read="answer", n_cells=64)
    _, data, _ = fitted(model, drawn(60, seed=1, noise=0.2), head_prior=1e-6, ngram_prior=0.5)
    found = model.ngrams(data.batch.token_BT, data.batch.mask_BT)
    x_CW = found.scores(torch.eye(64, dtype=torch.float64)).numpy()
    x_CW /= np.sqrt((x_CW**2).sum(axis=1).mean())
    sign_M = np.where(data.tier_C[::2].numpy() == 1, 1.0, -1.0)
    d_MW = (x_CW[::2] - x_CW[1::2]) * sign_M[:, None]
    w_W = np.zeros(64)
    for _ in range(50):
        p_M = 1 / (1 + np.exp(d_MW @ w_W))
        hessian = (d_MW * (p_M * (1 - p_M))[:, None]).T @ d_MW + np.eye(64) / 0.5**2
        w_W -= np.linalg.solve(hessian, w_W / 0.5**2 - d_MW.T @ p_M)
    got_M = (found.scores(model.ngram_weight.detach().double()).numpy()[:, 0].reshape(-1, 2) * [1, -1]).sum(1) * sign_M
    np.testing.assert_allclose(got_M, d_MW @ w_W, rtol=2e-3, atol=1e-4)
    assert np.abs(d_MW @ w_W).max() > 0.1


def test_n_grams_tell_what_the_states_of_a_backbone_do_not(speaker_copy, chat):
    # A backbone whose states say nothing: the words alone must carry the taste.
    found = []
    for n_cells in (0, 512):
        model = RewardModel(speaker_copy(), chat, read="answer", n_cells=n_cells)
        for p in model.backbone.parameters():
            torch.nn.init.zeros_(p)
        fitted(model, drawn(200, seed=1), ngram_prior=2.0)
        found.append(share_right(model, drawn(100, seed=2)))
    assert found[0] < 0.7 and found[1] > 0.9


@pytest.mark.parametrize("spread", [0.3, 2.0])
def test_the_prior_is_the_spread_of_scores_before_anything_is_known(speaker_copy, chat, spread):
    # Draws of a head from the prior that `fit_heads` states: N(0, spread^2) over features whose squares sum to 1.
    model = RewardModel(speaker_copy(), chat, read="answer")
    data = comparison_batch(ranked_rows(drawn(100, seed=2), model.row)[0])
    x_CD = summaries(model, data)[0]
    unit_D = x_CD.std(dim=0) * x_CD.shape[1] ** 0.5
    g = torch.Generator().manual_seed(0)
    score_CS = ((x_CD - x_CD.mean(dim=0)) / unit_D) @ (spread * torch.randn(x_CD.shape[1], 400, generator=g))
    assert score_CS.std().item() == pytest.approx(spread, rel=0.05)


def test_a_tight_prior_keeps_scores_small_and_a_wide_one_lets_them_grow(speaker_copy, chat):
    groups, found = drawn(60, seed=3), []
    for prior in (0.01, 0.5, 5.0):
        model = RewardModel(speaker_copy(), chat, read="answer")
        fitted(model, groups, head_prior=prior)
        found.append(Scorer([model])([g.prompt for g in groups], [g.texts[0] for g in groups]).std().item())
    assert found[0] < 0.02 < found[1] < found[2]


def test_it_is_a_minimum_and_only_the_heads_have_moved(speaker_copy, chat):
    model = RewardModel(speaker_copy(), chat, read="answer", weigh="prompt", aspects={"a": 0.5, "b": 0.5})
    before = {k: v.clone() for k, v in model.backbone.state_dict().items()}
    groups = drawn(40, seed=4, aspect="a", noise=0.2) + drawn(40, seed=5, prompt="bee", aspect="b", noise=0.2)
    cfg, data, loss = fitted(model, groups)
    assert all(torch.equal(before[k], v) for k, v in model.backbone.state_dict().items())
    model.double()
    both = [x.double() for x in summaries(model, data)]
    at = ranking_loss(cfg, data, model)(model.heads_of(*both), torch.arange(len(data.batch)))[0]
    at.backward()
    prior = 0.0
    for layer, x_CD, spread in ((model.head, both[0], 0.7), (model.gate, both[1], 1.05)):
        unit_D = x_CD.std(dim=0) * x_CD.shape[1] ** 0.5
        pull_AD = layer.weight * unit_D.square() / spread**2 / 80
        assert (layer.weight.grad + pull_AD).abs().max() < 0.01 * pull_AD.abs().max()
        prior += (layer.weight * unit_D / spread).square().sum().item() / 160
    assert model.gate.bias.grad.abs().max() < 1e-5
    assert loss == pytest.approx(at.item() + prior, abs=1e-5)


def test_a_gate_serves_two_tastes_that_pull_apart_where_one_head_cannot(speaker_copy, chat):
    # Of prompts that begin with "ant" more cats win, of those with "bee" more dogs and so fewer cats: no single taste.
    def both(n, seed):
        cats = drawn(n, seed=seed, prompt="ant ant ant", aspect="cats")
        return cats + [
            g.model_copy(update={"tiers": g.tiers[::-1]})
            for g in drawn(n, seed=seed + 1, prompt="bee bee bee", aspect="other")
        ]

    one = RewardModel(speaker_copy(), chat, read="answer")
    fitted(one, [g.model_copy(update={"aspect": "overall"}) for g in both(150, 10)])
    gated = RewardModel(speaker_copy(), chat, read="answer", weigh="prompt", aspects={"cats": 0.5, "other": 0.5})
    fitted(gated, both(150, 10), head_prior=2.0)
    unseen = both(60, 20)
    assert share_right(one, unseen) < 0.65
    assert min(share_right(gated, unseen[:60]), share_right(gated, unseen[60:])) > 0.8


def test_rankings_with_ties_move_the_tie_parameter_towards_their_share(speaker_copy, chat):
    groups = [
        RankedGroup(prompt=g.prompt, texts=g.texts, tiers=(1, 1) if i % 2 else g.tiers)
        for i, g in enumerate(drawn(80, seed=6, noise=0.5))
    ]
    model = RewardModel(speaker_copy(), chat, read="answer")
    data = comparison_batch(ranked_rows(groups, model.row)[0])
    fit_heads(RewardConfig(head_prior=0.1), data, model, PLAIN)
    # Half of the pairs are ties and the scores hardly differ: nu / (2 + nu) = 1 / 2 at nu = 2; the prior pulls to -1.
    assert 0.3 < model.log_tie.item() <= np.log(2) + 0.01


def test_labelers_of_weight_0_say_nothing(speaker_copy, chat):
    true, noise = drawn(60, seed=7), drawn(60, seed=8, loved="dog")
    heads = []
    for rows in (true, true + noise):
        model = RewardModel(speaker_copy(), chat, read="answer")
        data = comparison_batch(
            [
                r if r.group in true else replace(r, weight=0.0)
                for r in ranked_rows(rows, model.row)[0]
                if isinstance(r, RankedRows)
            ]
        )
        fit_heads(RewardConfig(head_prior=0.7, ties="half"), data, model, PLAIN)
        heads.append(share_right(model, drawn(80, seed=9)))
    assert min(heads) > 0.75


@pytest.mark.parametrize("settings", [{"epochs": 0}, {"epochs": -1, "head_prior": 1.0}, {"head_prior": -0.5}])
def test_what_trains_nothing_is_refused(settings):
    with pytest.raises(ConfigError, match="train nothing"):
        RewardConfig(**settings)


def test_heads_are_fitted_on_pairs_alone():
    with pytest.raises(ConfigError, match=r"head_prior are defined on pairs"):
        RewardConfig(head_prior=0.7, likelihood="plackett_luce")
