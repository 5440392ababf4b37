"""What the run did, in plain words, from its figures alone. A run that failed is told as one that failed."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from tutelage.report.gauge import best_updates
from tutelage.report.read import Facts, RewardFacts, Round, RunFacts
from tutelage.report.text import counted, duration, listed, number, percent, span

Verdict = Literal["won", "lost", "open", "unfinished"]
AGAINST: dict[Verdict, str] = {"won": "beats", "lost": "loses to", "open": "cannot be told apart from"}
SIMULATED = (
    "The labellers of this run are SIMULATED: programs with a known taste and a known error, not people. "
    "The figures tell how well the method recovers that taste; they say nothing about what people would prefer."
)
FEWER = 0.85  # of SFT's share of different answers: below it the page says that variety was lost
KINDS = {"human": "people", "model": "models", "simulated": "SIMULATED labellers", "import": "imported data"}


@dataclass(frozen=True, slots=True)
class Tile:
    """A figure at the top of the page. Example: `Tile("Wins against SFT", "81.2%", "77.3% to 84.9%, n 400")`."""

    title: str
    value: str
    more: str
    tone: str = ""


@dataclass(frozen=True, slots=True)
class Chapter:
    """Example: `Chapter("Round 1", (("Labels", "2 SIMULATED labellers gave 500 rankings; …"), …))`."""

    title: str
    parts: tuple[tuple[str, str], ...]  # (lead, sentences)


@dataclass(frozen=True, slots=True)
class Story:
    """The headline, what stands beside it, and the sentences below."""

    verdict: Verdict
    headline: str
    tiles: tuple[Tile, ...]
    warning: str
    chapters: tuple[Chapter, ...]


@dataclass(frozen=True, slots=True)
class Outcome:
    """The best policy after all rounds so far, and how it did against SFT where it is not SFT itself."""

    best: str
    newest: str
    is_promoted: bool
    win: Facts | None


def outcome(run: RunFacts) -> Outcome | None:
    """None before the first evaluation."""
    if not run.measured:
        return None
    last = _figures(run.measured[-1])
    best = last["newest"] if last["promoted"] else last["best_before"]
    wins = {k: w for r in run.measured for k, w in _figures(r)["win_rates"].items()}
    key = f"{best} against SFT"
    return Outcome(best, last["newest"], last["promoted"], wins[key] if key in wins else None)


def verdict_of(win: Facts) -> Verdict:
    """Won or lost only when the whole interval says so."""
    return "won" if win["low"] > 0.5 else "lost" if win["high"] < 0.5 else "open"


def tell(run: RunFacts) -> Story:
    found = outcome(run)
    verdict, headline = _headline(run, found)
    chapters = (
        _chapter("Start", {"": _start(run)}),
        *(_chapter(f"Round {r.i}", _round(run, r)) for r in run.rounds),
        _chapter("What to make of it", {"": _caution(run, found)}),
    )
    warning = SIMULATED if run.is_simulated else ""
    return Story(verdict, headline, tuple(_tiles(run, found)), warning, tuple(c for c in chapters if c.parts))


def _chapter(title: str, parts: Mapping[str, Iterable[str]]) -> Chapter:
    said = ((lead, " ".join(sentences)) for lead, sentences in parts.items())
    return Chapter(title, tuple((lead, text) for lead, text in said if text))


def _figures(r: Round) -> Facts:
    assert r.figures is not None, "measured rounds have figures"
    return r.figures


def _headline(run: RunFacts, found: Outcome | None) -> tuple[Verdict, str]:
    if found is None:
        now = [s for s in run.stages if s.state != "done"]
        return "unfinished", f"Not finished: {now[-1].what}." if now else "Not finished: nothing has been compared yet."
    if found.win is None:
        win = _figures(run.measured[-1])["win_rates"][f"{found.newest} against SFT"]
        verdict: Verdict = "lost" if verdict_of(win) == "lost" else "open"
        says = f"{_name(found.newest)} {AGAINST[verdict_of(win)]} it: it wins {_rate(win)}."
        return verdict, f"No policy was promoted: the supervised model stays. {says}"
    who = "The final policy" if run.summary else "The best policy so far"
    says = f"{who} ({found.best}) {AGAINST[verdict_of(found.win)]} the supervised model: it wins {_rate(found.win)}."
    return verdict_of(found.win), says + ("" if found.is_promoted else f" {_name(found.newest)} was not promoted.")


def _name(policy: str) -> str:
    return policy[0].upper() + policy[1:]


def _rate(win: Facts) -> str:
    return (
        f"{percent(win['rate'])} of {counted(win['n'], 'unseen prompt')} (95% interval {span(win['low'], win['high'])})"
    )


def _tiles(run: RunFacts, found: Outcome | None) -> Iterator[Tile]:
    if found:
        last = _figures(run.measured[-1])
        name = found.newest if found.win is None else found.best
        win = found.win or last["win_rates"][f"{name} against SFT"]
        yield Tile(
            f"{_name(name)} wins against SFT",
            percent(win["rate"]),
            f"{span(win['low'], win['high'])}, n {win['n']}",
            verdict_of(win),
        )
        kl = next(_figures(r)["kl"] for r in run.measured if _figures(r)["newest"] == name)
        yield Tile("KL spent", f"{number(kl['kl'])} nats", f"± {number(1.96 * kl['kl_se'])}, a sequence, from SFT")
        promoted = [_figures(r)["newest"] for r in run.measured if _figures(r)["promoted"]]
        passed = f"{len(promoted)} of {len(run.measured)}"
        yield Tile("Gate", passed, "rounds promoted", "won" if last["promoted"] else "lost")
    if run.n_rankings:
        yield Tile("Rankings", f"{sum(run.n_rankings.values()):,}", f"by {listed([KINDS[k] for k in run.n_rankings])}")
    n_alarms = sum(len(r.alarms) for r in run.rounds)
    n_kinds = len({a["name"] for r in run.rounds for a in r.alarms})
    if any(r.rl for r in run.rounds):
        stopped = any(r.rl and r.rl.facts and r.rl.facts["stopped"] for r in run.rounds)
        yield Tile(
            "Alarms",
            str(n_alarms) if n_alarms else "none",
            "one stopped RL" if stopped else f"in RL, {counted(n_kinds, 'kind')}" if n_alarms else "in RL",
            "lost" if stopped else "",
        )
    seconds = sum(s.seconds or 0.0 for s in run.stages)
    memory = f"{run.summary['peak_memory_gb']:.1f} GB at most" if run.summary else "so far"
    yield Tile("Time", duration(seconds), memory)


def _start(run: RunFacts) -> Iterator[str]:
    yield f"The base model is {run.config['base']}."
    if run.sft and run.sft.facts:
        facts = run.sft.facts
        who = _makers(run)
        yield (
            f"Supervised fine-tuning (SFT) learned from {counted(facts['demonstrations'], 'demonstration')}{who}; "
            f"held-out loss was lowest after epoch {facts['epoch']}, at {number(facts['held_out_loss'])} nats a token."
        )
        if facts["too_long"]:
            yield f"{counted(facts['too_long'], 'demonstration')} did not fit the window and were left out."
    elif run.sft:
        n_updates = sum("loss" in row for row in run.sft.rows)
        yield f"Supervised fine-tuning has made {counted(n_updates, 'update')} so far."


def _makers(run: RunFacts) -> str:
    names = [s.name for s in run.labelers if s.demonstrations]
    return f" ({listed(names)})" if 0 < len(names) <= 3 else ""


def _round(run: RunFacts, r: Round) -> dict[str, Iterable[str]]:
    return {
        "Labels": _judged(run, r),
        "Reward model": (sentence for one in r.rewards for sentence in _learned(one)),
        r.algorithm.upper(): _optimised(run, r),
        "Result": _compared(r.figures) if r.figures else (),
    }


def _judged(run: RunFacts, r: Round) -> Iterator[str]:
    if r.labels and r.labels["simulated"]:
        n = run.config["simulate"]["n_labelers"]
        ties = (
            f"{percent(r.labels['ties'] / r.labels['pairs'])} of the pairs were ties"
            if r.labels["pairs"]
            else "there was no pair"
        )
        agree = (
            ""
            if r.labels["agreement"] is None
            else f" Two of them agree on {percent(r.labels['agreement'])} of the pairs."
        )
        yield f"{n} SIMULATED labellers gave {counted(r.labels['rankings'], 'ranking')}; {ties}.{agree}"
    elif r.labels:
        yield f"People gave {counted(r.labels['rankings'], 'ranking')}."
    elif r.snapshot and run.config["collect"]["labels"] == "imported":
        n = sum(r.snapshot["counts"]["rankings"].values())
        yield f"{counted(n, 'imported ranking')} took the place of new labels."
    waiting = [s for s in run.stages if s.state == "waiting" and s.name.startswith(f"round-{r.i}/")]
    yield from (f"The run is {s.what}." for s in waiting)


def _learned(one: RewardFacts) -> Iterator[str]:
    if one.card is None or one.name not in ("reward-0", "reward-held-out"):
        return
    card = one.card
    interval = span(card["accuracy_low"], card["accuracy_high"])
    if one.name == "reward-0":
        ceiling = (
            ""
            if card["agreement"] is None
            else f"; where two labellers both chose, they agree on {percent(card['agreement'])}"
        )
        yield (
            f"It learned from {counted(card['rankings'], 'ranking')} and orders {percent(card['accuracy'])} of "
            f"{card['n']:,} unseen pairs ({interval}) as the labellers did, where always preferring the longer "
            f"answer is right in {percent(card['longer_wins_accuracy'])}{ceiling}."
        )
    else:
        yield (
            f"Another one, from {counted(card['rankings'], 'other ranking')}, is held out to watch RL; it orders "
            f"{percent(card['accuracy'])} right ({interval})."
        )
        if card["accuracy_low"] <= 0.5:
            yield "That cannot be told from chance, so it watches badly: collect more comparisons."


def _optimised(run: RunFacts, r: Round) -> Iterator[str]:
    if r.rl is None:
        return
    name, best = r.algorithm.upper(), best_updates(run, r)
    done = 1 + max((int(row["step"]) for row in r.rl.rows if "kl" in row), default=-1)
    planned = run.config[r.algorithm]["updates"]
    if r.rl.facts is None:
        yield f"{name} has made {done} of {planned} updates."
        return
    stopped = f" and was stopped ({r.rl.facts['stopped']})" if r.rl.facts["stopped"] else ""
    chosen = (
        "its start: no later policy had more held-out reward within the KL budget"
        if best == 0
        else f"the one after {best} updates"
    )
    yield f"{name} made {done} of {planned} updates{stopped}; the best policy by held-out reward is {chosen}."
    rang = Counter(a["name"] for a in r.alarms)
    names = [f"{name} ({n} times)" if n > 1 else name for name, n in sorted(rang.items())]
    yield f"{counted(len(r.alarms), 'alarm')} rang: {listed(names)}." if names else "No alarm rang."


def _compared(figures: Facts) -> Iterator[str]:
    win, kl = figures["win_rates"][f"{figures['newest']} against SFT"], figures["kl"]
    yield (
        f"Its answers win against SFT on {_rate(win)}, and {percent(win['length_controlled'])} when lengths are made "
        f"equal; judge: {figures['judge']}. "
        f"That cost {number(kl['kl'])} ± {number(1.96 * kl['kl_se'])} nats of KL a sequence."
    )
    if figures["promoted"]:
        yield "The gate promoted it."
    else:
        yield f"The gate did not promote it: {'; '.join(figures['reasons'])}."


def _caution(run: RunFacts, found: Outcome | None) -> Iterator[str]:
    if found is None:
        return
    if run.is_simulated:
        yield "The judge is the simulated taste itself, so a win is a win in the eyes of a program, not of people."
    else:
        yield "The judge is a reward model that RL never saw, not people: have people compare before trusting a win."
    win = found.win or _figures(run.measured[-1])["win_rates"][f"{found.newest} against SFT"]
    if win["rate"] > 0.5 >= win["length_controlled"]:
        yield "At equal lengths the win is gone: the policy wins by writing answers of another length."
    policies = _figures(run.measured[-1])["policies"]
    policy, sft = policies[found.newest], policies["SFT"]
    if policy["unique"] < FEWER * sft["unique"]:
        yield (
            f"The answers became more alike: {percent(policy['unique'])} of {found.newest}'s differ, of SFT's "
            f"{percent(sft['unique'])}. Read the samples."
        )
    if policy["unfinished"] > 0.05:
        yield f"{percent(policy['unfinished'])} of {found.newest}'s answers have no end."
    yield "One run is one seed; the intervals are over prompts alone, and RL can differ by more from seed to seed."
