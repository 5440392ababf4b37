"""The diagnostics of an RL run as pure functions: metrics in, an alarm or nothing out.

Thresholds stand beside their detectors. KL in nats a sequence, entropy in nats a token, lengths in tokens.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from tutelage.stats.intervals import wilson

Metrics = dict[str, float]
Action = Literal["warn", "stop", "abort"]


@dataclass(frozen=True, slots=True)
class Alarm:
    """What a detector says. Example: name `entropy collapse`, saw `entropy 0.21, at first 1.40`, action `stop`."""

    step: int
    name: str
    saw: str
    cause: str
    advice: str
    action: Action


@dataclass(frozen=True, slots=True)
class Window:
    """What a detector may look at."""

    step: int
    now: Metrics
    history: Sequence[Metrics]  # all updates so far, this one last; empty before the update
    first: Metrics  # the first update: the policy was the reference
    kl_target: float
    tolerance: float


@dataclass(frozen=True, slots=True)
class Detector:
    """`saw` returns a sentence when the fault is there."""

    name: str
    saw: Callable[[Window], str | None]
    cause: str
    advice: str
    action: Action

    def look(self, window: Window) -> Alarm | None:
        text = self.saw(window)
        return None if text is None else Alarm(window.step, self.name, text, self.cause, self.advice, self.action)


def _ratio(w: Window) -> str | None:
    error = (
        w.now["max_ratio_error"] if "max_ratio_error" in w.now else 0.0
    )  # with the sampler's, see "sampler mismatch"
    return (
        f"before any step, the ratio to the old policy is off by {error:.2g}, allowed {w.tolerance:g}"
        if not error <= w.tolerance
        else None
    )


def _negative_kl(w: Window) -> str | None:
    low = -3 * max(w.now["kl_se"], 1e-6)
    return f"mean KL {w.now['kl']:.4f} is more than 3 standard errors below 0" if w.now["kl"] < low else None


def _first_kl(w: Window) -> str | None:
    kl = w.now["kl"]
    return (
        f"KL {kl:.4f} at the first update, where policy and reference are the same"
        if w.step == 0 and not abs(kl) <= 1e-3
        else None
    )


def _kl_blow_up(w: Window) -> str | None:
    kl = w.now["kl"]
    before = w.history[-2]["kl"] if len(w.history) > 1 else 0.0
    if kl > 2 * w.kl_target:
        return f"KL {kl:.2f} is more than twice its target of {w.kl_target:g}"
    return f"KL rose by {kl - before:.2f} in one update" if kl - before > 5 else None


def _coefficient(w: Window) -> str | None:
    start, now = w.first["kl_coef"], w.now["kl_coef"]
    return (
        f"the KL coefficient went from {start:.4g} to {now:.4g}"
        if start > 0 and not start / 10 <= now <= start * 10
        else None
    )


def _length(w: Window) -> str | None:
    longer = w.now["length"] / max(w.first["length"], 1e-9)
    corr = w.now["length_corr"]
    return (
        f"answers are {longer:.1f} times as long as at first, and length and reward correlate at {corr:.2f}"
        if corr > 0.5 and longer > 1.5
        else None
    )


def _unfinished(w: Window) -> str | None:
    share = w.now["unfinished"]
    return f"{share:.0%} of the answers have no end" if share > 0.10 else None


def _entropy(w: Window) -> str | None:
    first = w.first["entropy"]
    now = w.now["entropy"] if "entropy" in w.now else first  # missing where the only pass was not finite
    if now < 0.3 * first:
        return f"entropy {now:.3f}, at first {first:.3f}"
    unique, at_first = w.now["unique"], w.first["unique"]
    # With few tokens to choose from, even the reference repeats itself; what counts is the loss of variety.
    return (
        f"only {unique:.0%} of a prompt's answers differ, at first {at_first:.0%}" if unique < 0.5 * at_first else None
    )


def _critic(w: Window) -> str | None:
    recent = [m["explained_variance"] for m in w.history[-5:] if "explained_variance" in m]
    if len(w.history) >= 20 and recent and max(recent) < 0:
        return (
            f"the critic explains less than a constant would (explained variance {recent[-1]:.2f}) after "
            f"{len(w.history)} updates"
        )
    clipped = [m["vf_clip_frac"] for m in w.history[-5:] if "vf_clip_frac" in m]
    return f"{min(clipped):.0%} of the values are clipped" if len(clipped) == 5 and min(clipped) > 0.5 else None


def _clip(w: Window) -> str | None:
    recent = [m["clip_frac"] for m in w.history[-5:] if "clip_frac" in m]
    return (
        f"{min(recent):.0%} of the tokens or more were clipped in 5 updates"
        if len(recent) == 5 and min(recent) > 0.3
        else None
    )


def _groups_some(w: Window) -> str | None:
    share = w.now["zero_std_groups"]
    return f"in {share:.0%} of the groups every answer has the same reward" if 0.5 < share < 1 else None


def _groups_all(w: Window) -> str | None:
    return (
        "in every group every answer has the same reward, so nothing can be learned"
        if w.now["zero_std_groups"] == 1
        else None
    )


def _out_of_range(w: Window) -> str | None:
    share = w.now["score_out_of_range"] if "score_out_of_range" in w.now else 0.0
    return (
        f"{share:.0%} of the scores are above 99.9 % of those that the reward model was trained on"
        if share > 0.2
        else None
    )


def _divergence(w: Window) -> str | None:
    seen = [m for m in w.history if "eval_held_out" in m][-4:]
    if len(seen) < 4:
        return None
    best = max(m["eval_held_out"] for m in w.history if "eval_held_out" in m)
    noise = 2 * seen[-1]["eval_held_out_se"]
    falling = all(m["eval_held_out"] < best - noise for m in seen[1:])
    rising = seen[-1]["eval_proxy"] > seen[0]["eval_proxy"]
    return (
        f"the optimised reward rose to {seen[-1]['eval_proxy']:.2f} while the held-out reward fell from {best:.2f} to "
        f"{seen[-1]['eval_held_out']:.2f}"
        if falling and rising
        else None
    )


def _repetition(w: Window) -> str | None:
    now, first = w.now["repetition"], w.first["repetition"]
    return (
        f"an answer repeats its commonest phrase {now:.1f} times, at first {first:.1f}"
        if now > 4 * max(first, 0.5)
        else None
    )


def _mode(w: Window) -> str | None:
    if "eval_refusals" in w.now and "eval_refusals_at_first" in w.now:
        now, first = w.now["eval_refusals"], w.now["eval_refusals_at_first"]
        if now > 0.05 and now > 2 * first:
            return f"{now:.0%} of the answers refuse, at first {first:.0%}"
    share = w.now["first_token_kl"] / w.now["kl"] if w.now["kl"] > 1 else 0.0
    return f"the first word holds {share:.0%} of all divergence: every answer opens alike" if share > 0.8 else None


def _empty(w: Window) -> str | None:
    n = w.now["empty"]
    return f"{n:.0f} answers are empty" if n > 0 else None


def _tax(w: Window) -> str | None:
    if "eval_lm_loss" not in w.now or "eval_lm_loss_at_first" not in w.now:
        return None
    now, first = w.now["eval_lm_loss"], w.now["eval_lm_loss_at_first"]
    return f"the loss on held-out demonstrations rose from {first:.3f} to {now:.3f}" if now > 1.05 * first else None


def _mismatch(w: Window) -> str | None:
    if "mismatch_mean" not in w.now:
        return None  # the update's own pass will tell
    mean = w.now["mismatch_mean"]
    return (
        f"sampler and learner differ by {mean:.3g} nats a token, allowed {w.tolerance:g}"
        if not mean <= w.tolerance
        else None
    )


def _optimiser_off(w: Window) -> str | None:
    if "grad_norm" not in w.now:
        return None
    return "the gradient is exactly 0: no weight moves" if w.now["grad_norm"] == 0 else None


def _not_finite(w: Window) -> str | None:
    for name, who in (("skipped", "policy"), ("value_skipped", "critic")):
        if name in w.now and w.now[name] > 0:
            return f"an update of the {who} was skipped because its loss or gradient was not finite"
    return None


def _gradient_jump(w: Window) -> str | None:
    norms = sorted(m["grad_norm"] for m in w.history[:-1] if "grad_norm" in m)
    if len(norms) < 10 or "grad_norm" not in w.now:
        return None
    median = norms[len(norms) // 2]
    return f"gradient norm {w.now['grad_norm']:.2g}, usually {median:.2g}" if w.now["grad_norm"] > 10 * median else None


FIRST_MINIBATCH = (
    Detector("ratio", _ratio, "dropout, another temperature, mask or positions, stale log-probabilities, or packing",
             "Nothing was learned from these rollouts; mend the cause and start again.", "abort"),
)  # fmt: skip
SAMPLER_MISMATCH = Detector(
    "sampler mismatch", _mismatch, "other kernels or precision in the sampler, or stale weights",
    "Importance weights correct for it; mend it if it grows.", "warn",
)  # fmt: skip
BEFORE_UPDATE = (
    Detector("KL at the start", _first_kl, "the reference is not the model that RL starts from, or its adapter is on",
             "Start RL and its reference from the same checkpoint.", "abort"),
    Detector("negative KL", _negative_kl, "top-k or top-p in sampling, a suppressed end token, or padding in the sums",
             "Sample with top_p = 1 and top_k = 0.", "warn"),
    Detector("degenerate groups", _groups_all, "a constant reward, or a temperature near 0",
             "Look at the reward model's scores and at the samples.", "abort"),
    Detector("tied groups", _groups_some, "a saturated reward or a low temperature",
             "Sample at temperature 1.", "warn"),
    Detector("length hacking", _length, "a reward model that likes length",
             "Read the length probe of the reward model; balance lengths in the comparisons.", "warn"),
    Detector("no end", _unfinished, "SFT without the end token, or a limit that is too short",
             "Raise sampling.max_new_tokens, or look at the SFT model's samples.", "warn"),
    Detector("empty answers", _empty, "the end token comes first",
             "They earn the penalty for unfinished answers.", "warn"),
    SAMPLER_MISMATCH,
    Detector("repetition", _repetition, "collapse onto phrases that the reward model likes",
             "Raise the KL coefficient.", "warn"),
)  # fmt: skip
AFTER_UPDATE = (
    Detector("KL blow-up", _kl_blow_up, "learning rate, a low KL coefficient, or a reward of large scale",
             "The best policy so far is kept. Halve the learning rate or lower kl.target.", "stop"),
    Detector("entropy collapse", _entropy, "a low KL coefficient or a high learning rate",
             "The best policy so far is kept. Raise the KL coefficient.", "stop"),
    Detector("over-optimisation", _divergence, "the policy found what the reward model gets wrong",
             "The best policy so far is kept. Collect comparisons on it and train the reward model again.", "stop"),
    Detector("KL coefficient run-away", _coefficient, "a target out of reach, or units of token and sequence mixed up",
             "Set kl.target nearer to the KL that is reached.", "warn"),
    Detector("useless critic", _critic, "value clip against the reward's scale, or a bad start",
             "Raise ppo.critic_warmup or its learning rate.", "warn"),
    Detector("clipping", _clip, "too many epochs or too high a learning rate", "Lower either.", "warn"),
    Detector("reward out of range", _out_of_range, "over-optimisation: the reward model never saw such answers",
             "Lower kl.target, or collect comparisons on the present policy.", "warn"),
    Detector("mode switch", _mode, "one opening or a refusal answers everything",
             "Read the samples; add comparisons that punish it.", "warn"),
    Detector("alignment tax", _tax, "too little language loss", "Raise ppo.ptx_coef, or lower the lr.", "warn"),
    Detector("optimiser off", _optimiser_off, "frozen weights, or a loss cut off from them",
             "Look at what is trained.", "abort"),
    Detector("not finite", _not_finite, "an overflow or an empty mask", "Lower the learning rate.", "warn"),
    Detector("gradient jump", _gradient_jump, "one broken batch", "Read the rollouts of this update.", "warn"),
)  # fmt: skip


def reward_model_alarms(*, correct: int, n: int, length_only: float, agreement: float | None) -> list[Alarm]:
    """Before RL: is the reward model better than chance and than length, and not better than people can be?

    correct, n   held-out pairs ordered as the labeler did, of all untied ones
    length_only  accuracy of a model that knows nothing but the answers' lengths, on the same pairs
    agreement    share of pairs on which two labelers agree; None where nobody judged twice
    An action of `abort` means that RL must be refused unless the owner insists.
    """
    accuracy, low = correct / n, wilson(correct, n)[0]
    found = []
    if accuracy < 0.45:
        found.append(
            Alarm(
                0,
                "inverted reward model",
                f"accuracy {accuracy:.1%} on {n} held-out pairs is below chance",
                "chosen and rejected were swapped",
                "Swap the columns of the import.",
                "abort",
            )
        )
    elif low < 0.5:
        found.append(
            Alarm(
                0,
                "weak reward model",
                f"accuracy {accuracy:.1%} on {n} held-out pairs cannot be told from chance (low end {low:.1%})",
                "too few comparisons, or another template",
                "Collect more comparisons.",
                "abort",
            )
        )
    elif accuracy < length_only + 0.02:
        found.append(
            Alarm(
                0,
                "reward model no better than length",
                f"accuracy {accuracy:.1%}, of length alone {length_only:.1%}",
                "the labels follow length, or the model learned nothing else",
                "Balance lengths in the comparisons.",
                "warn",
            )
        )
    ceiling = 0.95 if agreement is None else min(0.95, agreement + 0.10)
    if accuracy > ceiling:
        found.append(
            Alarm(
                0,
                "reward model too good",
                f"accuracy {accuracy:.1%} is above what labelers agree on by more than ten points",
                "a leak between training and held-out prompts, or a formatting shortcut",
                "Check the split.",
                "warn",
            )
        )
    return found


def split_alarm(n_shared: int) -> Alarm | None:
    """The same normalised prompt in training and in evaluation makes every figure too good."""
    if not n_shared:
        return None
    return Alarm(
        0,
        "split leak",
        f"{n_shared} prompts stand in training and in evaluation",
        "a split by row instead of by prompt",
        "Split by the normalised prompt.",
        "abort",
    )
