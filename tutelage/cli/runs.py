"""Commands on run directories: quickstart, run, status, one stage alone, pretrain, report, doctor."""

from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer

from tutelage.cli.main import app
from tutelage.cli.terminal import Json, emit

Out = Annotated[Path, typer.Option("--out", help="The run directory: started, or resumed where it stands.")]
Set = Annotated[list[str] | None, typer.Option("--set", help="One setting, as a.b=c; may be given many times.")]
RecipeFile = Annotated[Path, typer.Argument(help="A recipe, such as recipes/quickstart.toml.")]


def _run(
    recipe: Path, out: Path, settings: list[str] | None, as_json: bool, until: str = "", patient: bool = False
) -> None:
    from tutelage import config
    from tutelage.rounds.recipe import Recipe
    from tutelage.rounds.round import run_recipe

    summary = run_recipe(config.load(Recipe, recipe, settings or []), out, until=until, patient=patient)
    emit(summary, as_json, f"The result lies in {out / 'report.html' if not until else out}")


@app.command()
def quickstart(out: Out = Path("runs/quickstart"), settings: Set = None, json: Json = False) -> None:
    """The whole loop on the bundled model, in minutes: SFT, two rounds of simulated labels and PPO, and a report."""
    _run(Path(str(files("tutelage") / "assets" / "recipes" / "quickstart.toml")), out, settings, json)


@app.command()
def run(
    recipe: RecipeFile,
    out: Out,
    settings: Set = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait here for people's labels, and go on by itself.")] = False,
    profile: Annotated[bool, typer.Option("--profile", help="Tell where the time of RL's updates goes.")] = False,
    json: Json = False,
) -> None:
    """Start or resume a run: everything that the recipe says."""
    _run(recipe, out, [*(settings or []), *(["run.profile=true"] if profile else [])], json, patient=wait)


@app.command()
def sft(recipe: RecipeFile, out: Out, settings: Set = None, json: Json = False) -> None:
    """A run as far as its supervised fine-tuning."""
    _run(recipe, out, settings, json, until="sft")


@app.command()
def reward(recipe: RecipeFile, out: Out, settings: Set = None, json: Json = False) -> None:
    """A run as far as the reward models of its first round."""
    _run(recipe, out, settings, json, until="reward")


@app.command()
def ppo(recipe: RecipeFile, out: Out, settings: Set = None, json: Json = False) -> None:
    """A run as far as the PPO of its first round."""
    _run(recipe, out, [*(settings or []), "run.algorithm=ppo"], json, until="rl")


@app.command()
def rloo(recipe: RecipeFile, out: Out, settings: Set = None, json: Json = False) -> None:
    """A run as far as the RLOO of its first round."""
    _run(recipe, out, [*(settings or []), "run.algorithm=rloo"], json, until="rl")


@app.command()
def status(folder: Annotated[Path, typer.Argument(help="A run directory.")], json: Json = False) -> None:
    """Where a run stands."""
    from tutelage.rounds.status import describe, read

    state = read(folder)
    emit(state, json, describe(state))


@app.command()
def pretrain(recipe: RecipeFile, out: Out, settings: Set = None, json: Json = False) -> None:
    """Train a small base model from text; the same command goes on after a stop."""
    from tutelage import config
    from tutelage.rounds.pretraining import PretrainRecipe, run_pretraining

    figures = run_pretraining(config.load(PretrainRecipe, recipe, settings or []), out)
    emit(dict(figures), json, f"The model lies in {out / 'base'}")


@app.command()
def report(folder: Annotated[Path, typer.Argument(help="A run directory.")], json: Json = False) -> None:
    """Write report.html anew from what a run has published."""
    from tutelage.report.page import write_report

    path = write_report(folder)
    emit({"report": str(path)}, json, f"The report lies in {path}")


@app.command()
def doctor(
    recipe: Annotated[Path | None, typer.Argument(help="A recipe to check, too.")] = None, json: Json = False
) -> None:
    """Check machine, versions, threads, disk, model and data; say what to mend."""
    from tutelage.rounds.doctor import examine

    found = examine(recipe)
    emit(found.to_json(), json, found.text())
    if not found.is_well:
        raise typer.Exit(1)
