"""Newton's method for smooth convex functions of a few parameters. Knows nothing of what is fitted."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

MAX_STEPS = 200
CLOSE = 1e-13  # predicted decrease, against the size of the loss, below which rounding hides it


def minimise(f: Callable[[Array], tuple[float, Array, Array]], start: Array) -> Array:
    """The argument [F] where `f` is least.

    f  from an argument [F] to its value, gradient [F] and Hessian [F, F]; convex, the Hessian positive definite
    """
    x = start.astype(np.float64)
    value, gradient, hessian = f(x)
    for _ in range(MAX_STEPS):
        step = -np.linalg.solve(hessian, gradient)
        slope = float(gradient @ step)  # twice the decrease that a quadratic would bring, below 0
        if -slope <= CLOSE * (1 + abs(value)):
            return x + step  # a last whole step squares what error is left; the loss could not tell it from noise
        size = 1.0
        while True:
            moved = f(x + size * step)
            if moved[0] <= value + 1e-4 * size * slope:
                break
            size /= 2
            if size < 1e-10:  # rounding hides what is left to gain
                return x
        x, (value, gradient, hessian) = x + size * step, moved
    raise AssertionError(f"Newton's method did not settle in {MAX_STEPS} steps; the function is not strictly convex")
