"""The minimum of functions whose minimum is known."""

import numpy as np
import pytest

from tutelage.stats.newton import minimise


def test_a_parabola_takes_one_step_to_its_vertex():
    a = np.array([[2.0, 0.5], [0.5, 1.0]])
    vertex = np.array([3.0, -4.0])
    f = lambda x: (float((x - vertex) @ a @ (x - vertex) / 2), a @ (x - vertex), a)  # noqa: E731
    assert minimise(f, np.zeros(2)) == pytest.approx(vertex)


def test_steps_that_overshoot_are_shortened():
    # sqrt(1 + x^2): from 3 a whole Newton step lands at -27 and the next ones run away.
    def f(x):
        root = np.sqrt(1 + x[0] ** 2)
        return float(root), np.array([x[0] / root]), np.array([[1 / root**3]])

    assert minimise(f, np.array([3.0]))[0] == pytest.approx(0, abs=1e-8)
