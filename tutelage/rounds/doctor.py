"""`tutelage doctor`: proves machine, model and recipe before hours are spent on them."""

from pathlib import Path

from tutelage import config
from tutelage.rounds.findings import Check, Findings, attempt
from tutelage.rounds.machine_checks import machine_checks
from tutelage.rounds.model_checks import model_checks
from tutelage.rounds.recipe import Recipe
from tutelage.rounds.recipe_checks import recipe_checks


def examine(recipe: Path | None) -> Findings:
    """Every check, even after a bad one. Without a recipe, of the bundled model; with one, of its base and its data."""
    settings: list[Recipe] = []

    def load() -> list[Check]:
        assert recipe is not None, "there is a recipe to load"
        settings.append(config.load(Recipe, recipe))
        return [Check("recipe", "ok", str(recipe))]

    checks = [*machine_checks(Path.cwd()), *(attempt("recipe", load) if recipe is not None else [])]
    found, chat = model_checks(settings[0].base if settings else "bundled")
    checks += found
    if settings:
        checks += recipe_checks(settings[0], chat)
    return Findings(tuple(checks))
