"""tutelage: people's judgement of a language model's answers, turned into a better model, round after round."""

import os

__version__ = "0.1.0"

# Between two of its operations torch's threads spin for milliseconds, on the cores on which the kernels' own threads
# then run: 7 % of a training step. libgomp reads this once, when torch is first imported; who has chosen is left alone.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # some tens of microseconds
