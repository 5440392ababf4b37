"""Training curves: which metrics of a stage are drawn, in which words and units. Knows no algorithm."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from tutelage.report.chart import Mark, Plot, Rule, Series, draw
from tutelage.report.read import Facts, Round, RunFacts, Training

UPDATES = "updates so far"


@dataclass(frozen=True, slots=True)
class Figure:
    """A drawn chart with its heading and what to look for in it."""

    title: str
    unit: str
    caption: str
    svg: Markup


@dataclass(frozen=True, slots=True)
class Metric:
    """A column of metrics.jsonl. `good` says what to look for."""

    key: str
    title: str
    unit: str
    good: str
    is_share: bool = False


METRICS = (
    Metric("score", "Reward as scored", "std. dev.", "Rises, then flattens."),
    Metric("reward", "Reward after penalties", "std. dev.", "Unfinished answers cost; near the one before."),
    Metric("kl", "KL to the reference", "nats a sequence", "Nears its target; a jump is trouble."),
    Metric("kl_coef", "KL coefficient", "reward a nat", "The price of leaving the reference."),
    Metric("entropy", "Entropy", "nats a token", "Falls slowly; below a third of its start is collapse."),
    Metric("length", "Length of answers", "tokens", "A steep rise along with the reward is length hacking."),
    Metric("unfinished", "Answers without an end", "share", "Stays below 10%.", True),
    Metric("unique", "Different answers to a prompt", "share", "Stays high.", True),
    Metric("loss", "Policy loss", "", "Says little by itself; jumps count."),
    Metric("value_loss", "Value loss", "squared reward", "Falls while the critic learns."),
    Metric("explained_variance", "Explained variance", "of the critic", "Above 0, better near 1."),
    Metric("clip_frac", "Clipped tokens", "share", "Stays below 30%.", True),
    Metric("grad_norm", "Gradient norm", "of the policy", "Without jumps."),
    Metric("mismatch_mean", "Sampler against learner", "nats a token", "The two passes should agree: near 0."),
    Metric("length_corr", "Correlation of reward and length", "", "Far below 0.5."),
    Metric("eval_lm_loss", "Loss on held-out demonstrations", "nats a token", "A rise is the alignment tax."),
    Metric("repetition", "Repeats of the commonest phrase", "an answer", "Near its start."),
)
CRITIC_LOSS = ("value_value_loss", "value_loss")  # of one network with two heads, and of a critic of its own


def policy_css(name: str) -> str:
    """The colour of a policy, the same in every chart and table."""
    if name in ("base", "SFT"):
        return f"c-{name.lower()}"
    return f"c-round-{(int(name.removeprefix('round ')) - 1) % 6 + 1}"


def points(rows: Iterable[Facts], key: str) -> tuple[tuple[float, float], ...]:
    """(updates so far, value). A row's rollouts are of the policy before the update, its evaluation after it."""
    late = key.startswith("eval_")
    return tuple((float(row["step"] + (late and "kl" in row)), float(row[key])) for row in rows if key in row)


def rl_figures(run: RunFacts) -> list[Figure]:
    """One chart a metric, all rounds in it."""
    rounds = [r for r in run.rounds if r.rl]
    return [f for f in (_of_metric(m, rounds, run.config) for m in METRICS) if f.svg]


def _of_metric(metric: Metric, rounds: Sequence[Round], config: Facts) -> Figure:
    series, marks = [], []
    for r in rounds:
        rows = r.rl.rows if r.rl else ()
        found = points(rows, metric.key)
        if metric.key == "value_loss" and not found:
            found = next((p for p in (points(rows, k) for k in CRITIC_LOSS) if p), ())
        name = f"round {r.i}"
        is_rare = metric.key.startswith("eval_")
        series.append(Series(name, policy_css(name), found, has_dots=is_rare, unit="updates"))
        marks += [Mark(a["step"], "", f"m-alarm {policy_css(name)}") for a in _alarms_about(metric, r)]
    rules, caption = _limits(metric, config)
    plot = Plot(
        metric.title, UPDATES, metric.unit or metric.title, tuple(series), rules, tuple(marks), metric.is_share,
        x_range=(0.0, float(max((row["step"] + 1 for r in rounds if r.rl for row in r.rl.rows), default=1))),
    )  # fmt: skip
    return Figure(metric.title, metric.unit, metric.good + caption, draw(plot))


def _limits(metric: Metric, config: Facts) -> tuple[tuple[Rule, ...], str]:
    if metric.key != "kl":
        return (), ""
    kl = config["kl"]
    rules = (Rule(kl["target"], f"target {kl['target']:g}"), Rule(kl["budget"], f"budget {kl['budget']:g}"))
    return rules, f" Target {kl['target']:g}, budget {kl['budget']:g}."


ABOUT = {
    "kl": ("KL blow-up", "negative KL", "KL at the start"),
    "kl_coef": ("KL coefficient run-away",),
    "entropy": ("entropy collapse",),
    "length": ("length hacking",),
    "unfinished": ("no end",),
    "explained_variance": ("useless critic",),
    "clip_frac": ("clipping",),
    "grad_norm": ("gradient jump", "not finite", "optimiser off"),
    "mismatch_mean": ("sampler mismatch",),
    "score": ("over-optimisation", "reward out of range"),
    "repetition": ("repetition",),
    "eval_lm_loss": ("alignment tax",),
}


def _alarms_about(metric: Metric, r: Round) -> list[Facts]:
    return [a for a in r.alarms if metric.key in ABOUT and a["name"] in ABOUT[metric.key]]


def sft_figures(run: RunFacts) -> list[Figure]:
    """Loss on the demonstrations that are learned from and on those held out."""
    if run.sft is None:
        return []
    rows = run.sft.rows
    series = (
        Series("train", "c-sft", points(rows, "loss"), unit="updates"),
        Series("held-out", "c-held-out", points(rows, "held_out_loss"), has_dots=True, unit="updates"),
    )
    svg = draw(Plot("Loss on demonstrations", UPDATES, "nats a token", series))
    caption = "Held-out loss is measured after each epoch; the epoch where it is lowest is kept."
    return [Figure("SFT: loss", "nats a token", caption, svg)] if svg else []


def reward_figures(run: RunFacts) -> list[Figure]:
    """Loss and accuracy of the reward models while they learn, one line a model."""

    def figure(key: str, title: str, unit: str, caption: str) -> Figure:
        series = tuple(
            Series(name, css, points(training.rows, key), unit="updates") for name, css, training in _reward_runs(run)
        )
        return Figure(title, unit, caption, draw(Plot(title, UPDATES, unit, series, is_share=unit == "share")))

    before = "Of each update's rankings, before it learns from them"
    found = (
        figure("loss", "Reward models: loss", "nats a prompt", f"{before}."),
        figure("accuracy", "Reward models: accuracy", "share", f"{before}: in one epoch no pair is seen twice."),
    )
    return [f for f in found if f.svg]


def _reward_runs(run: RunFacts) -> list[tuple[str, str, Training]]:
    return [
        (reward_name(one.name, r.i), "c-held-out" if one.name == "reward-held-out" else "c-proxy", one.training)
        for r in run.rounds
        for one in r.rewards
    ]


def reward_name(folder: str, i_round: int | None = None) -> str:
    """reward-0 is `optimised`, further members are numbered, reward-held-out is `held-out`."""
    k = folder.removeprefix("reward-")
    name = "held-out" if k == "held-out" else "optimised" if k == "0" else f"optimised {int(k) + 1}"
    return name if i_round is None else f"{name} {i_round}"


def learning_curve(curve: Sequence[Facts]) -> Figure | None:
    """Accuracy of further reward models against the number of rankings that they learned from."""
    if not curve:
        return None
    right = tuple((float(c["rankings"]), float(c["accuracy"])) for c in curve)
    band = tuple((float(c["rankings"]), float(c["accuracy_low"]), float(c["accuracy_high"])) for c in curve)
    series = (Series("", "c-proxy", right, band=band, has_dots=True, unit="rankings"),)
    svg = draw(Plot("Accuracy", "rankings learned from", "accuracy on held-out pairs", series, is_share=True))
    caption = "With 95% intervals over prompts. Where the curve still rises, more labels would help."
    return Figure("Learning curve", "accuracy on held-out pairs", caption, svg)
