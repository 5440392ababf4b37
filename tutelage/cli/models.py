"""Commands on models: sample, score, evaluate, chat."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tutelage.cli.main import app, evaluate
from tutelage.cli.terminal import Json, emit, printable
from tutelage.errors import DataError
from tutelage.log import say

if TYPE_CHECKING:
    from tutelage.rounds.talk import Conversation, Reply

Model = Annotated[str, typer.Option("--model", help="A model folder, a run directory, a hub name, or 'bundled'.")]
RewardFolder = Annotated[Path, typer.Option("--model", help="A reward model's folder.")]
Data = Annotated[Path, typer.Option("--data", help="Rankings, pairs, or rows of prompt and completion.")]
Rows = Annotated[Path | None, typer.Option("--out", help="Write the rows there, as JSON Lines.")]
NewTokens = Annotated[int, typer.Option("--max-new-tokens", help="Of an answer.")]
Temperature = Annotated[float, typer.Option("--temperature", help="Divides the logits; 0 takes the likeliest token.")]
TopP = Annotated[float, typer.Option("--top-p", help="Draw among the tokens that hold this share of probability.")]
Seed = Annotated[int, typer.Option("--seed", help="The same seed gives the same answers.")]


@app.command()
def sample(
    model: Model,
    prompt: Annotated[str | None, typer.Option("--prompt", help="One prompt, as words.")] = None,
    prompts: Annotated[Path | None, typer.Option("--prompts", help="A file of prompts.")] = None,
    n: Annotated[int, typer.Option("-n", help="Answers to each prompt.")] = 1,
    max_new_tokens: NewTokens = 64,
    temperature: Temperature = 1.0,
    top_p: TopP = 1.0,
    seed: Seed = 0,
    out: Rows = None,
    json: Json = False,
) -> None:
    """Answers of a model to one prompt or to a file of them."""
    from tutelage.engine.request import SamplingConfig
    from tutelage.rounds import talk
    from tutelage.rounds.files import check_rows_path, prompts_asked

    check_rows_path(out)
    asked, refused = prompts_asked(prompt, prompts)
    sampling = SamplingConfig(max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p)
    found = talk.sample(model, asked, n=n, sampling=sampling, seed=seed, refused=refused)
    shown = [f"> {row['prompt'][-1]['content']}\n{row['completion']}\n" for row in found["samples"]]
    _rows(found, "samples", shown, out, json)


@app.command()
def score(model: RewardFolder, data: Data, out: Rows = None, json: Json = False) -> None:
    """A reward model's score of each answer in a file."""
    from tutelage.rounds import measure
    from tutelage.rounds.files import check_rows_path

    check_rows_path(out)
    found = measure.score(model, data)
    shown = [
        f"{a['score']:+.4f}  {' '.join(a[name].split())}"
        for row in found["rows"]
        for name, answers in (("text", row["completions"]) if "completions" in row else ("completion", [row]),)
        for a in answers
    ]
    _rows(found, "rows", shown, out, json)


def _rows(found: dict[str, Any], name: str, shown: list[str], out: Path | None, as_json: bool) -> None:
    """Rows go to a file when one is named, else into the JSON or onto the terminal."""
    from tutelage.rounds.files import write_rows

    if out is not None:
        write_rows(out, found.pop(name))
        found["out"] = str(out)
    figures = "\n".join(f"{k}: {_figure(v)}" for k, v in found.items() if k != name)
    emit(found, as_json, figures if out is not None else "\n".join([*shown, "", figures]))


def _figure(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k} {_figure(v)}" for k, v in value.items()) or "none"
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return f"{value:.4g}" if isinstance(value, float) else "-" if value is None else str(value)


@evaluate.command("reward")
def evaluate_reward(
    model: Annotated[list[Path], typer.Option("--model", help="A reward model's folder; several are an ensemble.")],
    data: Data,
    combine: Annotated[
        Literal["mean", "worst", "uncertainty"], typer.Option("--combine", help="How an ensemble's scores become one.")
    ] = "mean",
    json: Json = False,
) -> None:
    """How well a reward model orders answers as people did, with 95 % intervals; the same for each source."""
    from tutelage.rounds import measure

    found = measure.reward(model, data, mode=combine)
    parts = {"by_source", "by_labeler", "reliability"}
    lines = [f"{k}: {_figure(v)}" for k, v in found.items() if k not in parts]
    lines += [f"by source, {name}: {_figure(v)}" for name, v in found["by_source"].items()]
    emit(found, json, "\n".join(lines))


@evaluate.command("policy")
def evaluate_policy(
    model: Model,
    against: Annotated[str, typer.Option("--against", help="The policy that it is compared with; named alike.")],
    prompts: Annotated[Path, typer.Option("--prompts", help="A file of prompts that neither has seen.")],
    judge: Annotated[Path, typer.Option("--judge", help="A reward model that neither was trained against.")],
    max_new_tokens: NewTokens = 64,
    temperature: Temperature = 1.0,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """How often one policy's answers are judged better than another's, and what the answers of both are like."""
    from tutelage.engine.request import SamplingConfig
    from tutelage.rounds import measure

    sampling = SamplingConfig(max_new_tokens=max_new_tokens, temperature=temperature)
    found = measure.policy(model, against, prompts, judge, sampling=sampling, seed=seed)
    emit(found, json, "\n".join(f"{k}: {_figure(v)}" for k, v in found.items()))


@app.command()
def chat(
    where: Annotated[str, typer.Argument(help="A run directory, a model folder, a hub name, or 'bundled'.")],
    stage: Annotated[str, typer.Option("--stage", help="Of a run: base, sft, round-1, …; else its best.")] = "",
    against: Annotated[str, typer.Option("--against", help="A second stage (or model), shown beside the first.")] = "",
    max_new_tokens: NewTokens = 128,
    temperature: Temperature = 0.7,
    top_p: TopP = 1.0,
    seed: Seed = 0,
) -> None:
    """Talk to a model, or to two side by side. /reset begins anew, /quit ends. Reads lines from a pipe as well."""
    from tutelage.engine.request import SamplingConfig
    from tutelage.rounds.talk import converse

    sampling = SamplingConfig(max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p)
    talks = converse(where, stage, against, sampling, seed=seed)
    say(f"{' and '.join(talks)} listen. /reset begins anew, /quit ends.")
    for line in _lines():
        if line == "/quit":
            break
        if line == "/reset":
            for conversation in talks.values():
                conversation.reset()
            say("begun anew")
        elif line.strip():
            _turn(talks, line)


def _lines() -> Iterator[str]:
    """What the user types, line by line, until the end of input or Ctrl-C."""
    is_terminal = sys.stdin.isatty()
    while True:
        try:
            line = input("> ") if is_terminal else sys.stdin.readline()
        except (EOFError, KeyboardInterrupt):
            return
        except UnicodeDecodeError as e:
            raise DataError(f"standard input is not UTF-8 ({e.reason}). Convert it, or use a UTF-8 terminal.") from e
        if not line and not is_terminal:
            return
        yield line.rstrip("\n")


def _turn(talks: "dict[str, Conversation]", line: str) -> None:
    try:
        replies = {name: conversation.answer(line) for name, conversation in talks.items()}
    except DataError as e:
        if not sys.stdin.isatty():  # a script should hear of it; a person says it shorter
            raise
        say(f"error: {e}")
        return
    for name, reply in replies.items():
        if reply.n_forgotten:
            say(f"({name} no longer sees the first {reply.n_forgotten} messages: they do not fit its window)")
    if len(replies) > 1 and sys.stdout.isatty():
        _side_by_side(replies)
    else:
        for name, reply in replies.items():
            typer.echo(f"{printable(name)}: {_shown(reply)}")


def _shown(reply: "Reply") -> str:
    return printable(reply.text) + ("" if reply.is_finished else " […]")


def _side_by_side(replies: "dict[str, Reply]") -> None:
    table = Table(*map(printable, replies), show_edge=False, expand=True)
    table.add_row(*(Text(_shown(reply)) for reply in replies.values()))  # as Text: words in brackets are no markup
    Console().print(table)
