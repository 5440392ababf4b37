"""Charts: places of values, round ticks, labels apart, and nothing for nothing."""

import re
from itertools import pairwise

import pytest

from tutelage.report.chart import MAX_POINTS, Mark, Plot, Rule, Series, draw, tick_text, ticks
from tutelage.report.intervals import Estimate, dot_chart, reliability_chart


def plot(*series, **more):
    return Plot("Loss", "updates", "nats", series, **more)


def test_ticks_are_round_and_within():
    assert ticks(0, 1, 5) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert ticks(-3.2, 7.9, 4) == pytest.approx([-2.5, 0, 2.5, 5, 7.5])
    assert [tick_text(v, 0.25, False) for v in (0.0, 0.25)] == ["0.00", "0.25"]
    assert tick_text(0.125, 0.025, True) == "12%" and tick_text(-2.0, 1.0, False) == "−2"


def test_no_finite_point_is_no_chart():
    assert draw(plot(Series("a", "c", ()))) == ""
    assert draw(plot(Series("a", "c", ((0, float("nan")),)))) == ""


def test_points_that_are_not_finite_are_left_out():
    drawn = draw(plot(Series("a", "c", ((0, 1.0), (1, float("inf")), (2, 3.0)))))
    assert "inf" not in drawn and "nan" not in drawn and "a from 1 to 3" in drawn


def test_a_constant_line_and_a_single_point_are_drawn():
    assert "<polyline" in draw(plot(Series("a", "c", ((0, 2.0), (1, 2.0)))))
    assert "<circle" in draw(plot(Series("a", "c", ((5, 2.0),))))


def test_long_lines_are_averaged():
    drawn = draw(plot(Series("a", "c", tuple((i, 1.0 * i) for i in range(10 * MAX_POINTS)))))
    assert len(re.search('points="([^"]+)"', drawn)[1].split()) == MAX_POINTS


def test_labels_of_lines_that_end_together_do_not_touch():
    drawn = draw(plot(*(Series(f"s{k}", "c", ((0, 0.0), (1, 1.0 + k / 1000))) for k in range(4))))
    y = sorted(float(m) for m in re.findall(r'y="([\d.]+)" class="label', drawn))
    assert len(y) == 4 and all(b - a >= 12.9 for a, b in pairwise(y)) and y[-1] < 228


def test_a_limit_far_away_does_not_press_the_curve_flat():
    series = Series("a", "c", ((0, 0.0), (1, 3.0)))
    near, far = draw(plot(series, rules=(Rule(4.0, "near"),))), draw(plot(series, rules=(Rule(40.0, "far"),)))
    assert ">near</text>" in near and ">far</text>" not in far


def test_names_in_charts_are_escaped():
    evil = '"><img src=x onerror=alert(1)>\u202e'
    drawn = draw(plot(Series(evil, "c", ((0, 1.0), (1, 2.0)), has_dots=True), marks=(Mark(1, evil, "m"),)))
    drawn += dot_chart(evil, [Estimate(evil, "c", 0.5, 0.4, 0.6)])
    assert "<img" not in drawn and "\u202e" not in drawn and "&lt;img" in drawn


def test_an_interval_is_drawn_from_low_to_high():
    drawn = dot_chart("Wins", [Estimate("a against b", "c", 0.75, 0.5, 1.0)])
    assert re.search(r'<line x1="158.0" y1="30.0" x2="308.0" y2="30.0" class="bar c"/>', drawn)  # 8 + share * 300
    assert "a against b 75.0%, interval 50.0% to 100.0%" in drawn


def test_a_calibrated_model_lies_on_the_diagonal():
    drawn = reliability_chart([(0.55, 0.55, 10), (0.95, 0.95, 30)])
    (x0, y0), (x1, y1) = [(float(a), float(b)) for a, b in re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)"', drawn)]
    assert x1 > x0 and y1 < y0 and "predicted 95.0%, right 95.0% of 30 pairs" in drawn
    assert reliability_chart([]) == ""
