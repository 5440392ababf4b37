"""What is made of rollouts before an update, by hand."""

import pytest
import torch

from tutelage.algo.advantage import token_rewards
from tutelage.data.batch import Rollouts, collate
from tutelage.errors import ConfigError, TrainingError
from tutelage.train.experience import Experience, UnfinishedConfig, describe, gather, penalise
from tutelage.types import Message, Prompt

PROMPT = Prompt(messages=(Message(role="user", content="Go."),))


class Reference:
    """Says what it was told to say."""

    def __init__(self, logp_BT):
        self.logp_BT = logp_BT

    def logp(self, batch, parts=None):
        return self.logp_BT


def rollouts(texts, lengths, finished, *, group=2):
    """A prompt of two tokens before each answer."""
    rows = [([7, 8, *range(1, n + 1)], [False, False] + [True] * n) for n in lengths]
    batch = collate(rows)
    logp_BT = torch.where(batch.mask_BT, -1.0, 0.0)
    return Rollouts(batch, logp_BT, torch.tensor(finished), (PROMPT,) * len(texts), tuple(texts), group, 0)


def made(seen_rollouts, score, *, logp_BT=None, ref_logp_BT=None, cfg=None, weight_cap=2.0) -> Experience:
    logp_BT = seen_rollouts.sampler_logp_BT if logp_BT is None else logp_BT
    return gather(
        seen_rollouts,
        parts=[torch.arange(len(seen_rollouts))],
        logp=(logp_BT, torch.where(seen_rollouts.batch.mask_BT, 0.5, 0.0)),
        reference=Reference(logp_BT if ref_logp_BT is None else ref_logp_BT),
        score=lambda prompts, texts: torch.tensor(score),
        unfinished=cfg or UnfinishedConfig(),
        weight_cap=weight_cap,
    )


@pytest.mark.parametrize(
    ("cfg", "reward"),
    [
        # 21 finished answers score 0, 1, .., 20: their 5 % quantile is 1, so `auto` gives 1 - 1 = 0, which -1 is below.
        (UnfinishedConfig(mode="auto", value=1.0), -1.0),
        (UnfinishedConfig(mode="auto", value=0.0), 0.0),
        (UnfinishedConfig(mode="replace", value=3.0), -3.0),
        (UnfinishedConfig(mode="subtract", value=3.0), 47.0),
        (UnfinishedConfig(mode="mask", value=3.0), 50.0),
    ],
)
def test_what_an_unfinished_answer_earns(cfg, reward):
    score_B = torch.cat([torch.arange(21.0), torch.tensor([50.0])])
    good_B = torch.arange(22) < 21
    mask_BT = torch.ones(22, 3, dtype=torch.bool)
    reward_B, trained_BT = penalise(score_B, good_B, mask_BT, cfg)
    assert torch.equal(reward_B[:21], score_B[:21])
    assert reward_B[21].item() == pytest.approx(reward)
    assert bool(trained_BT[21].any()) is (cfg.mode != "mask") and trained_BT[:21].all()


def test_the_automatic_penalty_lies_below_bad_finished_answers():
    score_B = torch.tensor([-8.0, -6.0, -7.0, 4.0])
    reward_B, _ = penalise(score_B, torch.tensor([True, True, True, False]), torch.ones(4, 1), UnfinishedConfig())
    assert reward_B[3].item() == pytest.approx(-7.9 - 1)  # the quantile lies a tenth of the way from -8 to -7
    assert reward_B[3] < score_B[:3].min()


def test_without_a_finished_answer_the_automatic_penalty_is_the_value():
    reward_B, _ = penalise(torch.tensor([5.0]), torch.tensor([False]), torch.ones(1, 1), UnfinishedConfig(value=2.0))
    assert reward_B.item() == -2.0


def test_an_empty_answer_counts_as_unfinished():
    seen = made(rollouts(["a b", "", "c", "d"], [2, 1, 3, 3], [True, True, True, False]), [1.0, 9.0, 2.0, 9.0])
    assert seen.reward_B.tolist() == [1.0, -1.0, 2.0, -1.0]
    assert seen.score_B.tolist() == [1.0, 9.0, 2.0, 9.0]
    masked = made(rollouts(["a", ""], [2, 1], [True, True]), [1.0, 9.0], cfg=UnfinishedConfig(mode="mask"))
    assert masked.mask_BT.any(dim=1).tolist() == [True, False]


@pytest.mark.parametrize("mode", ["auto", "replace", "subtract"])
def test_token_rewards_sum_to_reward_minus_kl_in_every_row(mode):
    g = torch.Generator().manual_seed(0)
    raw = rollouts(["a", "b", "", "d"], [4, 1, 1, 3], [True, True, True, False])
    logp_BT, ref_BT = (torch.randn(raw.batch.mask_BT.shape, generator=g) for _ in range(2))
    seen = made(raw, [1.0, -2.0, 3.0, 4.0], logp_BT=logp_BT, ref_logp_BT=ref_BT, cfg=UnfinishedConfig(mode=mode))
    reward_BT = token_rewards(seen.reward_B, seen.logp_BT, seen.ref_logp_BT, seen.mask_BT, kl_coef=0.3)
    torch.testing.assert_close(reward_BT.sum(dim=1), seen.reward_B - 0.3 * seen.kl_B)
    by_hand = ((logp_BT - ref_BT) * raw.batch.mask_BT).sum(dim=1)
    torch.testing.assert_close(seen.kl_B, by_hand)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_score_that_is_not_finite_ends_the_run_and_names_the_text(bad):
    with pytest.raises(TrainingError, match=r"rollout 1 .*'the culprit'"):
        made(rollouts(["fine", "the culprit"], [2, 2], [True, True]), [1.0, bad])


def test_importance_weights_are_learner_over_sampler_up_to_the_cap():
    raw = rollouts(["a", "b"], [2, 1], [True, True])
    learner_BT = torch.where(raw.batch.mask_BT, -0.5, 0.0)  # half a nat likelier than the sampler said
    weight_BT = made(raw, [0.0, 1.0], logp_BT=learner_BT).weight_BT
    assert weight_BT[0].tolist() == pytest.approx([0, 0, 1.648721, 1.648721])
    assert weight_BT[1].tolist() == pytest.approx([0, 0, 1.648721, 0])
    capped_BT = made(raw, [0.0, 1.0], logp_BT=learner_BT, weight_cap=1.2).weight_BT
    assert capped_BT.max().item() == pytest.approx(1.2)


def four() -> Experience:
    """Two prompts with two answers each, everything chosen."""
    raw = rollouts(["x y x", "x y x", "z", ""], [3, 3, 2, 1], [True, False, True, True])
    mask_BT = raw.batch.mask_BT
    ref_BT = torch.where(mask_BT, -1.2, 0.0)
    ref_BT[0, 2] = -2.0  # the first token of the first answer is 1 nat likelier than under the reference
    logp_BT = raw.sampler_logp_BT.clone()
    logp_BT[2, 3] = -1.4
    return made(raw, [3.0, 3.0, 1.0, 1.0], logp_BT=logp_BT, ref_logp_BT=ref_BT, cfg=UnfinishedConfig(mode="subtract"))


def test_figures_by_hand():
    seen = describe(four())
    # k1 by row: 1 + .2 + .2 = 1.4; .6; .2 - .2 = 0; .2. Rewards: 3, 2, 1, 0. Lengths: 3, 3, 2, 1.
    assert seen["score"] == 2.0 and seen["score_std"] == 1.0
    assert seen["reward"] == pytest.approx(1.5)
    assert seen["kl"] == pytest.approx((1.4 + 0.6 + 0.0 + 0.2) / 4)
    assert seen["kl_se"] == pytest.approx(torch.tensor([1.4, 0.6, 0.0, 0.2]).std().item() / 2)
    k3 = {d: 2.718281828**-d - 1 + d for d in (1.0, 0.2, -0.2)}
    assert seen["kl_k3"] == pytest.approx((k3[1.0] + 7 * k3[0.2] + k3[-0.2]) / 4, rel=1e-4)
    assert seen["entropy"] == pytest.approx(0.5)
    assert seen["length"] == 2.25
    assert seen["unfinished"] == 0.25 and seen["empty"] == 1.0
    assert seen["unique"] == 0.75  # one of the first pair, two of the second
    assert seen["repetition"] == 0.5  # "x y x" holds one phrase of three words; the other two hold none
    assert seen["first_token_kl"] == pytest.approx((1.0 + 3 * 0.2) / 4)
    assert seen["zero_std_groups"] == 0.0  # equal scores, but one of each pair pays the penalty
    assert seen["max_mismatch"] == pytest.approx(0.4) and seen["mismatch_mean"] == pytest.approx(0.4 / 9)
    w = 2.718281828**-0.4
    assert seen["ess"] == pytest.approx((8 + w) ** 2 / (9 * (8 + w**2)))
    # Scores (3, 3, 1, 1) against lengths (3, 3, 2, 1): covariance .75, deviations 1 and sqrt(.6875).
    assert seen["length_corr"] == pytest.approx(0.75 / 0.6875**0.5)


def test_groups_of_one_reward_are_counted():
    seen = made(rollouts(["a", "b", "c", "d"], [1, 1, 2, 2], [True] * 4), [1.0, 1.0, 1.0, 2.0])
    assert describe(seen)["zero_std_groups"] == 0.5
    alone = made(rollouts(["a", "b"], [1, 1], [True] * 2, group=1), [1.0, 1.0])
    assert describe(alone)["zero_std_groups"] == 0.0 and describe(alone)["length_corr"] == 0.0


def test_masked_out_answers_still_count_as_divergence():
    raw = rollouts(["a", "b"], [2, 2], [True, False])
    ref_BT = torch.where(raw.batch.mask_BT, -3.0, 0.0)
    seen = made(raw, [1.0, 2.0], ref_logp_BT=ref_BT, cfg=UnfinishedConfig(mode="mask"))
    assert seen.kl_B.tolist() == [4.0, 0.0]  # what is trained on
    assert describe(seen)["kl"] == 4.0  # how far the policy is


def test_a_penalty_is_no_reward():
    with pytest.raises(ConfigError, match=r"unfinished\.value = -1"):
        UnfinishedConfig(value=-1.0)
