"""Turns, and which of them count."""

import argparse
import json
import sys

import machine
import pairs
import pytest
from pairs import Side, SideError, Spread, conclude, quiet_rounds

WORKER = """
import sys
sys.path.insert(0, {folder!r})
from turns import Steps, take_turns
print("what a library prints")
{body}
"""


def worker(tmp_path, body: str) -> Side:
    path = tmp_path / "worker.py"
    path.write_text(WORKER.format(folder=str(pairs.HERE / "peers"), body=body), encoding="utf-8")
    return Side("worker", [sys.executable, str(path)], 1, pairs.cpus(1))


def test_a_function_takes_turns(tmp_path) -> None:
    side = worker(tmp_path, "take_turns(lambda i: {'seconds': 2.0, 'tokens': 10 * (i + 1)}, {'what': 'toy'})")
    side.start()
    assert side.facts == {"what": "toy"}
    assert [side.turn()["tokens"] for _ in range(3)] == [10, 20, 30]
    assert side.close()["peak_gb"] > 0


def test_a_loop_of_somebody_else_is_held_between_its_steps(tmp_path) -> None:
    body = (
        "steps = Steps(lambda: {'what': 'loop'}, warm_up=2)\n"
        "for i in range(10):\n    print('step', i)\n    steps.done(step=i)\nraise AssertionError('ran on')"
    )
    side = worker(tmp_path, body)
    side.start()
    assert [side.turn()["step"] for _ in range(2)] == [2, 3]  # 0 and 1 were the warm-up
    side.close()


def test_a_side_that_fails_says_why(tmp_path) -> None:
    side = worker(tmp_path, "sys.exit('no such model')")
    with pytest.raises(SideError, match=r"exit code 1(.|\n)*no such model"):
        side.start()


def test_a_round_counts_only_between_two_quiet_probes() -> None:
    probes = [
        {"fp32": 100, "bf16": 400},
        {"fp32": 91, "bf16": 400},
        {"fp32": 100, "bf16": 359},
        {"fp32": 95, "bf16": 390},
    ]
    assert quiet_rounds(probes, {"fp32": 100, "bf16": 400}) == [0]  # 359 is below 0.9 x 400, on either side of it
    assert quiet_rounds(probes, {"fp32": 120, "bf16": 400}) == []


def test_ratio_is_of_medians_over_quiet_rounds(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(pairs, "quiet_probe", lambda probes, threads, results: {"bf16": 100})

    def turn(seconds: float) -> dict[str, float]:
        return {"seconds": seconds, "tokens": 60}

    # Rates of ours 60, 30, 20, of the peer 10, 6, 5; the last round lies beside a probe of 50 and does not count.
    rounds = [{"ours": turn(a), "peer": turn(b)} for a, b in ((1, 6), (2, 10), (3, 12))]
    probes = [{"bf16": p} for p in (100, 100, 100, 50)]
    sides = [Side(name, [], 1, [0]) for name in ("ours", "peer")]
    ends = {"ours": {"peak_gb": 1.0}, "peer": {"peak_gb": 2.0}}
    options = argparse.Namespace(threads=1, keep=tmp_path)
    line = conclude("toy", "case", sides, rounds, probes, ends, options=options, work="tokens")
    assert (line["pairs"], line["dropped"]) == (2, 1)
    assert line["sides"]["ours"]["rate"] == {"median": 45, "low": 30, "high": 60}
    assert line["ratios"]["peer"] == {"median": 5.625, "low": 5, "high": 6}  # 45 / 8; 30 / 6 and 60 / 10
    assert pairs.read_results(tmp_path) == [json.loads(json.dumps(line))]


def test_where_no_round_was_quiet_there_is_no_ratio(monkeypatch) -> None:
    monkeypatch.setattr(pairs, "quiet_probe", lambda probes, threads, results: {"bf16": 100})
    sides, turn = [Side(name, [], 1, [0]) for name in ("ours", "peer")], {"seconds": 1.0, "tokens": 1}
    rounds, probes = [{"ours": turn, "peer": turn}], [{"bf16": 40}, {"bf16": 100}]
    options = argparse.Namespace(threads=1, keep=None)
    line = conclude("toy", "case", sides, rounds, probes, {"ours": {}, "peer": {}}, options=options, work="tokens")
    assert line["pairs"] == 0 and "ratios" not in line


def test_spread_keeps_the_least_and_the_most() -> None:
    assert Spread.of([3.0, 1.0, 2.0, 10.0]).to_json() == {"median": 2.5, "low": 1.0, "high": 10.0}


def test_the_quiet_value_is_the_median_of_best_probes_since_the_machine_started(monkeypatch) -> None:
    me = machine.facts() | {"threads": 1}
    earlier = [me | {"probe": {"best": {"bf16": rate}}} for rate in (120, 90)]
    other = me | {"boot": "another", "probe": {"best": {"bf16": 1000}}}
    old = {k: v for k, v in other.items() if k != "boot"}  # of before starts were told apart
    monkeypatch.setattr(pairs, "read_results", lambda folder: [*earlier, other, old, me | {"bench": "scaling"}])
    assert pairs.quiet_probe([{"bf16": 70}, {"bf16": 100}], 1) == {"bf16": 100}  # of 120, 90 and 100
    assert pairs.quiet_probe([{"bf16": 70}, {"bf16": 100}], 2) == {"bf16": 100}  # no earlier one with two threads
