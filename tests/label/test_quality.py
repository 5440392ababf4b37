"""The figures of the quality page: by hand on few answers, by PandaLM's three annotators, by simulated people."""

import dataclasses
import json
import lzma
import random

import pytest

from tutelage.label.quality import LEAST_AGREED, Figures, measure
from tutelage.label.quality_agreement import ALL_THE_SAME, NOTHING_TWICE
from tutelage.label.quality_models import RewardCard
from tutelage.stats.agreement import Rate
from tutelage.store.quality_facts import GivenAnswer, JudgedText, QualityFacts


def given(labeler, tiers, task=1, *, kind="rank", **more):
    """An answer to a task whose completions are a, b, c, … of that task, shown in this order."""
    placed = {f"{task}{name}": tier for name, tier in zip("abcdefghi", tiers, strict=False)}
    fields = {"key": f"{labeler}-{task}", "source": "s", "prompt_id": f"p{task}", "tiers": placed, **more}
    return GivenAnswer(task_id=task, kind=kind, labeler=labeler, **fields)


def facts(*answers, texts=None):
    names = {i for a in answers for i in a.tiers}
    plain = {name: JudgedText(None, "model", 10) for name in names}
    return QualityFacts(len(answers), tuple(answers), plain | (texts or {}), {})


def test_agreement_by_hand():
    # ann 1 2 3, bob 1 3 2: pairs ab, ac alike, bc reversed. W: sums of ranks 2, 5, 5 -> S 6 of at most 8.
    q = measure(facts(given("ann", (1, 2, 3)), given("bob", (1, 3, 2))))
    for rate in (q.agreed.exact, q.agreed.half, q.agreed.untied):
        assert (rate.value, rate.n) == (pytest.approx(2 / 3), 3)
    assert q.concordance.found.value == pytest.approx(6 / 8) and q.tau.found.value == pytest.approx(1 / 3)
    # Six ratings of pairs, five of them "the first is better": observed 2/6, expected 2 * 5 * 1 / (6 * 5).
    assert q.alpha_nominal.found.value == pytest.approx(1 - (2 / 6) / (10 / 30))
    assert [p.agreement.value for p in q.people] == [pytest.approx(2 / 3)] * 2


def test_a_tie_is_half_an_agreement_and_no_told_pair():
    q = measure(facts(given("ann", (1, 1)), given("bob", (1, 2))))
    assert (q.agreed.exact.value, q.agreed.half.value, q.agreed.untied) == (0, 0.5, None)
    assert q.ties.value == 0.5


def test_what_is_undefined_says_why():
    same = measure(facts(given("ann", (1, 2)), given("bob", (1, 2))))
    assert (same.alpha_nominal.found, same.alpha_nominal.why) == (None, ALL_THE_SAME)
    alone = measure(facts(given("ann", (1, 2))))
    assert alone.agreed.half is None and alone.alpha_ordinal.why == alone.tau.why == NOTHING_TWICE
    nothing = measure(facts())
    assert nothing.people == nothing.kinds == nothing.versions == ()
    assert nothing.ties is nothing.timing is nothing.first_best is None


def test_checks_practice_repeats_and_skips_are_no_part_of_agreement():
    answers = [
        given("ann", (1, 2)),
        given("bob", (1, 2)),
        given("cat", (2, 1), is_check=True, score=0.0),
        given("dan", (2, 1), is_practice=True),
        given("bob", (2, 1), is_repeat=True),
        given("eve", (), is_skipped=True),
    ]
    q = measure(facts(*answers))
    assert (q.agreed.half.value, q.agreed.half.n) == (1, 1)
    assert (q.answers, q.checks, q.repeats) == (2, 1, 1)
    person = {p.labeler: p for p in q.people}
    assert set(person) == {"ann", "bob", "cat", "eve"}  # practice leaves no trace
    assert person["bob"].repeats.value == 0 and person["ann"].repeats is None
    assert (person["cat"].checks.value, person["cat"].agreement) == (0, None)
    assert person["eve"].skipped.value == 1 and q.skipped.value == pytest.approx(1 / 5)


def test_position_and_length_by_hand():
    long, short = JudgedText(None, "model", 90), JudgedText(None, "model", 10)
    texts = {"1a": long, "1b": short, "2a": long, "2b": short, "3a": short, "3b": short}
    answers = [given("ann", (1, 2), 1), given("ann", (1, 1), 2), given("ann", (2, 1), 3)]
    q = measure(facts(*answers, texts=texts))
    # First shown best: alone, shared by two, not. Longer: of the pairs with a winner one differs in length.
    assert (q.first_best.value, q.first_chance) == (pytest.approx(0.5), 0.5)
    assert (q.longer_better.value, q.longer_better.n) == (1, 1)


def test_time_is_the_median_of_what_is_known():
    answers = [given("ann", (1, 2), i, active_ms=ms) for i, ms in enumerate((1000, 3000, 8000, 0))]
    answers.append(given("ann", (), 9, is_skipped=True, active_ms=10**6))
    timing = measure(facts(*answers)).timing
    assert (timing.median_s, timing.n) == (3.0, 3) and timing.p90_s == pytest.approx(7.0)


def test_kinds_stand_apart():
    answers = [given("ann", (1, 2), 1, kind="compare"), given("bob", (2, 1), 1, kind="compare")]
    answers += [given(name, (1, 2, 3), 2) for name in ("ann", "bob")] + [given("ann", (), 3, kind="demonstrate")]
    kinds = {k.kind: k for k in measure(facts(*answers)).kinds}
    assert kinds["compare"].agreed.half.value == 0 and kinds["rank"].agreed.half.value == 1
    assert kinds["demonstrate"].agreed is None and kinds["demonstrate"].answers == 1
    # One pair rated 1 and -1: observed disagreement is all that can be expected. All pairs of the ranking are alike.
    assert kinds["compare"].alpha.found.value == pytest.approx(0) and kinds["compare"].tau is None
    assert kinds["rank"].alpha.why == ALL_THE_SAME and kinds["rank"].tau.found.value == 1
    assert kinds["demonstrate"].alpha is kinds["demonstrate"].tau is None


def test_the_least_agreed_tasks_come_worst_first():
    # Task 1: one of three pairs is reversed. Task 2: a tie against a preference. Task 3: reversed. Task 4: alike.
    answers = [given("ann", (1, 2, 3), 1), given("bob", (1, 3, 2), 1), given("ann", (1, 1), 2), given("bob", (1, 2), 2)]
    answers += [given(name, places, 3) for name, places in (("ann", (1, 2)), ("bob", (2, 1)))]
    answers += [given(name, (1, 2), 4) for name in ("ann", "bob")] + [given("ann", (1, 2), 5)]
    found = [(t.task_id, t.people, t.half) for t in measure(facts(*answers)).least_agreed]
    assert found == [(3, 2, 0.0), (2, 2, 0.5), (1, 2, pytest.approx(2 / 3))]
    many = [given(name, (1, 2) if name == "ann" else (2, 1), i) for i in range(30) for name in ("ann", "bob")]
    assert len(measure(facts(*many)).least_agreed) == LEAST_AGREED


def test_grades_and_flags_by_hand():
    # Two texts, two people: grades 7 and 7, 1 and 3; only ann flags the second text.
    ann = given("ann", (1, 2), ratings=(("1a", "overall", 7), ("1b", "overall", 1)), flags=(("1b", "false"),))
    bob = given("bob", (1, 2), ratings=(("1a", "overall", 7), ("1b", "overall", 3)))
    q = measure(facts(ann, bob))
    (aspect,), (flag,) = q.aspects, q.flags
    assert (aspect.aspect, aspect.grades) == ("overall", 4) and 0.5 < aspect.alpha.found.value < 1
    assert (flag.category, flag.raised.value, flag.raised.n) == ("false", 0.25, 4)
    assert flag.alpha.found.value == pytest.approx(1 - (2 / 4) / (6 / 12))
    assert 0 < flag.applies < 0.5


def test_versions_are_ranked_by_what_people_prefer():
    def text(version):
        return JudgedText(version, "human" if version is None else "model", 10)

    answers, texts = [], {}
    for task in range(60):
        texts |= {f"{task}a": text("ppo"), f"{task}b": text("sft"), f"{task}c": text(None)}
        answers.append(given("ann", (2, 3, 1) if task % 4 else (2, 1, 1), task))
    versions = measure(facts(*answers, texts=texts)).versions
    assert [v.name for v in versions] == ["written by people", "ppo", "sft"]
    assert all(v.low < v.score < v.high and v.n == 120 for v in versions)
    assert versions[0].beats > 0.5 > versions[2].beats and versions[0].low > versions[2].high


def crowd(n_tasks=150, seed=0):
    """Four careful people, a coin, and one who turns every order round; three of them see each task."""
    rng, answers = random.Random(seed), []
    people = ["careful-1", "careful-2", "careful-3", "careful-4", "coin", "turned"]
    for task in range(n_tasks):
        worth = [rng.gauss(0, 2) for _ in range(4)]
        for name in rng.sample(people, 3):
            seen = [w + rng.gauss(0, 0.8) for w in worth]
            seen = [rng.random() for _ in seen] if name == "coin" else [-s for s in seen] if name == "turned" else seen
            order = sorted(seen, reverse=True)
            tiers = [order.index(s) + 1 for s in seen]
            ms = 2_000 if name == "coin" else rng.randint(20_000, 60_000)
            answers.append(given(name, tiers, task, active_ms=ms))
    return facts(*answers)


def test_the_careless_and_the_adversarial_are_found_and_nobody_else():
    people = {p.labeler: p for p in measure(crowd()).people}
    assert list(people) == sorted(people)
    signs = {name: " ".join(p.signs) for name, p in people.items()}
    assert "others find worse" in signs["turned"] and "view of their own" in signs["turned"]
    assert "close to chance" in signs["coin"] and "faster" in signs["coin"]
    assert [signs[f"careful-{i}"] for i in (1, 2, 3, 4)] == [""] * 4
    assert people["turned"].reliability.high < 0.5 < people["careful-1"].reliability.low
    assert people["turned"].reliability.weight == 0 < people["coin"].reliability.weight + 1e-9
    assert sum(p.reliability.weight for p in people.values()) == pytest.approx(6)


def test_few_answers_carry_no_sign():
    answers = [given(name, tiers) for name, tiers in (("ann", (1, 2)), ("bob", (1, 2)), ("cat", (2, 1)))]
    assert all(p.signs == () for p in measure(facts(*answers)).people)


def test_the_same_facts_give_the_same_figures_as_plain_json():
    whole = crowd(40)
    one, other = measure(whole), measure(dataclasses.replace(whole, answers=tuple(reversed(whole.answers))))
    text = json.dumps(dataclasses.asdict(one), allow_nan=False)
    assert text == json.dumps(dataclasses.asdict(measure(whole)), allow_nan=False)
    assert other.agreed.half.value == pytest.approx(one.agreed.half.value)
    for p, q in zip(one.people, other.people, strict=True):
        assert q.reliability.value == pytest.approx(p.reliability.value, abs=1e-4)


def test_the_reward_model_stands_beside_each_person():
    card = RewardCard("round-1/reward-0", Rate(0.7, 0.6, 0.8, 90), {"ann": Rate(0.75, 0.6, 0.85, 40)})
    people = measure(facts(given("ann", (1, 2)), given("bob", (1, 2))), card).people
    assert [p.reward for p in people] == [card.by_labeler["ann"], None]


def test_three_annotators_of_pandalm(shared_data):
    with lzma.open(shared_data / "pref_pandalm_3annotators.jsonl.xz", "rt", encoding="utf-8") as file:
        votes = [[row[f"annotator{k}"] for k in (1, 2, 3)] for row in map(json.loads, file)]
    tiers = {0: (1, 1), 1: (1, 2), 2: (2, 1)}
    answers = [
        given(f"annotator{k}", tiers[vote], task, kind="compare")
        for task, row in enumerate(votes)
        for k, vote in enumerate(row, start=1)
    ]
    q = measure(facts(*answers))
    assert q.agreed.n_prompts == 462 and q.agreed.exact.n == 1386
    assert q.agreed.exact.value == pytest.approx(0.913, abs=5e-4)
    assert q.alpha_nominal.found.value == pytest.approx(0.850, abs=5e-4)
    assert q.alpha_nominal.found.low < 0.850 < q.alpha_nominal.found.high
    assert sum(len(set(row)) == 1 for row in votes) == 402
    assert all(p.reliability.low > 0.9 and not p.signs for p in q.people)


def test_figures_are_kept_until_somebody_says_something_new(house, monkeypatch):
    figures = Figures()
    house.settings(overlap=3)
    house.task(overlap=3)
    people = [house.person() for _ in range(3)]

    def says_something(i):
        house.answer(people[i], house.next(people[i])["id"], f"key-{i:06}")

    says_something(0)
    first = figures.of(house.store, house.project.id, None)
    assert first.answers == 1 and figures.of(house.store, house.project.id, None) is first
    says_something(1)
    second = figures.of(house.store, house.project.id, None)
    assert second.answers == 2
    monkeypatch.setattr("tutelage.label.quality.LARGE", 0)  # as if a count took long: the figures rest
    monkeypatch.setattr("tutelage.label.quality.REST", 1e9)
    says_something(2)
    assert figures.of(house.store, house.project.id, None) is second
    monkeypatch.setattr("tutelage.label.quality.REST", 0)
    assert figures.of(house.store, house.project.id, None).answers == 3
    assert len(figures.facts(house.store, house.project.id).answers) == 3
