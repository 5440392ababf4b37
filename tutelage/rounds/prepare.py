"""What comes before the rounds: material into the store, the base model, supervised fine-tuning, other comparisons."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch

from tutelage.data.sft import sft_rows
from tutelage.errors import DataError
from tutelage.exchange import import_file
from tutelage.formats.rows import read_rows
from tutelage.log import say
from tutelage.model.causal import CausalModel
from tutelage.model.chat import Chat
from tutelage.model.checkpoint import LINEAGE, read_lineage, save_causal, weights_sha, write_causal
from tutelage.model.device import AUTO
from tutelage.model.lora import Adapter
from tutelage.publish import is_published, published, write_json
from tutelage.rounds.memory_notice import announce, need_of_learner
from tutelage.rounds.pretraining import pretrain_into
from tutelage.rounds.run import Run, Stage
from tutelage.seed import derive
from tutelage.store import feedback as feedback_store
from tutelage.store.lineage import add_model_version
from tutelage.store.prompts import get_prompts
from tutelage.store.snapshot import freeze, load_card, load_demonstrations, load_rankings, split_of
from tutelage.train import sft as sft_loop
from tutelage.train.pretrain import language_learner
from tutelage.types import Demonstration, Message, ModelVersion, Prompt, Split

DEMO = "demo"


@dataclass(frozen=True, slots=True)
class Prompts:
    """Prompts by what they may be used for; no prompt is in two of them."""

    train: tuple[Prompt, ...]
    valid: tuple[Prompt, ...]
    test: tuple[Prompt, ...]


def material(run: Run) -> Prompts:
    """Puts demonstrations, prompts and comparisons into the store (once), and splits the prompts."""
    folder, data = run.folder / "material", run.recipe.data
    if not run.is_done(folder):
        with run.stage(folder, "reading prompts, demonstrations and comparisons"):
            reports: dict[str, Any] = {}
            for kind, paths in (
                ("demonstrations", data.demonstrations),
                ("prompts", data.prompts),
                ("comparisons", data.comparisons),
            ):
                for path in paths:
                    file = demo_file(kind) if path == DEMO else Path(path)
                    report = import_file(run.store, file, source=path_source(path), format="auto")
                    why = "".join(f", {n} of them: {reason}" for reason, n in report.refused.items())
                    said = f"{report.n_taken} taken, {report.merged} known already, {report.n_refused} refused{why}"
                    say(f"  {kind} of {path}: {said}")
                    reports[f"{kind}/{path}"] = said
            with published(folder) as aside:
                write_json(aside / "imports.json", reports)
    return _split(run)


def path_source(path: str) -> str:
    """The name under which a file's material stands in the store."""
    return path if path == DEMO else Path(path).name.split(".")[0]


def demo_file(kind: str) -> Path:
    return Path(str(files("tutelage") / "assets" / "demo" / f"{kind}.jsonl"))


def _split(run: Run) -> Prompts:
    """The demo names its own unseen prompts; all others are split by hash of the normalised prompt."""
    data, seed = run.recipe.data, derive(run.recipe.run.seed, "split")
    unseen = _demo_unseen() if DEMO in data.prompts else set()
    sources = {path_source(p) for p in (*data.prompts, *data.comparisons)}
    parts: dict[Split, list[Prompt]] = {"train": [], "valid": [], "test": []}
    for prompt in get_prompts(run.store):
        if prompt.source not in sources:
            continue
        if prompt.source == DEMO:
            # The demo's test prompts are its own; the rest is split without a test part.
            part: Split = (
                "test"
                if prompt.id in unseen
                else split_of(prompt, valid_fraction=data.valid_fraction, test_fraction=0.0, seed=seed)
            )
        else:
            part = split_of(prompt, valid_fraction=data.valid_fraction, test_fraction=data.test_fraction, seed=seed)
        parts[part].append(prompt)
    for name, found in parts.items():
        if not found:
            raise DataError(f"the material holds no {name} prompt. Give more prompts, or larger data.{name}_fraction.")
    return Prompts(tuple(parts["train"]), tuple(parts["valid"]), tuple(parts["test"]))


def _demo_unseen() -> set[str]:
    rows = read_rows(demo_file("prompts"))
    return {
        Prompt(messages=tuple(Message.model_validate(m) for m in row["prompt"])).id
        for _, row in rows
        if row["split"] == "eval"
    }


def version_id(folder: Path) -> str:
    """Name of a published folder's weights."""
    lineage = read_lineage(folder)
    return f"{lineage['stage']}-{lineage['weights'][:12]}"


def register(
    run: Run, folder: Path, *, parent: str | None, snapshot: str | None = None, reward: str | None = None
) -> str:
    """Names the weights of a published folder in the store, with where they came from; returns the version's id."""
    lineage = read_lineage(folder)
    version = ModelVersion(
        id=version_id(folder),
        stage=lineage["stage"],
        weights_sha=lineage["weights"],
        parent=parent,
        snapshot=snapshot,
        reward_model=reward,
        path=str(folder.relative_to(run.folder)),
    )
    add_model_version(run.store, version)
    return version.id


def base(run: Run) -> Path:
    """Trains the base model where the recipe says so, or loads it, before any other work; names its weights."""
    folder = run.folder / "base"
    source = run.recipe.base
    if run.recipe.pretraining is not None:
        own = run.recipe.pretraining
        own = replace(own, device=run.recipe.run.device) if own.device == AUTO else own
        source = str(pretrain_into(own, run.folder / "pretraining"))
    if not run.is_done(folder):
        with run.stage(folder, f"opening {source}"):
            model, chat = run.open_causal(source)
            sha = weights_sha(model.hf.state_dict())
            save_causal(folder, model, chat, {"stage": "base", "source": source, "weights": sha}, dtype=torch.float32)
    register(run, folder, parent=None)
    return folder


def demonstrations(run: Run) -> tuple[list[Demonstration], list[Demonstration]]:
    """Frozen demonstrations to train on and held out (prompts of the test part left out). Freezes them at first use."""
    folder, data = run.folder / "snapshots" / "demonstrations", run.recipe.data
    if not is_published(folder):
        # Comparisons that were imported and everything before the first round; later rounds freeze their own.
        upto = feedback_store.head(run.store).seq
        freeze(
            run.store,
            folder,
            seq_upto=upto,
            valid_fraction=data.valid_fraction,
            test_fraction=test_fraction(run),
            seed=derive(run.recipe.run.seed, "split"),
        )
    train, valid = (load_demonstrations(folder, split) for split in ("train", "valid"))
    if data.preferred_as_demonstrations:
        train, valid = train + _preferred(folder, "train"), valid + _preferred(folder, "valid")
    if not train or not valid:
        raise DataError(
            f"{len(train)} demonstrations to learn from and {len(valid)} held out; both are needed. Give "
            f"data.demonstrations, or set data.preferred_as_demonstrations = true to learn from the preferred answers."
        )
    return train, valid


def test_fraction(run: Run) -> float:
    """The demo's test prompts carry no feedback, so its snapshots have no test part."""
    only_demo = {*run.recipe.data.prompts, *run.recipe.data.comparisons, *run.recipe.data.demonstrations} == {DEMO}
    return 0.0 if only_demo else run.recipe.data.test_fraction


def _preferred(folder: Path, split: Split) -> list[Demonstration]:
    return [
        Demonstration(prompt=g.prompt, text=text, labeler=g.labeler, source=g.source)
        for g in load_rankings(folder, split)
        for text, tier in zip(g.texts, g.tiers, strict=True)
        if tier == 1 and text.strip()
    ]


def sft(run: Run, base_folder: Path) -> Path:
    """Supervised fine-tuning; publishes the weights of the epoch with the lowest held-out loss."""
    folder = run.folder / "sft"
    snapshot = run.folder / "snapshots" / "demonstrations"
    if not run.is_done(folder):
        train, valid = demonstrations(run)
        with run.stage(folder, f"learning from {len(train)} demonstrations") as stage:
            _sft(run, stage, base_folder, train, valid)
    register(run, folder, parent=version_id(base_folder), snapshot=load_card(snapshot).hash)
    return folder


def _sft(
    run: Run, stage: Stage, base_folder: Path, train: Sequence[Demonstration], valid: Sequence[Demonstration]
) -> None:
    recipe, seed = run.recipe, derive(run.recipe.run.seed, "sft")
    model, chat = run.open_causal(base_folder)
    adapter = Adapter(model, recipe.lora, seed=seed) if recipe.lora.rank else None
    rows, held_out = sft_rows(train, chat), sft_rows(valid, chat)
    total = recipe.sft.epochs * -(-len(rows.rows) // recipe.sft.batch_size)
    learner = language_learner(model, optim=recipe.sft_optim, compute=recipe.compute, total_steps=total)
    need = need_of_learner(
        learner, model, recipe.compute, n_tokens=sum(len(ids) for ids, _ in rows.rows),
        share_chosen=rows.supervised_share, copies=1,
    )  # fmt: skip
    announce(need, model.device)
    progress = sft_loop.SFTProgress()
    best: dict[str, torch.Tensor] = {}
    found = stage.resume()
    if found:
        tensors, facts = found
        learner.load_state({k.removeprefix("learner/"): v for k, v in tensors.items() if k.startswith("learner/")})
        best = {k.removeprefix("best/"): v for k, v in tensors.items() if k.startswith("best/")}
        progress = sft_loop.SFTProgress(**facts["progress"])

    def keep_best() -> None:
        best.update({n: p.detach().clone() for n, p in learner.named.items()})

    def save(step: int, now: sft_loop.SFTProgress) -> None:
        tensors = {f"learner/{k}": v for k, v in learner.state().items()} | {f"best/{k}": v for k, v in best.items()}
        stage.save(
            step,
            tensors,
            {"progress": {"best_loss": now.best_loss, "best_epoch": now.best_epoch, "stopped": now.stopped}},
        )

    sft_loop.run(
        recipe.sft,
        rows=rows,
        held_out=held_out,
        learner=learner,
        seed=seed,
        progress=progress,
        log=stage.metrics(total, at=learner.n_steps, shown=("loss", "held_out_loss")),
        save=save,
        keep_best=keep_best,
    )
    with torch.no_grad():
        for name, p in learner.named.items():
            p.copy_(best[name])
    model = adapter.merge() if adapter else model
    facts = {
        "stage": "sft",
        "weights": weights_sha(model.hf.state_dict()),
        "held_out_loss": progress.best_loss,
        "epoch": progress.best_epoch + 1,
        "demonstrations": len(rows.rows),
        "too_long": rows.n_too_long,
        "supervised_share": rows.supervised_share,
    }
    publish_model(stage, model, chat, facts)


def publish_model(stage: Stage, model: CausalModel, chat: Chat, facts: dict[str, Any]) -> None:
    """Publishes a model folder with the stage's metrics inside."""
    with published(stage.folder) as aside:
        write_causal(aside, model, chat)
        write_json(aside / LINEAGE, {**facts, "template": chat.template_hash, "tokenizer": chat.tokenizer_hash})
        stage.keep_metrics(aside)
