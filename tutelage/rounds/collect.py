"""A round's comparisons: sample on the best policy, have people (or simulated people) rank, freeze."""

import random
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from tutelage.engine.prefix_cache import PrefixCache
from tutelage.errors import DataError, WaitingForLabels
from tutelage.log import Progress, say
from tutelage.publish import is_published, published, write_json
from tutelage.reward.scorer import Scorer
from tutelage.rounds.machines import complete, fitting
from tutelage.rounds.prepare import Prompts, test_fraction, version_id
from tutelage.rounds.run import Run, Stage
from tutelage.seed import derive
from tutelage.simulate.collect import collect as simulate_collect
from tutelage.simulate.gold import BrandVoice
from tutelage.store.completions import add_completions, completions_of
from tutelage.store.feedback import count
from tutelage.store.projects import create_project, find_project
from tutelage.store.snapshot import freeze
from tutelage.store.tasks import NewTask, add_tasks
from tutelage.types import Completion, Prompt

Groups = Sequence[tuple[Prompt, Sequence[Completion]]]
LOOK_S = 2.0  # between looks into the store, while a run waits for people
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
    model, chat = run.open_causal(policy)
    kept, n_long = fitting(chosen, chat, recipe.sampling.max_new_tokens, longest=recipe.data.max_prompt_tokens)
    progress, prefixes = Progress(stage.name, len(kept)), PrefixCache()
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
            precision=recipe.compute.precision,
            prefixes=prefixes,
        )
        add_completions(run.store, written)
        progress.advance(len(part), tokens=sum(len(c.token_ids or ()) for c in written))
    with published(stage.folder) as aside:
        write_json(aside / "samples.json", {"prompts": len(kept), "too_long": n_long, "version": version})


def label(run: Run, i_round: int, groups: Groups) -> None:
    """Has the round's completions ranked, or waits for people. Raises WaitingForLabels while too few are ranked."""
    recipe, folder = run.recipe, run.folder / f"round-{i_round}" / "labels"
    if run.is_done(folder):
        return
    source = round_source(i_round)
    if recipe.collect.labels == "people":
        _ask_people(run, i_round, folder, source, groups)
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


def _ask_people(run: Run, i_round: int, folder: Path, source: str, groups: Groups) -> None:
    """Lays the answers on people's desk and counts what they ranked. Raises WaitingForLabels while it is too little."""
    asked, n_alike = put_on_desk(run, source, groups, uncertainty(run, i_round, groups))
    needed = run.recipe.collect.needed or asked
    name = str(folder.relative_to(run.folder))
    while (have := count(run.store, kind="ranking", sources=[source])) < needed:
        run.waiting(name, have, needed)
        told = f"waiting for labels: {have} of {needed}"
        if not run.patient:
            raise WaitingForLabels(
                f"{told}. {asked} prompts with their answers lie on the desk: `tutelage label {run.folder}` opens it, "
                f"and the same command goes on when they are judged (--wait waits here). Rankings made elsewhere "
                f"come in with `tutelage import FILE --store {run.folder / 'store.db'} --source {source}`."
            )
        say(told)
        _pause_until(run, source, have)
    with run.stage(folder, f"{have} rankings by people"), published(folder) as aside:
        write_json(aside / "labels.json", {"simulated": False, "rankings": have, "all_alike": n_alike})


def _pause_until(run: Run, source: str, have: int) -> None:
    """Returns when people have ranked more."""
    while count(run.store, kind="ranking", sources=[source]) == have:
        time.sleep(LOOK_S)


def uncertainty(run: Run, i_round: int, groups: Groups) -> dict[str, float]:
    """How far the last round's reward models disagree on each prompt: the spread of their scores over its answers.

    Empty where the recipe chooses blindly, and in the first round, which has no reward model yet.
    """
    before = run.folder / f"round-{i_round - 1}"
    folders = [p for p in sorted(before.glob("reward-*")) if is_published(p)]
    if run.recipe.collect.choose != "uncertain" or len(folders) < 2:
        return {}
    scorer = Scorer.load(folders, precision=run.recipe.compute.precision, device=run.recipe.run.device)
    flat = [(p, c.text) for p, completions in groups for c in completions]
    spread_B = scorer.by_member([p for p, _ in flat], [t for _, t in flat]).std(dim=1)
    rows = spread_B.split([len(completions) for _, completions in groups])
    return {prompt.id: float(row.mean()) for (prompt, _), row in zip(groups, rows, strict=True)}


def put_on_desk(run: Run, source: str, groups: Groups, priority_of: Mapping[str, float]) -> tuple[int, int]:
    """Makes tasks of a round's answers, each once, in the run's own project; what is most uncertain is offered first.

    Returns how many there are to rank, and how many groups were left out because all their answers are one text.
    """
    store, slug = run.store, project_slug(run.folder)
    project = find_project(store, slug) or create_project(store, run.folder.resolve().name, slug=slug)
    tasks, n_alike = [], 0
    for prompt, completions in groups:
        if len({c.text.strip() for c in completions}) < 2:
            n_alike += 1
            continue
        tasks.append(
            NewTask(
                kind="rank",
                prompt=prompt,
                completions=tuple(completions),
                source=source,
                overlap=project.settings.overlap,
                priority=priority_of[prompt.id] if prompt.id in priority_of else 0.0,
            )
        )
    add_tasks(store, project.id, tasks)
    return len(tasks), n_alike


def project_slug(folder: Path) -> str:
    """The address of a run's project: its folder's name, in letters that an address can have."""
    plain = "".join(c if c.isascii() and c.isalnum() else "-" for c in folder.resolve().name.lower()).strip("-")
    return plain[:40].rstrip("-") or "run"


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
