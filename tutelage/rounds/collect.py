"""A round's comparisons: sample on the best policy, have people (or simulated people) rank, freeze."""

import random
from collections.abc import Sequence
from pathlib import Path

from tutelage.errors import DataError, WaitingForLabels
from tutelage.log import Progress, say
from tutelage.model.load import load_causal
from tutelage.publish import is_published, published, write_json
from tutelage.rounds.machines import complete, fitting
from tutelage.rounds.prepare import Prompts, test_fraction, version_id
from tutelage.rounds.run import Run, Stage
from tutelage.seed import derive
from tutelage.simulate.collect import collect as simulate_collect
from tutelage.simulate.gold import BrandVoice
from tutelage.store.completions import add_completions, completions_of
from tutelage.store.feedback import count
from tutelage.store.snapshot import freeze
from tutelage.types import Completion, Prompt

CHUNK = 64  # prompts sampled and stored together: what a kill can cost


def round_source(i_round: int) -> str:
    """The name under which a round's judgements stand in the store."""
    return f"round-{i_round}"


def prompts_of_round(run: Run, prompts: Prompts, i_round: int) -> list[Prompt]:
    """Which training prompts are judged in a round: new ones as long as there are any."""
    everyone = [*prompts.train, *prompts.valid]
    order = list(range(len(everyone)))
    random.Random(derive(run.recipe.run.seed, "judged")).shuffle(order)
    n = min(run.recipe.collect.prompts, len(everyone))
    start = (i_round - 1) * n
    return [everyone[order[(start + k) % len(everyone)]] for k in range(n)]


def sample(run: Run, i_round: int, prompts: Prompts, policy: Path) -> list[tuple[Prompt, list[Completion]]]:
    """K completions of each of the round's prompts by the best policy so far, stored with its version."""
    recipe, folder = run.recipe, run.folder / f"round-{i_round}" / "samples"
    version = version_id(policy)
    chosen = prompts_of_round(run, prompts, i_round)
    if not run.is_done(folder):
        with run.stage(
            folder, f"{recipe.collect.completions} answers to each of {len(chosen)} prompts, by {version}"
        ) as stage:
            _sample(run, stage, i_round, chosen, policy, version)
    listed = {p.id for p in chosen}
    groups = [(p, completions_of(run.store, p.id, model_version=version)) for p in chosen if p.id in listed]
    return [(p, c[: recipe.collect.completions]) for p, c in groups if c]


def _sample(run: Run, stage: Stage, i_round: int, chosen: Sequence[Prompt], policy: Path, version: str) -> None:
    recipe = run.recipe
    model, chat = load_causal(str(policy))
    kept, n_long = fitting(chosen, chat, recipe.sampling.max_new_tokens, longest=recipe.data.max_prompt_tokens)
    progress = Progress(stage.name, len(kept))
    for start in range(0, len(kept), CHUNK):
        part = kept[start : start + CHUNK]
        written = complete(
            model,
            chat,
            part,
            n=recipe.collect.completions,
            sampling=recipe.sampling,
            engine=recipe.engine,
            model_version=version,
            seed=derive(recipe.run.seed, "collect", i_round),
        )
        add_completions(run.store, written)
        progress.advance(len(part), tokens=sum(len(c.token_ids or ()) for c in written))
    with published(stage.folder) as aside:
        write_json(aside / "samples.json", {"prompts": len(kept), "too_long": n_long, "version": version})


def label(run: Run, i_round: int, groups: Sequence[tuple[Prompt, Sequence[Completion]]]) -> None:
    """Has the round's completions ranked, or waits for people. Raises WaitingForLabels while too few are ranked."""
    recipe, folder = run.recipe, run.folder / f"round-{i_round}" / "labels"
    if run.is_done(folder):
        return
    source = round_source(i_round)
    if recipe.collect.labels == "people":
        needed = recipe.collect.needed or len(groups)
        have = count(run.store, kind="ranking", sources=[source])
        if have < needed:
            run.waiting(str(folder.relative_to(run.folder)), have, needed)
            raise WaitingForLabels(
                f"waiting for labels: {have} of {needed}. {len(groups)} prompts with their answers lie in "
                f"{run.folder / 'store.db'}; bring rankings in with `tutelage import FILE --store "
                f"{run.folder / 'store.db'} --source {source}`, then run the same command again."
            )
        report = f"{have} rankings by people"
        with run.stage(folder, report), published(folder) as aside:
            write_json(aside / "labels.json", {"simulated": False, "rankings": have})
        return
    with run.stage(folder, f"simulated labellers rank {len(groups)} prompts"):
        found = simulate_collect(
            run.store,
            groups,
            gold=BrandVoice.load(),
            config=recipe.simulate,
            source=source,
            seed=derive(recipe.run.seed, "labellers", i_round),
            overlap=recipe.collect.overlap,
        )
        say(
            f"  {found.n_rankings} rankings by SIMULATED labellers, {found.n_pairs} pairs, {found.n_ties} of them "
            f"ties; two labellers agree on {_percent(found.agreement)}, a label is right in "
            f"{_percent(found.accuracy)} of the pairs"
        )
        with published(folder) as aside:
            figures = {
                "simulated": True,
                "rankings": found.n_rankings,
                "pairs": found.n_pairs,
                "ties": found.n_ties,
                "agreement": found.agreement,
                "accuracy": found.accuracy,
                "noise": found.sigma,
            }
            write_json(aside / "labels.json", figures)


def _percent(share: float | None) -> str:
    return "an unknown share" if share is None else f"{share:.0%}"


def freeze_round(run: Run, i_round: int) -> Path:
    """Everything judged so far, old and new, as a hashed snapshot."""
    folder = run.folder / "snapshots" / f"{i_round:04d}"
    if not is_published(folder):
        card = freeze(
            run.store,
            folder,
            valid_fraction=run.recipe.data.valid_fraction,
            test_fraction=test_fraction(run),
            seed=derive(run.recipe.run.seed, "split"),
        )
        if not sum(card.counts.get("rankings", {}).values()):
            raise DataError(
                f"snapshot {i_round} holds no ranking: a reward model cannot be learned. Collect comparisons, or give "
                f"data.comparisons."
            )
    return folder
