"""A round's reward models: those that RL optimises, and one on other labels that watches."""

import hashlib
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import permutations
from pathlib import Path
from typing import Any

import torch

from tutelage.data.comparisons import (
    RankedRows,
    comparison_batch,
    ranked_rows,
    rankings_from_ratings,
    without_oldest_turns,
)
from tutelage.errors import ConfigError, DataError, TrainingError
from tutelage.evals.reward_model import RewardReport, evaluate
from tutelage.formats.detect import read_feedback
from tutelage.log import Progress, say
from tutelage.model.checkpoint import weights_sha
from tutelage.model.reward_model import Probe, RewardModel, Weighing, load_reward, new_reward_model, save_reward
from tutelage.publish import published, write_json
from tutelage.reward.scorer import Scorer
from tutelage.rounds.memory_notice import announce, need_of_learner
from tutelage.rounds.prepare import demonstrations, register, version_id
from tutelage.rounds.run import Run, Stage
from tutelage.seed import derive
from tutelage.stats.dedupe import normalise
from tutelage.stats.reliability import fit_noisy_bt
from tutelage.store.snapshot import load_card, load_rankings, load_ratings
from tutelage.train import reward_model as loop
from tutelage.train import transcripts
from tutelage.train.detectors import reward_model_alarms
from tutelage.train.reward_heads import fit_heads
from tutelage.types import Demonstration, RankedGroup, Split

N_CALIBRATION = 256  # demonstrations and answers that fix the zero and the unit of a score
N_PROBES = 16


@dataclass(frozen=True, slots=True)
class RewardModels:
    """Folders of the optimised ensemble and of the held-out model."""

    members: tuple[Path, ...]
    held_out: Path

    def scorer(self, run: Run) -> Scorer:
        recipe = run.recipe
        return Scorer.load(
            self.members,
            mode=recipe.reward_stage.combine,
            precision=recipe.compute.precision,
            device=recipe.run.device,
        )

    def watcher(self, run: Run) -> Scorer:
        recipe = run.recipe
        return Scorer.load([self.held_out], precision=recipe.compute.precision, device=recipe.run.device)


def is_held_out(prompt_id: str, share: float) -> bool:
    """Whether a prompt's rankings train the held-out model; by the prompt, so that the two never share one."""
    return int(hashlib.sha256(f"held out|{prompt_id}".encode()).hexdigest()[:8], 16) / 16**8 < share


def preference_pretraining(run: Run, sft: Path) -> Path | None:
    """Trains a reward model on other comparisons first, as Bai et al. 2022 (arXiv:2204.05862, section 4.3) do."""
    settings = run.recipe.reward_stage
    if not settings.pretrain_on:
        return None
    folder = run.folder / "preference-pretraining"
    if not run.is_done(folder):
        groups = other_comparisons(
            settings.pretrain_on, seed=derive(run.recipe.run.seed, "pretrain_on"), limit=settings.pretrain_limit
        )
        # Ours and theirs share prompts (public sets overlap); what we measure on must not be learned here.
        ours = {
            normalise(g.prompt.text)
            for s in ("valid", "test")
            for g in load_rankings(run.folder / "snapshots" / "demonstrations", s)
        }
        clean = [g for g in groups if normalise(g.prompt.text) not in ours]
        with run.stage(
            folder, f"{len(clean)} other comparisons ({len(groups) - len(clean)} left out: measured on)"
        ) as stage:
            model = new_reward_model(
                settings.source or str(sft),
                settings.kind,
                aspects=None,
                read=settings.read,
                n_cells=settings.ngram_cells,
                seed=derive(run.recipe.run.seed, "head"),
                device=run.recipe.run.device,
            )
            _fit(
                run,
                stage,
                model,
                clean[50:],
                clean[:50],
                derive(run.recipe.run.seed, "preference"),
                {"stage": "preference"},
                replace(run.recipe.reward, epochs=settings.pretrain_epochs, head_prior=0.0),
            )
    return folder


def other_comparisons(paths: Sequence[str], *, seed: int, limit: int) -> list[RankedGroup]:
    """Rankings of several files, shuffled together."""
    groups = [item for path in paths for item in read_feedback(Path(path)) if isinstance(item, RankedGroup)]
    if len(groups) < 100:
        raise DataError(
            f"reward_stage.pretrain_on holds {len(groups)} rankings; fewer than 100 teach nothing. Give more, or leave "
            f"it out."
        )
    random.Random(seed).shuffle(groups)
    return groups[:limit] if limit else groups


def rankings(snapshot: Path, split: Split) -> list[RankedGroup]:
    """Everything that compares: rankings, and grades by aspect as rankings of that aspect."""
    return load_rankings(snapshot, split) + rankings_from_ratings(load_ratings(snapshot, split))


def held_out_rankings(snapshot: Path) -> list[RankedGroup]:
    """Rankings that no reward model learns from. They choose nothing either, so both held-out parts measure."""
    return rankings(snapshot, "valid") + rankings(snapshot, "test")


def train(run: Run, i_round: int, snapshot: Path, sft: Path, pretrained: Path | None) -> RewardModels:
    """All reward models of a round. Raises TrainingError when the optimised one cannot be told from chance."""
    settings, folder = run.recipe.reward_stage, run.folder / f"round-{i_round}"
    groups, valid = rankings(snapshot, "train"), held_out_rankings(snapshot)
    if not valid:
        raise DataError(
            f"{snapshot} holds no held-out ranking. Collect more comparisons, or raise data.valid_fraction."
        )
    own = [g for g in groups if not is_held_out(g.prompt.id, settings.held_out_share)]
    other = [g for g in groups if is_held_out(g.prompt.id, settings.held_out_share)]
    members = []
    for k in range(settings.members):
        members.append(_one(run, folder / f"reward-{k}", own, valid, snapshot, sft, pretrained, f"member {k}"))
    held_out = _one(run, folder / "reward-held-out", other, valid, snapshot, sft, pretrained, "held out")
    _refuse_if_blind(run, members[0])
    return RewardModels(tuple(members), held_out)


def _one(
    run: Run,
    folder: Path,
    groups: Sequence[RankedGroup],
    valid: Sequence[RankedGroup],
    snapshot: Path,
    sft: Path,
    pretrained: Path | None,
    name: str,
) -> Path:
    settings, seed = run.recipe.reward_stage, derive(run.recipe.run.seed, "reward", str(folder.relative_to(run.folder)))
    if settings.heads == "sources":  # a head learns one source's taste, as it would one aspect's
        groups = [g.model_copy(update={"aspect": g.source}) for g in groups]
    if not run.is_done(folder):
        with run.stage(folder, f"reward model ({name}) from {len(groups)} rankings") as stage:
            model = _unfitted(run, groups, sft, pretrained, seed)
            lineage = {"stage": "reward", "snapshot": load_card(snapshot).hash}
            _fit(run, stage, model, groups, valid, seed, lineage, run.recipe.reward, adapt=settings.adapt_epochs)
    register(run, folder, parent=version_id(sft), snapshot=load_card(snapshot).hash)
    return folder


def _unfitted(run: Run, groups: Sequence[RankedGroup], sft: Path, pretrained: Path | None, seed: int) -> RewardModel:
    """The reward model that the comparisons of a round begin with; fresh heads wherever theirs are not in it yet."""
    settings = run.recipe.reward_stage
    aspects = _aspects(groups, settings.aspects)
    weigh: Weighing = "prompt" if settings.heads == "sources" else "fixed"
    form: dict[str, Any] = {
        "aspects": aspects, "read": settings.read, "weigh": weigh, "n_cells": settings.ngram_cells, "seed": seed
    }  # fmt: skip
    if not pretrained:
        return new_reward_model(settings.source or str(sft), settings.kind, **form, device=run.recipe.run.device)
    learned = load_reward(pretrained, device=run.recipe.run.device)[0]
    if weigh == "fixed" and list(learned.aspects) == list(aspects):
        return learned
    return RewardModel(learned.backbone, learned.chat, **form)


def _aspects(groups: Sequence[RankedGroup], weights: Mapping[str, float]) -> Mapping[str, float]:
    """One head an aspect; of equal weight where the recipe names none. Raises ConfigError for an aspect left out."""
    names = sorted({g.aspect for g in groups})
    if not weights:
        return {name: 1 / len(names) for name in names}
    missing = [name for name in names if name not in weights]
    if missing:
        raise ConfigError(
            f"reward_stage.aspects has no weight for {missing[0]!r}, but comparisons of it are there. "
            f"Give it one (0 learns the head and leaves it out of the score)."
        )
    return weights


def _fit(
    run: Run,
    stage: Stage,
    model: RewardModel,
    groups: Sequence[RankedGroup],
    valid: Sequence[RankedGroup],
    seed: int,
    lineage: dict[str, Any],
    cfg: loop.RewardConfig,
    *,
    adapt: int = 0,
) -> None:
    """Trains, normalises, measures and publishes one reward model. `adapt`: how often its backbone reads the texts."""
    recipe, n_shortened = run.recipe, 0
    weight_of = reliabilities(groups) if recipe.reward_stage.labelers == "reliability" else {}
    if recipe.reward_stage.long_prompts == "shorten":
        groups, n_shortened = without_oldest_turns(groups, model.row)
        valid = without_oldest_turns(valid, model.row)[0]
    rows, n_long = ranked_rows(groups, model.row, weight_of)
    n_steps = loop.n_steps(cfg, len(rows))
    learner = loop.reward_learner(model, optim=recipe.reward_optim, compute=recipe.compute, total_steps=n_steps)
    n_tokens = sum(len(ids) for r in rows for ids, _ in r.answers)
    announce(need_of_learner(learner, model.backbone, recipe.compute, n_tokens=n_tokens), model.head.weight.device)
    found = stage.resume()
    if found:
        learner.load_state(found[0])
    else:
        _begin(run, model, rows, seed, cfg, adapt)
    loop.run(
        cfg,
        rows=rows,
        model=model,
        learner=learner,
        seed=seed,
        log=stage.metrics(n_steps, at=learner.n_steps, shown=("loss", "accuracy")),
        save=lambda step: stage.save(step, learner.state(), {}),
    )
    answers = [(g.prompt, t) for g in valid for t in g.texts]
    _set_scale(model, demonstrations(run)[0], answers, recipe.compute.precision)
    measured, usable = _measure(model, valid, recipe.compute.precision)
    say(
        f"  accuracy {measured.accuracy:.1%} ({measured.accuracy_low:.1%} to {measured.accuracy_high:.1%}) on "
        f"{measured.n} held-out pairs; of length alone {measured.longer_wins_accuracy:.1%}"
    )
    plain = Scorer([model])
    probes = [Probe(p, t, float(plain([p], [t]))) for p, t in [(g.prompt, g.texts[0]) for g in usable[:N_PROBES]]]
    card = measured.to_json() | {
        "rankings": len(rows),
        "too_long": n_long,
        "shortened": n_shortened,
        "log_tie": float(model.log_tie.detach()),
        "train_score_p999": _top_score(model, rows),
        "labeler_weights": weight_of,
    }
    sha = weights_sha(model.state_dict())
    # Everything is written by `save_reward` in one publication; the metrics go in beside it.
    save_reward(
        stage.folder, model, lineage={**lineage, "weights": sha}, card=card, probes=probes, extra=stage.keep_metrics
    )


def _begin(
    run: Run, model: RewardModel, rows: Sequence[RankedRows], seed: int, cfg: loop.RewardConfig, adapt: int
) -> None:
    """What comes before the passes over the rankings: reading their texts, and fitting the heads."""
    recipe = run.recipe
    if adapt:
        losses: list[float] = []
        n_steps = adapt * -(-sum(len(r.answers) for r in rows) // transcripts.BATCH)
        progress = Progress("reading the conversations", n_steps)

        def log(step: int, row: dict[str, float]) -> None:
            losses.append(row["loss"])
            progress.advance(1, loss=row["loss"])

        transcripts.read_transcripts(
            model,
            rows,
            epochs=adapt,
            optim=recipe.sft_optim,
            compute=recipe.compute,
            seed=derive(seed, "adapt"),
            log=log,
        )
        say(f"  the backbone has read the conversations: {losses[0]:.2f} to {losses[-1]:.2f} nats a token")
    with torch.no_grad():
        model.log_tie.fill_(loop.log_tie_of(rows))
    if cfg.head_prior:
        fit_heads(cfg, comparison_batch(rows), model, recipe.compute)


def reliabilities(groups: Sequence[RankedGroup]) -> dict[str, float]:
    """Weight of each labeler, mean 1, from how far all agree with her: a noisy Bradley-Terry model over the pairs that
    are not tied. Where no prompt was judged twice, all count alike.
    """
    names = sorted({g.labeler for g in groups})
    prompts = {p: n for n, p in enumerate(dict.fromkeys(g.prompt.id for g in groups))}
    items: dict[tuple[str, str], int] = {}
    seen: list[tuple[int, int, int, int]] = []
    for g in groups:
        ids = [items.setdefault((g.prompt.id, text), len(items)) for text in g.texts]
        for a, b in permutations(range(len(ids)), 2):
            if g.tiers[a] < g.tiers[b] and ids[a] != ids[b]:
                seen.append((ids[a], ids[b], names.index(g.labeler), prompts[g.prompt.id]))
    better, worse, labeler, prompt = zip(*seen, strict=True) if seen else ((), (), (), ())
    found = fit_noisy_bt(better, worse, labeler, prompt, n_labelers=len(names))
    weights = found.weights if found.n.any() else [1.0] * len(names)
    return {name: float(w) for name, w in zip(names, weights, strict=True)}


def _set_scale(
    model: RewardModel, demos: Sequence[Demonstration], answers: Sequence[tuple[Any, str]], precision: str
) -> None:
    """Zero is the mean of people's own answers; the unit is one standard deviation over the policy's."""
    scorer = Scorer([model], precision=precision)
    of_people = _scores(scorer, [(d.prompt, d.text) for d in demos[:N_CALIBRATION]])
    of_policy = _scores(scorer, answers[: 2 * N_CALIBRATION])
    spread = float(of_policy.std()) if len(of_policy) > 1 else 0.0
    if not spread > 1e-6:
        raise TrainingError(
            "the reward model gives every answer the same score: it learned nothing. Collect more comparisons, or "
            "raise its learning rate."
        )
    model.normalise(float(of_people.mean()), spread)


def _scores(scorer: Scorer, items: Sequence[tuple[Any, str]]) -> torch.Tensor:
    """Scores of the items that fit the window."""
    fitting = []
    for prompt, text in items:
        try:
            scorer.members[0].row(prompt, text)
        except DataError:
            continue
        fitting.append((prompt, text))
    return scorer([p for p, _ in fitting], [t for _, t in fitting])


def _measure(
    model: RewardModel, valid: Sequence[RankedGroup], precision: str
) -> tuple[RewardReport, list[RankedGroup]]:
    usable = [r.group for r in ranked_rows(valid, model.row)[0]]
    return evaluate(Scorer([model], precision=precision), usable), usable


def _top_score(model: RewardModel, rows: Sequence[RankedRows]) -> float:
    """The 99.9 % quantile of scores on what the model was trained on."""
    flat = [(r.group.prompt, t) for r in rows for t in r.group.texts][:4000]
    return float(_scores(Scorer([model]), flat).quantile(0.999))


def _refuse_if_blind(run: Run, folder: Path) -> None:
    card = load_reward(folder, device="cpu")[1]
    for alarm in reward_model_alarms(
        correct=round(card["accuracy"] * card["n"]),
        n=card["n"],
        length_only=card["longer_wins_accuracy"],
        agreement=card["agreement"],
    ):
        say(f"  ! {alarm.name}: {alarm.saw}. Likely cause: {alarm.cause}. {alarm.advice}")
        if alarm.action == "abort" and not run.recipe.reward_stage.insist:
            raise TrainingError(
                f"{folder}: {alarm.name}: {alarm.saw}. Likely cause: {alarm.cause}. {alarm.advice} RL on it would only "
                f"make the policy worse; reward_stage.insist = true runs it all the same."
            )


def learning_curve(run: Run, i_round: int, snapshot: Path, sft: Path, pretrained: Path | None) -> None:
    """Accuracy against the number of rankings: further reward models on parts of the data, by prompt."""
    shares, folder = run.recipe.evaluation.learning_curve, run.folder / f"round-{i_round}" / "learning-curve"
    if not shares or run.is_done(folder):
        return
    groups, valid = rankings(snapshot, "train"), held_out_rankings(snapshot)
    rows = []
    for share in sorted(shares):
        part = [g for g in groups if not is_held_out(f"curve|{g.prompt.id}", 1 - share)]
        one = _one(
            run, folder.parent / f"curve-{share:g}", part, valid, snapshot, sft, pretrained, f"{share:.0%} of the data"
        )
        card = load_reward(one, device="cpu")[1]
        rows.append({k: card[k] for k in ("rankings", "accuracy", "accuracy_low", "accuracy_high", "n", "by_source")})
    with run.stage(folder, "learning curve"), published(folder) as aside:
        write_json(aside / "curve.json", rows)
