"""`tutelage pretrain`: text to a base model of our own, with its card. Resumable like every other stage."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from tutelage import config
from tutelage.data.corpus import CorpusSource, documents, load_corpus, plain
from tutelage.errors import ConfigError
from tutelage.log import MetricsLog, Progress, say
from tutelage.model.chat import Chat
from tutelage.model.checkpoint import LINEAGE, latest_state, save_state, weights_sha, write_causal
from tutelage.model.device import find_device, has_fast_bf16
from tutelage.model.load import new_llama
from tutelage.model.tokenizer import train_bpe
from tutelage.publish import RunLock, is_published, published, write_json
from tutelage.seed import derive
from tutelage.train import pretrain as loop
from tutelage.train.learner import ComputeConfig
from tutelage.train.optim import OptimConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class PretrainRecipe:
    """Everything that decides what a base model becomes."""

    sources: tuple[CorpusSource, ...]
    pretrain: loop.PretrainConfig = field(default_factory=loop.PretrainConfig)
    optim: OptimConfig = field(
        default_factory=lambda: OptimConfig(lr=1.5e-3, final_lr=0.05, warmup_steps=100, weight_decay=0.1)
    )
    tokenizer_share: float = 0.25  # of a text source's documents, for training the tokenizer; dialogues count whole
    device: str = "auto"  # as `run.device`
    precision: str = "auto"
    microbatch_tokens: int = 4096
    gradient_checkpointing: bool = False  # as in a run's recipe
    threads: int = 0  # 0 = all cores
    seed: int = 1
    card: str = ""  # a Markdown file on data, licence and attribution, published with the model

    def __post_init__(self) -> None:
        if not self.sources:
            raise ConfigError("pretrain: there is no source. Give at least one [[sources]] with a path.")


def run_pretraining(recipe: PretrainRecipe, folder: Path) -> dict[str, float]:
    """Trains tokenizer and model, from the last saved state on, and publishes them as `folder/base`."""
    folder.mkdir(parents=True, exist_ok=True)
    with RunLock(folder):
        if is_published(folder / "base"):
            raise ConfigError(f"{folder / 'base'} is already there. Choose a new --out to train another model.")
        return _train(recipe, folder)


def pretrain_into(recipe: PretrainRecipe, folder: Path) -> Path:
    """The same as the first stage of a run, which already owns its directory. Returns the model's folder."""
    if not is_published(folder / "base"):
        folder.mkdir(parents=True, exist_ok=True)
        _train(recipe, folder)
    return folder / "base"


def _train(recipe: PretrainRecipe, folder: Path) -> dict[str, float]:
    if recipe.threads:
        torch.set_num_threads(recipe.threads)
    cfg, device = recipe.pretrain, find_device(recipe.device)
    bf16 = recipe.precision == "bf16" or (recipe.precision == "auto" and has_fast_bf16(device))
    say("reading text and training the tokenizer")
    chat = Chat(train_bpe(_tokenizer_texts(recipe), cfg.vocabulary), window=cfg.window)
    corpora = [load_corpus(s, chat, row_tokens=cfg.window) for s in recipe.sources]
    for c in corpora:
        say(f"  {c.name}: {sum(len(p) for p in c.train):,} tokens, {sum(len(p) for p in c.held_out):,} held out")
    batches = loop.plan(cfg, corpora, [s.epochs for s in recipe.sources], recipe.seed)
    model = new_llama(
        vocabulary=cfg.vocabulary,
        width=cfg.width,
        layers=cfg.layers,
        heads=cfg.heads,
        window=cfg.window,
        eos_id=chat.end_id,
        seed=derive(recipe.seed, "init"),
    ).to(device)
    compute = ComputeConfig(
        precision="bf16" if bf16 else "fp32",
        microbatch_tokens=recipe.microbatch_tokens,
        gradient_checkpointing=recipe.gradient_checkpointing,
    )
    learner = loop.language_learner(model, optim=recipe.optim, compute=compute, total_steps=len(batches))
    found = latest_state(folder / "state")
    if found:
        learner.load_state(found[0])
        say(f"  going on at update {learner.n_steps} of {len(batches)}")
    log, progress = MetricsLog(folder / "metrics.jsonl", resume_at=learner.n_steps), Progress("pretrain", len(batches))
    progress.done = learner.n_steps

    def write(step: int, row: dict[str, float]) -> None:
        log.write(step, row)
        tokens = int(row["tokens"]) if "loss" in row else 0
        progress.advance(step + 1 - progress.done, tokens=tokens, **{k: v for k, v in row.items() if k == "loss"})

    final = loop.run(
        cfg,
        corpora=corpora,
        batches=batches,
        learner=learner,
        log=write,
        save=lambda step: save_state(folder / "state", step, learner.state(), {}),
    )
    with published(folder / "base") as aside:
        write_causal(aside, model, chat, dtype=torch.bfloat16)
        sha = weights_sha(model.hf.state_dict())
        write_json(
            aside / LINEAGE, {"stage": "pretrain", "weights": sha, "figures": final, "recipe": config.to_table(recipe)}
        )
        (aside / "README.md").write_text(_card(recipe, final), encoding="utf-8")
    return final


def _tokenizer_texts(recipe: PretrainRecipe) -> Iterator[str]:
    every = max(1, round(1 / recipe.tokenizer_share))
    for source in recipe.sources:
        for i, document in enumerate(documents(source)):
            if not isinstance(document, str) or i % every == 0:
                yield plain(document)


def _readings(epochs: float, updates: int) -> str:
    """How often a source was read, or in which proportion where the run was cut short."""
    return (
        f"{epochs:g} readings of it in the mixture, of which {updates} updates were made"
        if updates
        else f"read {epochs:g} times"
    )


def _card(recipe: PretrainRecipe, final: dict[str, float]) -> str:
    own = Path(recipe.card).read_text(encoding="utf-8") if recipe.card else "# A base model trained with tutelage\n"
    lines = [
        f"- parameters: {final['parameters']:,.0f}; tokens read: {final['tokens']:,.0f}, "
        f"{final['tokens_per_parameter']:.1f} a parameter, {final['chinchilla_share']:.0%} of the 20 at which compute "
        f"is well spent (Hoffmann et al. 2022)",
        *(
            f"- held-out perplexity, {k.removeprefix('perplexity/')}: {v:.2f} a token"
            for k, v in final.items()
            if k.startswith("perplexity/")
        ),
        *(f"- source: {s.name}, {_readings(s.epochs, recipe.pretrain.updates)}" for s in recipe.sources),
    ]
    return (
        own.rstrip()
        + "\n\n## Training\n\n"
        + "\n".join(lines)
        + f"\n\n```toml\n{config.to_toml(replace(recipe, card=''))}```\n"
    )
