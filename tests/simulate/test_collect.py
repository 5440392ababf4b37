"""A round of simulated labelling into a real store."""

import random

import pytest

from tutelage.errors import ConfigError, DataError
from tutelage.simulate.collect import collect
from tutelage.simulate.labeller import LabellerConfig
from tutelage.store import completions, feedback, people, prompts
from tutelage.store.db import open_store
from tutelage.types import Completion, Message, Prompt

CONFIG = LabellerConfig()


class ByNumber:
    """A gold score that stands in the text: "2.5 and so on" scores 2.5, and 9 less where it was cut."""

    def score_many(self, items):
        return [float(text.split()[0]) - 9 * (not finished) for _, text, finished in items]


def a_group(i: int, texts: list[str], finish: str = "stop") -> tuple[Prompt, list[Completion]]:
    prompt = Prompt(messages=(Message(role="user", content=f"Question {i}?"),), source="test")
    return prompt, [
        Completion(prompt_id=prompt.id, text=t, sample=k, finish_reason=finish) for k, t in enumerate(texts)
    ]


def groups_of(n: int, k: int = 4) -> list[tuple[Prompt, list[Completion]]]:
    rng = random.Random(0)
    return [a_group(i, [f"{rng.gauss(0, 1):.6f} words" for _ in range(k)]) for i in range(n)]


@pytest.fixture
def store(tmp_path):
    with open_store(tmp_path / "store.db") as opened:
        yield opened


def fill(store, groups):
    prompts.add_prompts(store, [p for p, _ in groups])
    completions.add_completions(store, [c for _, given in groups for c in given])
    return groups


def run(store, groups, config=CONFIG, **other):
    kw = {"gold": ByNumber(), "source": "round-1", "seed": 3, "overlap": 0.5, **other}
    return collect(store, groups, config=config, **kw)


def test_realised_agreement_and_accuracy_are_those_of_the_calibration(store):
    report = run(store, fill(store, groups_of(300)))
    assert report.agreement == pytest.approx(0.73, abs=0.035)  # about 150 groups of 6 pairs
    assert 0.78 < report.accuracy < 0.92
    assert 0.05 < report.n_ties / report.n_pairs < 0.25
    assert report.n_pairs == 6 * report.n_rankings
    assert 400 < report.n_rankings < 500 and report.n_skipped == 0


def test_twice_adds_nothing(store):
    groups = fill(store, groups_of(20))
    first = run(store, groups)
    before = list(feedback.events(store))
    assert len(before) == first.n_rankings
    assert run(store, groups) == first
    assert list(feedback.events(store)) == before


def test_what_a_killed_round_left_out_is_added(store):
    groups = fill(store, groups_of(20))
    half = run(store, groups[:10], sigma=0.7)
    whole = run(store, groups, sigma=0.7)
    assert feedback.count(store) == whole.n_rankings > half.n_rankings


def test_another_source_or_seed_draws_anew(store):
    groups = fill(store, groups_of(20))
    n = run(store, groups, overlap=0.0).n_rankings
    run(store, groups, overlap=0.0, source="round-2")
    run(store, groups, overlap=0.0, seed=4)
    assert feedback.count(store) == 3 * n
    assert feedback.count(store, sources=["round-2"]) == n


def test_labellers_are_simulated_and_share_the_work(store):
    run(store, fill(store, groups_of(60)), overlap=0.0)
    assert set(people.labeler_kinds(store).values()) == {"simulated"}
    authors = [e.feedback.labeler for e in feedback.events(store)]
    assert set(authors) == {f"sim-{i:02d}" for i in range(1, 7)}
    assert max(authors.count(a) for a in set(authors)) < 30


def test_what_was_shown_is_shuffled_and_timed(store):
    run(store, fill(store, groups_of(30)), overlap=0.0)
    events = [e.feedback for e in feedback.events(store)]
    assert all(set(f.shown) == {i.completion_id for i in f.judgement.items} for f in events)
    assert sum(f.shown != tuple(i.completion_id for i in f.judgement.items) for f in events) > 20
    assert all(f.active_ms > 0 for f in events)


def test_one_text_is_one_tier_and_groups_of_one_text_are_skipped(store):
    groups = fill(store, [a_group(0, ["1 a", "1 a"]), a_group(1, ["0 b", "5 a", "0 b"]), a_group(2, ["1 a"])])
    report = run(store, groups, overlap=0.0, sigma=0.0)
    (event,) = feedback.events(store)
    assert [i.tier for i in event.feedback.judgement.items] == [2, 1, 2]
    assert (report.n_rankings, report.n_skipped, report.n_pairs, report.n_ties) == (1, 2, 1, 0)


def test_nothing_to_rank_is_no_error(store):
    report = run(store, fill(store, [a_group(0, ["1 a", "1 a"])]))
    assert (report.n_rankings, report.n_skipped, report.agreement, report.accuracy) == (0, 1, None, None)


def test_a_cut_answer_is_scored_as_cut(store):
    prompt, (good,) = a_group(0, ["1 whole"])
    cut = Completion(prompt_id=prompt.id, text="5 cut", finish_reason="length")
    run(store, fill(store, [(prompt, [good, cut])]), overlap=0.0, sigma=0.0)
    (event,) = feedback.events(store)
    assert {i.completion_id: i.tier for i in event.feedback.judgement.items} == {good.id: 1, cut.id: 2}


def test_noise_free_labels_are_all_right(store):
    report = run(store, fill(store, groups_of(20)), overlap=1.0, sigma=0.0)
    assert report.accuracy == report.agreement == 1.0


def test_careless_labels_are_right_by_chance(store):
    report = run(store, fill(store, groups_of(200)), LabellerConfig(carelessness=1.0), overlap=1.0)
    assert report.accuracy == pytest.approx(0.5, abs=0.04)
    assert report.agreement == pytest.approx(0.5, abs=0.06)


def test_too_many_completions_are_refused(store):
    with pytest.raises(DataError, match=r"group 0 .*10 completions.*Split"):
        run(store, fill(store, [a_group(0, [f"{k} a" for k in range(10)])]))


def test_overlap_needs_a_second_labeller(store):
    with pytest.raises(ConfigError, match=r"simulate\.overlap = 0\.5 with simulate\.n_labelers = 1"):
        run(store, [], LabellerConfig(n_labelers=1))
