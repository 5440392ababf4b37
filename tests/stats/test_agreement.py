"""Agreement by hand, Krippendorff's own example, and three annotators of PandaLM."""

import json
import lzma
import random
from pathlib import Path

import pytest

from tutelage.stats.agreement import (
    alpha_with_interval,
    cohen_kappa,
    kendall_tau_b,
    krippendorff_alpha,
    pairwise_agreement,
)

SHARED = Path(__file__).parents[3] / "shared"
# Krippendorff 2011: four observers, twelve units; None is a missing rating.
KRIPPENDORFF = [
    [1, 1, None, 1],
    [2, 2, 3, 2],
    [3, 3, 3, 3],
    [3, 3, 3, 3],
    [2, 2, 2, 2],
    [1, 2, 3, 4],
    [4, 4, 4, 4],
    [1, 1, 2, 1],
    [2, 2, 2, 2],
    [None, 5, 5, 5],
    [None, None, 1, 1],
    [None, 3, None, None],
]


def test_pairwise_agreement_by_hand():
    # Pairs (x,y), (x,z), (y,z). Ann: x > y > z = (+, +, +). Bob: x = y > z = (0, +, +). Cat, on x and y: (-).
    # Ann-Bob: +0 half, ++, ++; Ann-Cat: +- none; Bob-Cat: 0- half. Exact 2/5, half 3/5, untied 2/3.
    got = pairwise_agreement(
        [
            ("ann", "p", {"x": 1, "y": 2, "z": 3}),
            ("bob", "p", {"x": 1, "y": 1, "z": 2}),
            ("cat", "p", {"x": 2, "y": 1}),
            ("cat", "q", {"x": 2, "y": 1}),
        ]
    )
    assert got.n_prompts == 1
    assert (got.exact.value, got.exact.n) == (pytest.approx(2 / 5), 5)
    assert (got.half.value, got.half.n) == (pytest.approx(3 / 5), 5)
    assert (got.untied.value, got.untied.n) == (pytest.approx(2 / 3), 3)
    assert got.labelers == ("ann", "bob", "cat")
    assert got.matrix == (
        (None, pytest.approx(2.5 / 3), 0.0),
        (pytest.approx(2.5 / 3), None, 0.5),
        (0.0, 0.5, None),
    )


def test_two_ties_agree_and_are_left_out_of_the_untied():
    got = pairwise_agreement([("a", "p", {"x": 1, "y": 1}), ("b", "p", {"x": 1, "y": 1})])
    assert (got.exact.value, got.half.value, got.untied) == (1, 1, None)


def test_only_the_order_of_tiers_counts():
    got = pairwise_agreement([("a", "p", {"x": 1, "y": 2}), ("b", "p", {"x": 3, "y": 7})])
    assert got.untied.value == 1


def test_one_labeler_is_not_his_own_peer():
    got = pairwise_agreement([("a", "p", {"x": 1, "y": 2}), ("a", "p", {"x": 2, "y": 1})])
    assert (got.n_prompts, got.exact, got.half, got.untied) == (0, None, None, None)
    assert got.matrix == ((None,),)


def test_order_of_judgements_and_names_of_labelers_do_not_matter():
    rng = random.Random(0)
    judged = [
        (name, f"p{p}", {item: rng.randint(1, 3) for item in "wxyz"})
        for p in range(8)
        for name in rng.sample(["a", "b", "c", "d"], 3)
    ]
    got = pairwise_agreement(judged)
    shuffled = pairwise_agreement(rng.sample(judged, len(judged)))
    assert shuffled.half.value == pytest.approx(got.half.value)
    assert shuffled.exact.value == pytest.approx(got.exact.value)
    assert shuffled.matrix == got.matrix
    assert 0 < got.half.low < got.half.value < got.half.high < 1


def test_kappa_by_hand():
    # 20 yes-yes, 5 yes-no, 10 no-yes, 15 no-no: observed .7, by chance .5 * .6 + .5 * .4 = .5, kappa .4.
    a = ["y"] * 25 + ["n"] * 25
    b = ["y"] * 20 + ["n"] * 5 + ["y"] * 10 + ["n"] * 15
    assert cohen_kappa(a, b) == cohen_kappa(b, a) == pytest.approx(0.4)


def test_kappa_ends():
    assert cohen_kappa("abab", "abab") == 1
    assert cohen_kappa("abab", "baba") == -1
    assert cohen_kappa("aaaa", "aaaa") is None
    assert cohen_kappa("", "") is None
    assert cohen_kappa("aaaa", "abab") == 0


@pytest.mark.parametrize(("level", "alpha"), [("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849)])
def test_alpha_of_krippendorffs_example(level, alpha):
    assert krippendorff_alpha(KRIPPENDORFF, level) == pytest.approx(alpha, abs=5e-4)


def test_alpha_by_hand():
    # Units (1,1), (1,2), (2,2): 6 ratings, three of each. Observed 2/6, expected 2*3*3/(6*5) = .6: alpha 4/9.
    assert krippendorff_alpha([[1, 1], [1, 2], [2, 2]]) == pytest.approx(4 / 9)


def test_alpha_levels_differ_where_the_steps_do():
    # Two units off by one step, or by a hundred: nominal sees the same, interval does not, ordinal only ranks.
    near, far = [[1, 2], [3, 3], [1, 1]], [[1, 2], [300, 300], [1, 1]]
    assert krippendorff_alpha(near, "nominal") == krippendorff_alpha(far, "nominal")
    assert krippendorff_alpha(near, "ordinal") == krippendorff_alpha(far, "ordinal")
    assert krippendorff_alpha(near, "interval") < krippendorff_alpha(far, "interval")


def test_alpha_is_undefined_where_all_say_the_same_or_nothing_pairs():
    assert krippendorff_alpha([[2, 2], [2, 2, 2]]) is None
    assert krippendorff_alpha([[1], [2, None], []]) is None
    assert krippendorff_alpha([]) is None


def test_alpha_is_one_in_full_agreement_and_near_nought_by_chance():
    assert krippendorff_alpha([[1, 1], [2, 2], [3, 3]], "ordinal") == 1
    rng = random.Random(1)
    assert abs(krippendorff_alpha([[rng.randint(1, 3) for _ in range(3)] for _ in range(3000)])) < 0.03


def test_alpha_is_blind_to_the_order_of_raters_and_of_units():
    rng = random.Random(2)
    shuffled = rng.sample([rng.sample(unit, len(unit)) for unit in KRIPPENDORFF], len(KRIPPENDORFF))
    assert krippendorff_alpha(shuffled, "ordinal") == pytest.approx(krippendorff_alpha(KRIPPENDORFF, "ordinal"))


def test_tau_by_hand():
    # (1,2,3,4) against (1,2,4,3): 5 concordant, 1 discordant. With ties: (1,1,2) against (1,2,3): 2 / sqrt(2 * 3).
    assert kendall_tau_b([1, 2, 3, 4], [1, 2, 4, 3]) == pytest.approx(4 / 6)
    assert kendall_tau_b([1, 1, 2], [1, 2, 3]) == pytest.approx(2 / 6**0.5)
    assert kendall_tau_b([1, 2, 3], [3, 2, 1]) == pytest.approx(-1)
    assert kendall_tau_b([1, 1, 1], [1, 2, 3]) is None


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"{SHARED} is not here: the PandaLM annotations are not shipped")
def test_three_annotators_of_pandalm():
    with lzma.open(SHARED / "data" / "pref_pandalm_3annotators.jsonl.xz", "rt", encoding="utf-8") as file:
        votes = [[row[f"annotator{k}"] for k in (1, 2, 3)] for row in map(json.loads, file)]
    tiers = {0: {"1": 1, "2": 1}, 1: {"1": 1, "2": 2}, 2: {"1": 2, "2": 1}}
    got = pairwise_agreement(
        (f"annotator{k}", f"row{i}", tiers[vote]) for i, row in enumerate(votes) for k, vote in enumerate(row)
    )
    assert (got.n_prompts, got.exact.n) == (462, 1386)
    assert sum(len(set(row)) == 1 for row in votes) == 402
    assert got.exact.value == pytest.approx(0.913, abs=5e-4)
    assert krippendorff_alpha(votes, "nominal") == pytest.approx(0.850, abs=5e-4)


def test_alpha_with_an_interval_is_the_same_alpha_and_narrows_with_prompts():
    rng = random.Random(4)
    units = [[truth if rng.random() < 0.8 else 1 - truth for _ in range(3)] for truth in rng.choices((0, 1), k=400)]
    few = alpha_with_interval(units[:40], list(range(40)))
    many = alpha_with_interval(units, list(range(400)))
    assert few is not None and many is not None
    assert many.value == pytest.approx(krippendorff_alpha(units)) and many.n == 400
    assert many.low < many.value < many.high and many.high - many.low < (few.high - few.low) / 2
    together = alpha_with_interval(units, [i // 20 for i in range(400)], "ordinal")
    assert together is not None and together.value == pytest.approx(krippendorff_alpha(units, "ordinal"))


def test_alpha_has_no_interval_where_it_is_undefined():
    assert alpha_with_interval([[1, 1], [1, 1]], ["p", "q"]) is None
    assert alpha_with_interval([[1, None]], ["p"]) is None
