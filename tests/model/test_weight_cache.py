"""Copies of parameters: made once, made again after a change, never changed in place."""

import torch

from tutelage.model.weight_cache import WeightCache


def test_what_was_made_is_kept_until_a_source_changes_and_stays_with_who_holds_it():
    cache, p = WeightCache(), torch.nn.Parameter(torch.ones(2, 2))
    old = cache.get("p", [p], lambda: p + 1)
    assert cache.get("p", [p], lambda: p + 1) is old and not old.requires_grad
    with torch.no_grad():
        p.mul_(3)
    assert cache.get("p", [p], lambda: p + 1).eq(4).all() and old.eq(2).all()
    assert cache.get("p", [p, p], lambda: torch.cat([p, p])).shape == (4, 2)
