"""Careless and adversarial labelers are found in simulated votes; small cases come out by arithmetic."""

import itertools
import math

import numpy as np
import pytest

from tutelage.stats.reliability import PRIOR, chance_better, dawid_skene, fit_noisy_bt

FLIPS = (0.02, 0.05, 0.1, 0.2, 0.5, 0.9)  # of the simulated labelers: careful ones, a coin, an adversary
SPREAD = 1.5


def compare(n_prompts, k=4, overlap=3, flips=FLIPS, seed=0):
    """Better, worse, labeler, prompt: every pair of the prompt's items, judged by some labelers who flip at random."""
    rng, rows = np.random.default_rng(seed), []
    for prompt in range(n_prompts):
        score = rng.normal(0, SPREAD, k)
        for h in rng.choice(len(flips), overlap, replace=False):
            for i, j in itertools.combinations(range(k), 2):
                first = (rng.random() < 1 / (1 + math.exp(score[j] - score[i]))) != (rng.random() < flips[h])
                rows.append((prompt * k + (i if first else j), prompt * k + (j if first else i), h, prompt))
    return tuple(np.array(rows).T)


def clearness():
    """The factor that all reliabilities share: root mean square of tanh(lead / 2)."""
    lead = np.random.default_rng(1).normal(0, SPREAD * math.sqrt(2), 100_000)
    return math.sqrt(np.mean(np.tanh(lead / 2) ** 2))


def test_the_chance_is_crowd_kits_without_a_bias_to_a_side():
    # p = f(g) f(s_i - s_j) + (1 - f(g)) f(q), at q = 0.
    f = lambda x: 1 / (1 + math.exp(-x))  # noqa: E731
    for skill, lead in ((0.3, 1.2), (-2.0, -0.7), (4.0, 0.0)):
        assert chance_better(f(skill), lead) == pytest.approx(f(skill) * f(lead) + (1 - f(skill)) / 2)
    assert chance_better(-1, 2.0) == pytest.approx(f(-2.0))


def test_noisy_bt_recovers_who_flips_how_often():
    fit = fit_noisy_bt(*compare(1500))
    true = clearness() * (1 - 2 * np.array(FLIPS))
    assert fit.reliability == pytest.approx(true, abs=0.08)
    assert fit.right[4] == pytest.approx(0.5, abs=0.04)  # flips half: chooses the better one half the time
    assert fit.low[4] < 0 < fit.high[4]  # and says nothing
    assert fit.high[5] < -0.3  # the adversary is beyond doubt below chance
    assert fit.low[:3].min() > 0.4


def test_the_intervals_hold_the_truth_about_as_often_as_they_say():
    true, held = clearness() * (1 - 2 * np.array(FLIPS)), []
    for seed in range(40):
        fit = fit_noisy_bt(*compare(150, overlap=2, seed=seed))
        held += list((fit.low <= true) & (true <= fit.high))
    assert 0.88 <= np.mean(held) <= 0.99


def test_the_adversary_gets_no_weight_in_training_and_the_mean_weight_is_one():
    fit = fit_noisy_bt(*compare(400))
    assert fit.weights.mean() == pytest.approx(1) and fit.weights.min() == fit.weights[5] == 0
    assert fit.weights[4] < 0.5 < fit.weights[0]


def test_renaming_labelers_items_and_prompts_changes_nothing():
    better, worse, labeler, prompt = compare(60)
    fit = fit_noisy_bt(better, worse, labeler, prompt)
    rng = np.random.default_rng(3)
    who, what, where, order = (
        rng.permutation(6),
        rng.permutation(240),
        rng.permutation(60),
        rng.permutation(len(better)),
    )
    again = fit_noisy_bt(what[better][order], what[worse][order], who[labeler][order], where[prompt][order])
    assert again.reliability[who] == pytest.approx(fit.reliability, abs=1e-5)
    assert again.low[who] == pytest.approx(fit.low, abs=1e-4) and (again.n[who] == fit.n).all()


def test_two_labelers_by_hand():
    # 8 of 10 agree and both are alike: the maximum of 8 log(1 + r^2) + 2 log(1 - r^2) + the two priors, on a grid.
    better, worse = [2 * i for i in range(10)] * 2, [2 * i + 1 for i in range(10)] * 2
    better[:2], worse[:2] = worse[:2], better[:2]
    fit = fit_noisy_bt(better, worse, [0] * 10 + [1] * 10, list(range(10)) * 2)
    r = np.linspace(0, 0.999, 100_000)
    prior = 2 * ((PRIOR[0] - 1) * np.log1p(r) + (PRIOR[1] - 1) * np.log1p(-r))
    best = r[np.argmax(8 * np.log1p(r**2) + 2 * np.log1p(-(r**2)) + prior)]
    assert fit.reliability == pytest.approx([best, best], abs=1e-3)
    assert list(fit.n) == [10, 10]
    assert fit.low.max() < 0.3  # two people cannot tell who of them is at fault


def test_who_met_nobody_is_judged_by_nothing():
    better, worse, labeler, prompt = compare(30, overlap=2, flips=(0.0, 0.0))
    alone = fit_noisy_bt([*better, 900], [*worse, 901], [*labeler, 2], [*prompt, 40], n_labelers=4)
    assert list(alone.n) == [180, 180, 0, 0]
    middle = (PRIOR[0] - PRIOR[1]) / (sum(PRIOR) - 2)
    assert alone.reliability[2:] == pytest.approx([middle, middle], abs=1e-6)
    assert alone.low[2] < 0 and alone.high[2] == 1
    assert len(fit_noisy_bt([], [], [], []).reliability) == 0


def test_a_labeler_who_judged_a_pair_twice_is_no_witness_for_herself():
    fit = fit_noisy_bt([0, 0], [1, 1], [0, 0], [0, 0])
    assert list(fit.n) == [0]


def test_a_majority_of_adversaries_is_taken_for_the_truth():
    # Nothing in the votes could say otherwise; the documentation does.
    fit = fit_noisy_bt(*compare(300, flips=(0.95, 0.95, 0.95, 0.05)))
    assert fit.reliability[:3].min() > 0.3 and fit.reliability[3] < -0.3


# Categories.


def votes(n_items, confusions, share, seed=0):
    """Item, labeler, label and the truth: every labeler labels every item."""
    rng = np.random.default_rng(seed)
    truth = rng.choice(len(share), n_items, p=share)
    rows = [(i, h, rng.choice(len(share), p=c[truth[i]])) for i in range(n_items) for h, c in enumerate(confusions)]
    return (*np.array(rows).T, truth)


GOOD = np.array([[0.9, 0.06, 0.04], [0.1, 0.8, 0.1], [0.05, 0.05, 0.9]])  # better, tie, worse
COIN = np.full((3, 3), 1 / 3)
TURNED = GOOD[::-1]


def test_dawid_skene_recovers_confusions_shares_and_truth():
    item, labeler, label, truth = votes(3000, [GOOD, GOOD, GOOD, COIN, TURNED], [0.45, 0.15, 0.4])
    fit = dawid_skene(item, labeler, label, n_classes=3)
    assert np.abs(fit.confusion - np.stack([GOOD, GOOD, GOOD, COIN, TURNED])).max() < 0.06
    assert fit.share == pytest.approx([0.45, 0.15, 0.4], abs=0.03)
    assert (fit.posterior.argmax(1) == truth).mean() > 0.95
    assert fit.right[3] == pytest.approx(1 / 3, abs=0.03) and fit.right[4] < 0.25 < 0.8 < fit.right[:3].min()
    assert fit.posterior.sum(1) == pytest.approx(np.ones(3000)) and list(fit.n) == [3000] * 5


def test_dawid_skene_by_hand_after_one_step():
    # Two items, two labelers: (yes, yes) and (yes, no). The vote shares are 1 and 1/2 yes; no prior, one step.
    fit = dawid_skene([0, 0, 1, 1], [0, 1, 0, 1], [1, 1, 1, 0], n_classes=2, diagonal=0, smoothing=1e-9, max_steps=1)
    assert fit.confusion[1, 1] == pytest.approx([1 / 3, 2 / 3])  # of 1.5 true yes she said yes once
    assert fit.share == pytest.approx([0.25, 0.75])
    # Item 2: no .25 * 1 * 1, yes .75 * 1 * 1/3.
    assert fit.posterior[1] == pytest.approx([0.5, 0.5])


def test_dawid_skene_turns_with_the_names_of_the_classes():
    item, labeler, label, _ = votes(200, [GOOD, GOOD, COIN], [0.5, 0.2, 0.3])
    fit = dawid_skene(item, labeler, label, n_classes=3)
    turn = np.array([2, 0, 1])
    turned = dawid_skene(item, labeler, turn[label], n_classes=3)
    assert turned.posterior[:, turn] == pytest.approx(fit.posterior, abs=1e-6)
    assert turned.right == pytest.approx(fit.right, abs=1e-6)


def test_two_labels_do_not_make_a_labeler_perfect():
    fit = dawid_skene([0, 0, 1, 1], [0, 1, 0, 1], [1, 1, 0, 0], n_classes=2)
    assert fit.right.max() < 0.85


def test_a_label_of_no_class_is_refused():
    with pytest.raises(AssertionError, match="labels run from"):
        dawid_skene([0], [0], [2], n_classes=2)
