"""Figures in rows and columns: win rates, what answers are like, reward models, alarms, lineage. Draws nothing."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from markupsafe import Markup

from tutelage.report.curves import policy_css, reward_name
from tutelage.report.intervals import Estimate, dot_chart, reliability_chart
from tutelage.report.read import Facts, RewardFacts, Round, RunFacts, prompt_from_text, prompt_of
from tutelage.report.text import Piece, cut, marked, number, percent, span
from tutelage.train.detectors import reward_model_alarms

MOST_STEPS = 8  # updates that an alarm names one by one
MOST_LETTERS = 40  # of a name in a chart
MOST_ROWS = 16  # of sources or labelers in a chart


@dataclass(frozen=True, slots=True)
class Win:
    """One policy against another."""

    ours: str
    theirs: str
    css: str
    facts: Facts

    @property
    def losses(self) -> int:
        return int(self.facts["n"] - self.facts["wins"] - self.facts["ties"])


def wins(run: RunFacts) -> list[Win]:
    """Each pair once, as last measured: SFT against base first, then round by round."""
    found = {k: w for r in run.measured for k, w in (r.figures or {})["win_rates"].items()}
    rows = [_win(key, w) for key, w in found.items()]
    return sorted(rows, key=lambda w: (_rank(w.ours), _rank(w.theirs)))


def _win(key: str, facts: Facts) -> Win:
    ours, theirs = key.split(" against ")
    return Win(ours, theirs, policy_css(ours), facts)


def best_of_wins(run: RunFacts) -> list[Win]:
    """Best of n answers of SFT against one, as last measured. How many answers the n is stands in the recipe."""
    if not run.measured:
        return []
    rows: list[Facts] = (run.measured[-1].figures or {})["best_of_n"]
    ns = run.config["evaluation"]["best_of"]
    return [Win(f"best of {n} of SFT", "SFT", "c-bon", row) for n, row in zip(ns, rows, strict=True)]


def _rank(policy: str) -> int:
    return {"base": -2, "SFT": -1}[policy] if policy in ("base", "SFT") else int(policy.removeprefix("round "))


def wins_chart(rows: list[Win]) -> Markup:
    estimates = [
        Estimate(f"{w.ours} against {w.theirs}", w.css, w.facts["rate"], w.facts["low"], w.facts["high"]) for w in rows
    ]
    return dot_chart("Win rates", estimates)


@dataclass(frozen=True, slots=True)
class Line:
    """A row of a table: what it is, and a cell a column."""

    title: str
    cells: tuple[str, ...]
    note: str = ""


@dataclass(frozen=True, slots=True)
class Sheet:
    """A table with a heading over each column."""

    columns: tuple[tuple[str, str], ...]  # name, colour class
    lines: tuple[Line, ...]


BEHAVIOUR = (
    ("judge", "Judge's score", "{:.2f}"),
    ("proxy", "Optimised reward", "{:.2f}"),
    ("held_out", "Held-out reward", "{:.2f}"),
    ("length", "Length, tokens", "{:.1f}"),
    ("words", "Length, words", "{:.1f}"),
    ("unfinished", "Without an end", "{:.1%}"),
    ("empty", "Empty", "{:.1%}"),
    ("refusals", "Refusals", "{:.1%}"),
    ("unique", "Different answers", "{:.1%}"),
    ("distinct_1", "Distinct words", "{:.3f}"),
    ("distinct_2", "Distinct word pairs", "{:.3f}"),
    ("self_bleu", "Self-BLEU", "{:.3f}"),
    ("repetition", "Repeats of the commonest phrase", "{:.2f}"),
)


def behaviour(run: RunFacts) -> Sheet | None:
    """What each policy's answers are like, over the same unseen prompts."""
    if not run.measured:
        return None
    policies: Facts = (run.measured[-1].figures or {})["policies"]
    names = sorted(policies, key=_rank)
    lines = []
    for key, title, form in BEHAVIOUR:
        lines.append(Line(title, tuple(form.format(policies[n][key]).replace("-", "−") for n in names)))
        if key == "judge":
            ends = [(policies[n]["judge_low"], policies[n]["judge_high"]) for n in names]
            lines.append(Line("95% interval of it", tuple(f"{number(low)} to {number(high)}" for low, high in ends)))
    return Sheet(tuple((n, f"t-{policy_css(n)}") for n in names), tuple(lines))


@dataclass(frozen=True, slots=True)
class RewardPart:
    """A round's reward models side by side, with the optimised one's charts."""

    i: int
    sheet: Sheet
    reliability: Markup
    by_source: Markup
    by_labeler: Markup
    n_labelers_left_out: int


def reward_parts(run: RunFacts) -> list[RewardPart]:
    found = []
    for r in run.rounds:
        measured = [one for one in r.rewards if one.card]
        if measured:
            card = measured[0].card or {}
            labelers = card["by_labeler"]
            found.append(
                RewardPart(
                    r.i, _reward_sheet(measured), reliability_chart(card["reliability"]),
                    _by("Accuracy by source", card["by_source"]), _by("Accuracy by labeler", labelers),
                    max(0, len(labelers) - MOST_ROWS),
                )
            )  # fmt: skip
    return found


def _by(title: str, parts: Facts) -> Markup:
    most = sorted(parts.items(), key=lambda kv: -kv[1]["n"])[:MOST_ROWS]
    rows = [
        Estimate(f"{name[:MOST_LETTERS]} (n {a['n']:,})", "c-proxy", a["accuracy"], a["low"], a["high"])
        for name, a in most
    ]
    return dot_chart(title, rows)


def _reward_sheet(models: list[RewardFacts]) -> Sheet:
    cards = [m.card or {} for m in models]

    def line(title: str, cell: Any, note: str = "") -> Line:
        return Line(title, tuple(cell(c) for c in cards), note)

    def part(a: Facts | None) -> str:
        return "–" if a is None else f"{percent(a['accuracy'])} (n {a['n']:,})"

    lines = (
        line("Rankings learned from", lambda c: f"{c['rankings']:,}"),
        line("Accuracy on held-out pairs", lambda c: percent(c["accuracy"]), "untied pairs, prompts that it never saw"),
        line("95% interval", lambda c: span(c["accuracy_low"], c["accuracy_high"])),
        line("Held-out pairs (and ties)", lambda c: f"{c['n']:,} ({c['n_ties']:,})"),
        line(
            "Better answer shown second", lambda c: percent(c["accuracy_better_second"]),
            "equal to the accuracy, or order leaks",
        ),
        line(
            "Labellers agree on", lambda c: "–" if c["agreement"] is None else percent(c["agreement"]),
            "the ceiling: pairs that two of them both told apart",
        ),
        line("Always the longer answer", lambda c: percent(c["longer_wins_accuracy"]), "a baseline that reads nothing"),
        line("Where the better one is longer", lambda c: part(c["when_longer_wins"])),
        line("Where the better one is shorter", lambda c: part(c["when_shorter_wins"])),
        line("Correlation of score and length", lambda c: number(c["length_corr"])),
        line("Calibration error (ECE)", lambda c: f"{c['ece']:.3f}", "0 is best"),
        line("Calibrating temperature", lambda c: "–" if c["temperature"] is None else number(c["temperature"])),
    )  # fmt: skip
    return Sheet(
        tuple((reward_name(m.name), "t-c-held-out" if m.name == "reward-held-out" else "t-c-proxy") for m in models),
        lines,
    )


def profiles(run: RunFacts) -> list[tuple[int, Facts, Sheet]]:
    """Where the time and the memory of each round's updates went."""
    columns = (("seconds", ""), ("share", ""), ("GB", ""))
    return [(r.i, r.profile, Sheet(columns, tuple(map(_spent, r.profile["phases"])))) for r in run.rounds if r.profile]


def _spent(row: Facts) -> Line:
    title = f"– {row['part']}" if row["part"] else row["phase"]
    return Line(title, (f"{row['seconds']:.3f}", percent(row["share"]), f"{row['peak_gb']:.2f}"))


@dataclass(frozen=True, slots=True)
class AlarmRow:
    """An alarm with where it rang; one that rang again and again stands once, as last seen."""

    where: str
    facts: Facts
    first: str  # what it saw at first, where it rang more than once


def alarms(run: RunFacts) -> list[AlarmRow]:
    """Those of the reward models (which are a function of their cards) and those of RL."""
    found = []
    for r in run.rounds:
        cards = [one.card for one in r.rewards if one.name == "reward-0" and one.card]
        for c in cards:
            rang = reward_model_alarms(
                correct=round(c["accuracy"] * c["n"]),
                n=c["n"],
                length_only=c["longer_wins_accuracy"],
                agreement=c["agreement"],
            )
            found += [AlarmRow(f"round {r.i}, reward model", asdict(a), "") for a in rang]
        found += _rang(r)
    return found


def _rang(r: Round) -> Iterator[AlarmRow]:
    kinds = dict.fromkeys((a["name"], a["action"]) for a in r.alarms)
    for kind in kinds:
        same = [a for a in r.alarms if (a["name"], a["action"]) == kind]
        steps = [str(a["step"]) for a in same]
        some = (
            ", ".join(steps)
            if len(steps) <= MOST_STEPS
            else f"{', '.join(steps[:3])} … {steps[-1]} ({len(steps)} times)"
        )
        where = f"round {r.i}, update{'s' if len(steps) > 1 else ''} {some}"
        yield AlarmRow(where, same[-1], same[0]["saw"] if len(same) > 1 else "")


@dataclass(frozen=True, slots=True)
class Answer:
    """What one policy answered; `same_as` names a policy whose answer is word for word the same."""

    policy: str
    css: str
    pieces: tuple[Piece, ...]
    n_words: int
    same_as: str


@dataclass(frozen=True, slots=True)
class Sample:
    """A prompt and every policy's answer to it."""

    turns: tuple[Facts, ...]
    answers: tuple[Answer, ...]
    is_sensitive: bool


def samples(run: RunFacts) -> list[Sample]:
    """The last evaluation holds every policy's answers."""
    with_samples = [r for r in run.measured if r.samples]
    if not with_samples:
        return []
    return [
        Sample(tuple(s["prompt"]), tuple(_answers(s["answers"])), prompt_of(s["prompt"]).id in run.sensitive)
        for s in with_samples[-1].samples
    ]


def _answers(texts: dict[str, str]) -> Iterator[Answer]:
    names = sorted(texts, key=_rank)
    for i, name in enumerate(names):
        same = [n for n in names[:i] if texts[n] == texts[name]]
        # The base model's text has nothing to be held against; SFT against base would mark all.
        against = texts["SFT"] if _rank(name) > 0 and "SFT" in texts else None
        pieces = marked(texts[name], against)
        yield Answer(name, policy_css(name), pieces, len(texts[name].split()), same[-1] if same else "")


@dataclass(frozen=True, slots=True)
class Course:
    """One prompt along the way: how the answer changed with the updates."""

    i: int
    prompt: str
    answers: tuple[tuple[int, str], ...]  # updates, text
    is_sensitive: bool


def along(run: RunFacts) -> list[Course]:
    return [course for r in run.rounds for course in _courses(run, r)]


def _courses(run: RunFacts, r: Round) -> Iterator[Course]:
    for prompt in dict.fromkeys(s["prompt"] for s in r.along):
        read = prompt_from_text(prompt)
        # What cannot be looked up is hidden where anything is.
        hidden = bool(run.sensitive) if read is None else read.id in run.sensitive
        answers = {int(s["step"]): cut(s["text"]) for s in r.along if s["prompt"] == prompt}
        yield Course(r.i, cut(prompt), tuple(sorted(answers.items())), hidden)


@dataclass(frozen=True, slots=True)
class Version:
    """A model version with where it came from."""

    id: str
    stage: str
    path: str
    parent: str
    snapshot: str
    reward_model: str
    judges: str


def lineage(run: RunFacts) -> list[Version]:
    return [
        Version(
            s.version.id, s.version.stage, s.version.path, s.version.parent or "–", (s.version.snapshot or "–")[:12],
            s.version.reward_model or "–", ", ".join(f"{p.labeler} {p.judgements:,}" for p in s.shares[:12])
            + (f" and {len(s.shares) - 12} more" if len(s.shares) > 12 else "") or "–",
        )
        for s in run.versions
    ]  # fmt: skip
