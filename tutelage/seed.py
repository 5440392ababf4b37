"""Seeds by name. Every random draw is a function of (run seed, names): no generator state is ever saved.

A batch, a shuffle or a sample can so be recomputed after a kill, and two ranks, stages or rounds never share a draw.
"""

import hashlib


def derive(seed: int, *names: int | str) -> int:
    """A 63-bit seed for the thing that `names` names.

    `derive(1, "ppo", 2)` never equals `derive(1, "ppo", 3)` in practice.
    """
    key = "\x1f".join([str(seed), *(str(n) for n in names)])
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") >> 1
