"""The page says what was measured, and "not met" where it is below the bar."""

from xml.etree import ElementTree

from loglog import draw
from report import figures, page
from scaling import exponents

MACHINE = {"date": "2026-11-30", "cpu": "toy", "cores": 2, "device": "cpu", "commit": "abc", "threads": 2}


def sft(rate: float, ratio: float) -> dict:
    """A line of 55 operations a token on a machine of 100 operations a second (in 10^9)."""
    side = {"seconds": 1.0, "peak_gb": 1.0, "settings": {"what": "toy"}}
    peer = "SFTTrainer, bfloat16 weights"
    return MACHINE | {
        "bench": "sft", "case": "toy", "size": "10M", "batch": 32, "operations_per_token": 1e9, "pairs": 5,
        "dropped": 1, "peak": 100, "unit": "tokens/s",
        "sides": {
            "tutelage": side | {"rate": {"median": rate, "low": rate, "high": rate}},
            peer: side | {"rate": {"median": rate / ratio, "low": 1, "high": 1}},
        },
        "ratios": {peer: {"median": ratio, "low": ratio - 1, "high": ratio + 1}},
    }  # fmt: skip


def test_a_figure_is_held_against_its_bar() -> None:
    good, bad = figures([sft(60, 5.5)]), figures([sft(54, 4.9)])
    assert [(f.measured, f.is_met) for f in good] == [("5.50× (4.50 to 6.50)", True), ("60%: 60 of 100 GFLOP/s", True)]
    assert [f.is_met for f in bad] == [False, False]


def test_a_decoding_step_stands_beside_what_its_reading_allows() -> None:
    # 16 tokens of 10^9 operations in 0.4 s are 40 of 100; 8 GB at 40 GB/s take 0.2 s, so 80 would be the most
    mine = {"step_tokens_s": 40, "seconds": 1.0, "rate": {"median": 30, "low": 30, "high": 30}}
    line = sft(1, 1) | {"bench": "decode", "lengths": "equal", "batch": 16, "threads": 1, "sides": {"tutelage": mine}}
    line |= {"operations": 30e9, "step_operations_per_token": 1e9, "step_bytes": 8e9, "read_gb_s": 40}
    (found,) = figures([line])
    assert found.measured == "40%: 40 of 100 GFLOP/s (prompts included 30%; its reading alone allows 80%)"
    assert not found.is_met


def test_the_newest_line_counts_and_machines_stand_apart(tmp_path) -> None:
    other = sft(10, 1.5) | {"cpu": "another"}
    text = page([sft(60, 5.5), other, sft(54, 4.9)], tmp_path)
    assert text.count("## toy, 2 cores") == text.count("## another, 2 cores") == 1
    assert "4.90× (3.90 to 5.90)" in text and "5.50×" not in text
    assert text.count("**not met**") == 4


def test_a_share_is_of_the_best_rate_that_the_run_saw() -> None:
    # the limit itself was measured in a bad moment (100), the probes saw 120: 60 of 120
    found = figures([sft(60, 5.5) | {"probe": {"best": {"bf16": 120}}}])
    assert found[1].measured == "50%: 60 of 120 GFLOP/s"


def reward(rate: float, pairs: int) -> dict:
    peer = "RewardTrainer, bfloat16 weights"
    line = sft(rate, 5) | {"bench": "reward", "k": 4, "pairs": pairs, "dropped": 5 - pairs}
    line["sides"] = {"tutelage": line["sides"]["tutelage"], peer: line["sides"]["SFTTrainer, bfloat16 weights"]}
    line["ratios"] = {peer: {"median": 5.0, "low": 4.0, "high": 6.0}}
    return line if pairs else {k: v for k, v in line.items() if k != "ratios"}


def test_a_ratio_without_a_quiet_pair_is_marked_and_yields_to_any_with_one() -> None:
    (noisy,) = figures([reward(60, 0)])
    assert (noisy.measured, noisy.verdict) == ("5.0×", "met, noisy")
    (quiet,) = figures([reward(60, 2), reward(30, 0)])
    assert (quiet.measured, quiet.verdict) == ("5.00× (4.00 to 6.00)", "met")
    assert figures([sft(60, 5.5) | {"pairs": 0}]) == [], "no share of a limit is told of a noisy run"


def test_exponents_by_hand() -> None:
    # twice the work in twice the time, then twice the work in four times the time
    points = [{"seconds": s, "operations": o} for s, o in ((1, 10), (2, 20), (8, 40))]
    assert exponents(points) == [1.0, 2.0]


def test_a_plot_is_whole_and_grows_upwards() -> None:
    root = ElementTree.fromstring(draw("cost", "x", "s", [(1, 0.1), (10, 1), (100, 20)], [(1, 0.1), (100, 10)]))
    dots = root.findall(".//{http://www.w3.org/2000/svg}circle")
    xs, ys = ([float(d.attrib[k]) for d in dots] for k in ("cx", "cy"))
    assert xs == sorted(xs) and ys == sorted(ys, reverse=True) and len(dots) == 3
    assert abs((xs[1] - xs[0]) - (xs[2] - xs[1])) < 0.2  # equal factors lie equally far apart
