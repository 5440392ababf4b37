"""Renders what results/*.jsonl holds into docs/speed.md, with the bars it is held against, and its plots.

    python benchmarks/report.py

The newest line of each case counts. A figure below its bar is printed as such.
"""

import argparse
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loglog import draw
from pairs import read_results
from shapes import SHAPES

DOCS = Path(__file__).parents[1] / "docs"
Row = dict[str, Any]

INTRO = """# Speed

Rendered by `python benchmarks/report.py` from `benchmarks/results/`; every line there carries its command, commit,
date, versions and the probe of the machine. `make bench` runs everything once, briefly, also without the peers;
[how to install them](../benchmarks/peers/README.md).

How it is measured: project and peer are processes of their own on the same weights and token counts, and take turns
within one run, as many as the column "pairs" says. Before and after each turn the machine multiplies two matrices; a
pair beside a rate below 0.9 of the quiet one is dropped and counted. A figure is a ratio of medians, in brackets the
least and the most of single pairs. Where no pair was quiet, the ratio over all of them stands, marked "noisy": both
sides took turns in the same noise, but it may have met one more than the other. The peer runs in its fastest setting
found, which is bf16 weights unless the row says otherwise. Only useful tokens count. "Share of the matrix rate" divides
by the best bf16 rate of square products (1024 or 2048) with as many threads that was seen in the same run, "share of
the memory's rate" by the measured rate of reading as many bytes; only products with weight matrices count as work
(`benchmarks/shapes.py`), so no share is flattered.
Bars that are shares were set on two cores of an AMD EPYC (Zen 5) that multiply 900 GFLOP/s and read 78 GB/s of memory.
A machine that multiplies faster and reads more slowly reaches a smaller share with the same work a second, which stands
beside it.
"""


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured number and its bar."""

    number: int
    what: str
    bar: str
    measured: str
    is_met: bool
    row: Row

    @property
    def verdict(self) -> str:
        noisy = "pairs" in self.row and not self.row["pairs"]
        return ("met" if self.is_met else "**not met**") + (", noisy" if noisy else "")


def figures(rows: Sequence[Row]) -> list[Figure]:
    """Every figure that these results of one machine give."""
    makers: tuple[Callable[[Sequence[Row]], Iterable[Figure]], ...] = (
        _decode, _batch_one, _matrix_share, _ppo, _sft, _reward, _rloo, _memory, _neighbour, _on_a_card,
    )  # fmt: skip
    return [figure for make in makers for figure in make(rows)]


def latest(rows: Iterable[Row], bench: str, *, peer: str = "", is_quiet: bool = True, **wanted: Any) -> Row | None:
    """The newest line of a bench with these values, a quiet pair and, where one is named, this family of peers.

    is_quiet  False takes a line without a quiet pair, too
    """
    found = [
        r
        for r in rows
        if r["bench"] == bench
        and all(k in r and r[k] == v for k, v in wanted.items())
        and ("pairs" not in r or r["pairs"] > 0 or not is_quiet)
        and any(name.startswith(peer) for name in r["sides"])
    ]
    return found[-1] if found else None


def quietest(rows: Sequence[Row], bench: str, **wanted: Any) -> Row | None:
    """The newest line with a quiet pair, else the newest of all: good for a ratio of what was measured in one noise."""
    return latest(rows, bench, **wanted) or latest(rows, bench, is_quiet=False, **wanted)


def fastest(row: Row, family: str) -> str | None:
    """The peer whose name begins so and whose rate is the highest."""
    names = [n for n in row["sides"] if n.startswith(family)]
    return max(names, key=lambda n: row["sides"][n]["rate"]["median"]) if names else None


def at_least(number: int, what: str, row: Row, peer: str | None, bar: float) -> list[Figure]:
    """The ratio to a peer; nothing where it did not run."""
    if peer is None or peer not in row["sides"]:
        return []
    if "ratios" in row:
        r = row["ratios"][peer]
        ratio, text = r["median"], f"{r['median']:.2f}× ({r['low']:.2f} to {r['high']:.2f})"
    else:  # of the medians over all pairs, since none was quiet
        mine, other = (row["sides"][name]["rate"]["median"] for name in (next(iter(row["sides"])), peer))
        ratio, text = mine / other, f"{mine / other:.1f}×"
    return [Figure(number, f"{what}, against {peer}", f"≥ {bar:g}×", text, ratio >= bar, row)]


def peak(row: Row) -> float:
    """The best bf16 matrix rate that the run saw, in operations a second."""
    probed = row["probe"]["best"]["bf16"] if "probe" in row else 0
    return max(float(row["peak"]), float(probed)) * 1e9


def of_peak(share: float, row: Row) -> str:
    """The rate behind a share: machines differ in what they multiply for each byte that they read."""
    return f"{share * peak(row) / 1e9:,.0f} of {peak(row) / 1e9:,.0f} GFLOP/s"


def _decode(rows: Sequence[Row]) -> Iterable[Figure]:
    for number, lengths, what, bars in (
        (1, "equal", "decode, batch 64", (9, 3.5)),
        (2, "uniform", "decode, batch 64, stops uniform 10 to 128", (14, 3.3)),
    ):
        for family, bar in zip(("transformers", "vllm"), bars, strict=True):
            row = quietest(rows, "decode", peer=family, size="10M", batch=64, lengths=lengths, threads=2)
            if row:
                yield from at_least(number, what, row, fastest(row, family), bar)


def _has_steps(row: Row) -> bool:
    """Whether the answers were long enough to time steps by themselves."""
    return "step_tokens_s" in row["sides"]["tutelage"]


def _batch_one(rows: Sequence[Row]) -> Iterable[Figure]:
    for size in ("60M", "135M"):
        for threads, bar in ((1, 0.9), (2, 0.8)):
            row = quietest(rows, "decode", size=size, batch=1, threads=threads)
            if row and _has_steps(row):
                share = row["sides"]["tutelage"]["step_tokens_s"] * row["weight_bytes"] / 1e9 / row["read_gb_s"]
                what = f"decode, batch 1, {size}, {threads} thread{'s' * (threads > 1)}: share of the memory's rate"
                yield Figure(3, what, f"≥ {bar:.0%}", f"{share:.0%}", share >= bar, row)


def _matrix_share(rows: Sequence[Row]) -> Iterable[Figure]:
    for batch, threads in ((16, 1), (64, 1), (16, 2), (64, 2), (256, 2)):
        row = latest(rows, "decode", size="10M", batch=batch, lengths="equal", threads=threads)
        if row and _has_steps(row):
            mine = row["sides"]["tutelage"]
            steps = mine["step_tokens_s"] * row["step_operations_per_token"] / peak(row)
            whole = row["operations"] / mine["seconds"] / peak(row)
            what = f"decoding steps, batch {batch}, {threads} thread{'s' * (threads > 1)}: share of the matrix rate"
            text = f"{steps:.0%}: {of_peak(steps, row)} (prompts included {whole:.0%}{_memory_allows(row)})"
            yield Figure(4, what, "≥ 65%", text, steps >= 0.65, row)


def _memory_allows(row: Row) -> str:
    """The share that a step would reach if it did nothing but read its weights and what its slots hold."""
    if "step_bytes" not in row or not row["read_gb_s"]:
        return ""
    seconds = row["step_bytes"] / 1e9 / row["read_gb_s"]
    return f"; its reading alone allows {row['batch'] * row['step_operations_per_token'] / seconds / peak(row):.0%}"


def _ppo(rows: Sequence[Row]) -> Iterable[Figure]:
    for peer, bar in (("PPOTrainer, bfloat16 weights", 3.3), ("PPOTrainer, float32 weights", 6)):
        row = quietest(rows, "ppo", peer=peer, size="10M", prompts=64)
        if row:
            yield from at_least(5, "PPO iteration, batch 64", row, peer, bar)
    row = latest(rows, "ppo", size="10M", prompts=64)
    if row:
        times = row["sides"]["tutelage"]["seconds"] * peak(row) / row["operations"]
        text = f"{times:.2f}×: {of_peak(1 / times, row)}"
        yield Figure(5, "PPO iteration, multiple of the bf16 floor", "≤ 1.4×", text, times <= 1.4, row)


def _sft(rows: Sequence[Row]) -> Iterable[Figure]:
    row = latest(rows, "sft", size="10M", batch=32)
    if row:
        yield from at_least(6, "SFT, documents of 32 to 224 tokens", row, fastest(row, "SFTTrainer"), 5)
        share = row["sides"]["tutelage"]["rate"]["median"] * row["operations_per_token"] / peak(row)
        text = f"{share:.0%}: {of_peak(share, row)}"
        yield Figure(6, "SFT, share of the matrix rate (MFU)", "≥ 55%", text, share >= 0.55, row)


def _reward(rows: Sequence[Row]) -> Iterable[Figure]:
    for k in (4, 9):
        row = quietest(rows, "reward", peer="RewardTrainer", size="10M", k=k)
        if row:
            what = f"reward model, rankings of {k}, per comparison"
            yield from at_least(7, what, row, fastest(row, "RewardTrainer"), 4)


def _rloo(rows: Sequence[Row]) -> Iterable[Figure]:
    for family in ("RLOOTrainer", "GRPOTrainer"):
        row = quietest(rows, "rloo", peer=family, size="10M", prompts=8, k=8)
        if row:
            yield from at_least(8, "RLOO iteration, 8 prompts of 8", row, fastest(row, family), 4.5)


def _memory(rows: Sequence[Row]) -> Iterable[Figure]:
    """From a run of its own where there is one, else from the sides of the PPO run, which are processes alone, too."""
    peer, bar = "PPOTrainer, bfloat16 weights", 0.45
    row = quietest(rows, "memory", size="10M", prompts=64) or quietest(rows, "ppo", size="10M", prompts=64)
    if row and peer in row["sides"]:
        mine, other = (row["sides"][name]["peak_gb"] for name in ("tutelage", peer))
        text = f"{mine / other:.2f}× ({mine:.2f} of {other:.2f} GiB)"
        yield Figure(9, f"peak memory of PPO, against {peer}", f"≤ {bar}×", text, mine / other <= bar, row)


def _neighbour(rows: Sequence[Row]) -> Iterable[Figure]:
    for task in ("decode", "sft", "ppo"):
        row = quietest(rows, "neighbour", task=task)
        if row:
            what = f"{task}, two threads beside a busy neighbour"
            yield from at_least(10, what, row, "one thread, quiet", 0.9)


def _on_a_card(rows: Sequence[Row]) -> Iterable[Figure]:
    """Bars of a GPU, where the sizes are larger and memory is what limits decoding."""
    for size in ("135M", "0.5B", "1.5B"):
        row = latest(rows, "decode", size=size, batch=64, lengths="equal")
        if row and _has_steps(row) and row["device"] != "cpu":
            steps = row["sides"]["tutelage"]["step_tokens_s"] / row["batch"]
            share = steps * row["weight_bytes"] / 1e9 / row["read_gb_s"]
            what = f"decode on a card, batch 64, {size}: share of the memory's rate"
            yield Figure(13, what, "≥ 60%", f"{share:.0%}", share >= 0.6, row)
        row = latest(rows, "sft", size=size, batch=32)
        if row and row["device"] != "cpu":
            share = row["sides"]["tutelage"]["rate"]["median"] * row["operations_per_token"] / peak(row)
            what = f"SFT on a card, {size}: share of the matrix rate"
            yield Figure(13, what, "≥ 50%", f"{share:.0%}", share >= 0.5, row)


def table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    rule = "|" + "---|" * len(head)
    return "\n".join(["| " + " | ".join(head) + " |", rule, *("| " + " | ".join(line) + " |" for line in lines)]) + "\n"


def summary(found: Sequence[Figure]) -> str:
    return table(
        ("#", "figure", "measured", "bar", "", "pairs (dropped)", "date, commit"),
        (
            (
                str(f.number), f.what, f.measured, f.bar, f.verdict,
                f"{f.row['pairs']} ({f.row['dropped']})" if "pairs" in f.row else "",
                f"{f.row['date']}, {f.row['commit']}",
            )
            for f in found
        ),
    )  # fmt: skip


def rates(rows: Sequence[Row]) -> str:
    """Every side of every comparison in its newest line with a quiet pair: rate, seconds of a turn, peak memory."""
    newest = {
        (row["bench"], row["case"], row["threads"], name): (row, side)
        for row in rows
        if "pairs" in row and row["pairs"] > 0
        for name, side in row["sides"].items()
    }
    lines = []
    for (bench, case, threads, name), (row, side) in newest.items():
        r, version = side["rate"], side["settings"]["what"]
        rate = f"{r['median']:,.0f} ({r['low']:,.0f} to {r['high']:,.0f}) {row['unit']}"
        lines.append(
            (
                f"{bench}: {case}", str(threads), name, rate, f"{side['seconds']:.3g}", f"{side['peak_gb']:.2f}",
                version, row["commit"],
            )
        )  # fmt: skip
    return table(("case", "threads", "side", "rate", "s a turn", "peak GiB", "release", "commit"), lines)


def scaling(rows: Sequence[Row], folder: Path) -> str:
    """One plot an axis, and its steps in numbers."""
    newest = {r["case"]: r for r in rows if r["bench"] == "scaling"}
    parts = []
    for axis, row in newest.items():
        points = row["points"]
        first = points[0]
        measured = [(p["x"], p["seconds"]) for p in points]
        guide = [(p["x"], first["seconds"] * p["operations"] / first["operations"]) for p in points]
        folder.mkdir(exist_ok=True)
        (folder / f"{axis}.svg").write_text(draw(f"{axis}", row["x"], "seconds", measured, guide), encoding="utf-8")
        steps = ", ".join(f"{e:g}" for e in row["exponents"])
        over = "; above 1.1: step " + ", ".join(str(i + 1) for i in row["superlinear"]) if row["superlinear"] else ""
        cause = f" {CAUSES[axis]}" if row["superlinear"] and axis in CAUSES else ""
        parts.append(f"![{axis}](speed/{axis}.svg)\n\nExponents of the steps: {steps}{over}.{cause}\n")
    return "\n".join(parts)


# Why a step costs more than its work, where one does.
CAUSES: dict[str, str] = {
    "decode-size": "Each step reads all weights: the larger the model (2, 20, 117 and 269 MB), the less of them stays "
    "in caches and the more comes from memory.",
    "response": "A response's tokens come one a step, where a prompt's are computed together, and each reads the keys "
    "and values of all before it, which are not counted as work.",
}


def page(rows: Sequence[Row], folder: Path) -> str:
    """One part a machine, the newest first."""
    machines = {(r["device"], r["cpu"], r["cores"]): r for r in rows}
    parts = [INTRO]
    for key, row in reversed(machines.items()):
        own = [r for r in rows if (r["device"], r["cpu"], r["cores"]) == key]
        name = row["cpu"] if row["device"] == "cpu" else f"{row['device']} with {row['cpu']}"
        parts += [f"## {name}, {row['cores']} cores\n", summary(figures(own))]
        parts += ["### Rates\n", rates(own)]
        if plots := scaling(own, folder):
            text = "Seconds of one turn; dashed: if cost grew as the work does, which is an exponent of 1.\n"
            parts += ["### Cost against size\n", text, plots]
    shapes = ", ".join(f"{name} {s.weights / 1e6:,.1f} M weights" for name, s in SHAPES.items())
    return "\n".join([*parts, f"Shapes: {shapes} (`benchmarks/shapes.py`).\n"])


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--out", type=Path, default=DOCS, help="folder of speed.md")
    out = p.parse_args().out
    (out / "speed.md").write_text(page(read_results(), out / "speed"), encoding="utf-8")
    print(f"{out / 'speed.md'} written")


if __name__ == "__main__":
    main()
