"""Tasks with a known answer: how near a labeler comes to it, and what a practice task teaches."""

from typing import Any

from tutelage.stats.agreement import kendall_tau_b
from tutelage.store.assignments import Held


def score_check(held: Held, tiers: tuple[int, ...] | None) -> tuple[float | None, dict[str, Any] | None]:
    """Agreement with the known answer, 0 to 1, and for a practice task what to tell the person.

    The score is (1 + Kendall's tau-b) / 2 over the cards. A check in production tells nothing: it would leak.
    """
    gold = held.task.gold
    if gold is None or tiers is None:
        return None, None
    tier_of = dict(zip(held.task.completions, gold["tiers"], strict=True))
    known = [tier_of[card[0]] for card in held.cards]
    tau = kendall_tau_b(known, list(tiers))
    score = float(list(tiers) == known) if tau is None else (1 + tau) / 2
    if not held.task.is_practice:
        return score, None
    return score, {"score": score, "tiers": known, "explanation": gold["explanation"] if "explanation" in gold else ""}
