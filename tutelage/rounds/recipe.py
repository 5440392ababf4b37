"""A recipe: every setting of a run, each in the words of the room that it configures."""

import os
from dataclasses import dataclass, field, replace
from typing import Literal

from tutelage.engine.engine import EngineConfig
from tutelage.engine.request import SamplingConfig
from tutelage.errors import ConfigError
from tutelage.evals.gate import GateConfig
from tutelage.model.device import find_device, has_fast_bf16
from tutelage.model.lora import LoraSettings
from tutelage.model.reward_model import Reading
from tutelage.reward.scorer import Mode
from tutelage.rounds.pretraining import PretrainRecipe
from tutelage.simulate.labeller import LabellerConfig
from tutelage.train.experience import UnfinishedConfig
from tutelage.train.kl_control import KLConfig
from tutelage.train.learner import ComputeConfig
from tutelage.train.monitor import MonitorConfig
from tutelage.train.optim import OptimConfig
from tutelage.train.ppo import PPOConfig
from tutelage.train.reward_model import RewardConfig
from tutelage.train.rloo import RLOOConfig
from tutelage.train.sft import SFTConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConfig:
    """The run as a whole."""

    rounds: int = 2
    seed: int = 1
    threads: int = 0  # of this machine; 0 = all cores. Pinned in config.toml, since another number rounds otherwise
    device: str = "auto"  # 'cpu', 'cuda', 'cuda:1'; auto = a GPU where there is one. Pinned as threads are
    precision: Literal["auto", "fp32", "bf16"] = "auto"  # of the passes; auto = bf16 where the device has it
    algorithm: Literal["ppo", "rloo"] = "ppo"
    start_from: Literal["sft", "best"] = "sft"  # where each round's RL starts, and its reference
    tensorboard: bool = False
    profile: bool = False  # tell where an update's time and memory went; may be switched in a run under way

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise ConfigError(f"run.rounds = {self.rounds}, but there must be one. `tutelage sft` runs without rounds.")
        if self.threads < 0:
            raise ConfigError(f"run.threads = {self.threads}. Set it to 0 (all cores) or more.")


@dataclass(frozen=True, slots=True, kw_only=True)
class DataConfig:
    """What the run starts with. 'demo' is the bundled customer-service scene; anything else is a path."""

    demonstrations: tuple[str, ...] = ("demo",)
    prompts: tuple[str, ...] = ("demo",)
    comparisons: tuple[str, ...] = ()  # files of people's rankings or pairs, imported once
    preferred_as_demonstrations: bool = False  # SFT on the best answer of each imported ranking
    valid_fraction: float = 0.1  # of prompts, by hash; chooses among policies and measures reward models
    test_fraction: float = 0.2  # of prompts, by hash; for the figures of the report alone
    max_prompt_tokens: int = 0  # longer prompts are left out and counted; 0 = whatever leaves room for an answer

    def __post_init__(self) -> None:
        if not (
            0 < self.valid_fraction < 1 and 0 < self.test_fraction < 1 and self.valid_fraction + self.test_fraction < 1
        ):
            raise ConfigError(
                f"data.valid_fraction = {self.valid_fraction}, data.test_fraction = {self.test_fraction}: both are "
                f"shares above 0, and something must be left to train on. 0.1 and 0.2 are usual."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectConfig:
    """Which comparisons each round asks for."""

    labels: Literal["simulated", "people", "imported"] = "simulated"
    prompts: int = 400  # judged in each round
    completions: int = 4  # of each prompt, ranked together: 2 to 9
    overlap: float = 0.2  # share of prompts that two labellers judge: what agreement is measured on
    needed: int = 0  # rankings at which a run that waits for people goes on; 0 = one for every prompt
    choose: Literal["random", "uncertain"] = "random"  # which people see first; uncertain: where reward models disagree

    def __post_init__(self) -> None:
        if not 2 <= self.completions <= 9:
            raise ConfigError(
                f"collect.completions = {self.completions}, but a ranking compares 2 to 9 answers. 4 is usual."
            )
        if self.prompts < 1:
            raise ConfigError(f"collect.prompts = {self.prompts}, but a round needs at least one. Hundreds are usual.")


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardStage:
    """The reward models of a round: those that RL optimises, and one on other labels that it never sees."""

    source: str = ""  # a model folder or hub name; empty = the SFT model
    kind: Literal["causal", "encoder"] = "causal"
    members: int = 1  # of the ensemble that is optimised
    combine: Mode = "mean"
    held_out_share: float = 0.3  # share of the rankings, by prompt, that train the held-out reward model
    pretrain_on: tuple[str, ...] = ()  # files of other comparisons that all reward models learn first
    pretrain_limit: int = 0  # rankings of them at most; 0 = all
    pretrain_epochs: int = 1  # how often they are read, whatever `reward.epochs` says of a round's own comparisons
    adapt_epochs: int = 0  # how often the backbone first reads the compared conversations, as a language model
    aspects: dict[str, float] = field(default_factory=dict)  # weights of the heads by name; empty = all aspects alike
    read: Reading = "token"  # where the heads read an answer; "answer" = off all of its tokens
    ngram_cells: int = 0  # hashed tokens and pairs of tokens that the heads read besides; 65536 is usual
    long_prompts: Literal["leave_out", "shorten"] = "leave_out"  # beyond the window; "shorten" = less the oldest turns
    heads: Literal["aspects", "sources"] = "aspects"  # "sources" = one a source of comparisons, weighed by the prompt
    labelers: Literal["equal", "reliability"] = "equal"  # how much each counts; see stats.reliability
    insist: bool = False  # run RL even on a reward model that cannot be told from chance

    def __post_init__(self) -> None:
        if self.members < 1:
            raise ConfigError(
                f"reward_stage.members = {self.members}, but one reward model is the least. Set it to 1 or more."
            )
        if self.pretrain_epochs < 1:
            raise ConfigError(
                f"reward_stage.pretrain_epochs = {self.pretrain_epochs} would read none of pretrain_on. Set it to 1 or "
                f"more, or leave pretrain_on out."
            )
        if not 0 < self.held_out_share < 1:
            raise ConfigError(
                f"reward_stage.held_out_share = {self.held_out_share}, but without a held-out reward model "
                f"over-optimisation cannot be seen. Set it above 0 and below 1 (0.3 is usual)."
            )
        if self.adapt_epochs < 0:
            raise ConfigError(
                f"reward_stage.adapt_epochs = {self.adapt_epochs}, but nothing is read less than never. Set it to 0 or "
                f"more."
            )
        if self.adapt_epochs and self.kind == "encoder":
            raise ConfigError(
                "reward_stage.adapt_epochs needs a language model, but reward_stage.kind = 'encoder' predicts no next "
                "token. Set adapt_epochs = 0."
            )
        if self.ngram_cells < 0:
            raise ConfigError(
                f"reward_stage.ngram_cells = {self.ngram_cells}, but it counts cells. Set it to 0 for none, or to "
                f"65536."
            )
        if self.heads == "sources" and self.aspects:
            raise ConfigError(
                "reward_stage.aspects weighs heads that reward_stage.heads = 'sources' does not have: there the prompt "
                "decides how much each source counts. Leave out one of the two."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalConfig:
    """What the report measures."""

    prompts: int = 400  # unseen ones, at most
    samples: int = 1  # of each prompt and policy
    shown: int = 12  # prompts whose answers stand side by side in the report
    during_rl: int = 64  # prompts of the figures along the way
    learning_curve: tuple[float, ...] = ()  # shares of the comparisons to train further reward models on
    best_of: tuple[int, ...] = (4, 16)  # the cheap baseline: best of n answers of the SFT model, by the reward model


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Everything that decides what a run does."""

    base: str = "bundled"  # model folder, hub name, or the bundled default
    pretraining: PretrainRecipe | None = None  # train the base model from text first, instead of opening `base`
    run: RunConfig = field(default_factory=RunConfig)
    data: DataConfig = field(default_factory=DataConfig)
    lora: LoraSettings = field(default_factory=LoraSettings)
    sft: SFTConfig = field(default_factory=SFTConfig)
    sft_optim: OptimConfig = field(default_factory=lambda: OptimConfig(lr=3e-4))
    collect: CollectConfig = field(default_factory=CollectConfig)
    simulate: LabellerConfig = field(default_factory=LabellerConfig)
    reward_stage: RewardStage = field(default_factory=RewardStage)
    reward: RewardConfig = field(default_factory=RewardConfig)
    reward_optim: OptimConfig = field(default_factory=lambda: OptimConfig(lr=2e-4))
    ppo: PPOConfig = field(default_factory=PPOConfig)
    rloo: RLOOConfig = field(default_factory=RLOOConfig)
    kl: KLConfig = field(default_factory=KLConfig)
    unfinished: UnfinishedConfig = field(default_factory=UnfinishedConfig)
    policy_optim: OptimConfig = field(default_factory=lambda: OptimConfig(lr=1e-4, schedule="linear"))
    critic_optim: OptimConfig = field(default_factory=lambda: OptimConfig(lr=3e-4, schedule="linear"))
    ema_decay: float = 0.0  # of an averaged copy of the policy that is evaluated and published; 0 = none
    shared_critic: bool = False  # one network for policy and value instead of two
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    microbatch_tokens: int = 4096
    gradient_checkpointing: bool = False  # a third more arithmetic in training for a fraction of its memory
    monitor: MonitorConfig = field(default_factory=MonitorConfig)
    evaluation: EvalConfig = field(default_factory=EvalConfig)
    gate: GateConfig = field(default_factory=GateConfig)

    def __post_init__(self) -> None:
        if self.lora.rank and self.shared_critic:
            raise ConfigError(
                "lora.rank and shared_critic cannot both be set: the shared trunk would be frozen. Set shared_critic = "
                "false."
            )
        if self.reward_stage.labelers == "reliability" and self.reward.likelihood == "plackett_luce":
            raise ConfigError(
                "reward_stage.labelers = 'reliability' weighs pairs, but reward.likelihood = 'plackett_luce' ranks all "
                "at once. Set the likelihood to 'pairs', or labelers to 'equal'."
            )
        if self.reward_stage.ngram_cells and not self.reward.head_prior:
            raise ConfigError(
                "reward_stage.ngram_cells gives the heads weights that only fitting sets (single updates move so many "
                "of them too little), but reward.head_prior = 0 fits none. Set it (0.7 is usual), or ngram_cells to 0."
            )
        if self.ppo.ptx_coef < 0:
            raise ConfigError(f"ppo.ptx_coef = {self.ppo.ptx_coef}, but it weighs a loss. Set it to 0 or more.")

    @property
    def compute(self) -> ComputeConfig:
        """How passes run; `resolved` has settled the precision."""
        precision: Literal["fp32", "bf16"] = "bf16" if self.run.precision == "bf16" else "fp32"
        return ComputeConfig(
            precision=precision,
            microbatch_tokens=self.microbatch_tokens,
            gradient_checkpointing=self.gradient_checkpointing,
        )


def resolved(recipe: Recipe) -> Recipe:
    """The recipe with what depends on this machine settled: device, threads and precision.

    Raises ConfigError for a device that is not here.
    """
    device, precision = find_device(recipe.run.device), recipe.run.precision
    if precision == "auto":
        precision = "bf16" if has_fast_bf16(device) else "fp32"
    threads = recipe.run.threads or len(os.sched_getaffinity(0))
    return replace(recipe, run=replace(recipe.run, device=str(device), precision=precision, threads=threads))
