"""A world small enough to learn in seconds: eight words, a two-layer model that speaks them, and the enumerable toy.

The toy machines stand in `benchmarks/enumerable_policy.py`, so that the benchmark and the tests run the same code.
"""

import copy
import importlib.util
import random
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers

from tutelage.data.sft import sft_rows
from tutelage.engine.engine import EngineConfig
from tutelage.engine.request import SamplingConfig
from tutelage.model.causal import CausalModel
from tutelage.model.chat import Chat, turns_tokenizer
from tutelage.model.load import new_llama
from tutelage.model.tokenizer import SPECIAL
from tutelage.model.value_model import ValueModel
from tutelage.rounds.machines import EngineSampler, FrozenReference
from tutelage.train import ppo, rloo, sft
from tutelage.train.experience import UnfinishedConfig
from tutelage.train.kl_control import KLConfig
from tutelage.train.learner import ComputeConfig
from tutelage.train.machines import LearnerPolicy, SeparateActorCritic, critic_learner, policy_learner
from tutelage.train.monitor import Monitor, MonitorConfig
from tutelage.train.optim import OptimConfig
from tutelage.train.pretrain import language_learner
from tutelage.types import Demonstration, Message, Prompt

WORDS = ("ant", "bee", "cat", "dog", "elk", "fox", "gnu", "hen")
NEW_TOKENS = 8
WINDOW = 32


@pytest.fixture(scope="session")
def toy() -> ModuleType:
    """The module of the enumerable policy."""
    path = Path(__file__).parents[2] / "benchmarks" / "enumerable_policy.py"
    spec = importlib.util.spec_from_file_location("enumerable_policy", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def ask(text: str) -> Prompt:
    return Prompt(messages=(Message(role="user", content=text),))


@pytest.fixture(scope="session")
def chat() -> Chat:
    """One token a word."""
    words = Tokenizer(models.WordLevel({w: i for i, w in enumerate([*SPECIAL, *WORDS])}, unk_token="<|pad|>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.add_special_tokens(SPECIAL)
    return Chat(turns_tokenizer(words), window=WINDOW)


def fresh_model(chat: Chat, *, seed: int = 0, width: int = 32) -> CausalModel:
    n = len(SPECIAL) + len(WORDS)
    return new_llama(vocabulary=n, width=width, layers=2, heads=2, window=WINDOW, eos_id=chat.end_id, seed=seed)


def demonstrations(n: int, *, seed: int = 0) -> list[Demonstration]:
    """Answers of three to six random words."""
    draw = random.Random(seed)
    return [
        Demonstration(prompt=ask(draw.choice(WORDS)), text=" ".join(draw.choices(WORDS, k=draw.randint(3, 6))))
        for _ in range(n)
    ]


@pytest.fixture(scope="session")
def speaker(chat: Chat) -> CausalModel:
    """A model that answers with three to six words and then ends. Never train it: take `speaker_copy`."""
    model = fresh_model(chat)
    rows = sft_rows(demonstrations(1280), chat)
    optim = OptimConfig(lr=5e-3, warmup_steps=5)
    learner = language_learner(model, optim=optim, compute=ComputeConfig(), total_steps=80)
    sft.run(
        sft.SFTConfig(epochs=2, batch_size=32),
        rows=rows,
        held_out=sft_rows(demonstrations(64, seed=1), chat),
        learner=learner,
        seed=0,
        progress=sft.SFTProgress(),
        log=lambda step, metrics: None,
        save=lambda step, progress: None,
        keep_best=lambda: None,
    )
    return model


@pytest.fixture
def speaker_copy(speaker: CausalModel) -> Callable[[], CausalModel]:
    """As often as needed, the same model with weights of its own."""
    return lambda: copy.deepcopy(speaker)


@dataclass(frozen=True)
class World:
    """What the tests of the loops hand to them."""

    chat: Chat
    prompts: tuple[Prompt, ...]

    def sampler(self, model: CausalModel, *, seed: int = 0, temperature: float = 1.0) -> EngineSampler:
        sampling = SamplingConfig(max_new_tokens=NEW_TOKENS, temperature=temperature)
        return EngineSampler(model, self.chat, sampling, EngineConfig(slots=128), seed=seed)

    @staticmethod
    def cats(prompts: Sequence[Prompt], texts: Sequence[str]) -> torch.Tensor:
        """The rule: the number of cats, of which three are enough. From 0 to 1."""
        return torch.tensor([min(3, t.split().count("cat")) / 3 for t in texts])

    @staticmethod
    def liking(prompts: Sequence[Prompt], texts: Sequence[str]) -> torch.Tensor:
        """A reward in which no two answers of different words are alike, whatever their length."""
        liked = [[(7 * WORDS.index(w) + 3 * i) % 11 / 10 for i, w in enumerate(t.split())] for t in texts]
        return torch.tensor([sum(x) / max(1, len(x)) for x in liked])


@pytest.fixture(scope="session")
def world(chat: Chat) -> World:
    return World(chat, tuple(ask(w) for w in WORDS))


class Course:
    """One RL run of the speaker on real machines. A test replaces the part that it wants to be otherwise."""

    def __init__(self, world: World, make: Callable[[], CausalModel], *, steps: int, lr: float, watch: MonitorConfig):
        optim = OptimConfig(lr=lr, schedule="linear", warmup_steps=2, final_lr=0.0)
        critic_optim = OptimConfig(lr=3 * lr, schedule="constant", warmup_steps=2)
        compute = ComputeConfig()
        self.world, self.model = world, make()
        self.policy = policy_learner(self.model, temperature=1.0, optim=optim, compute=compute, total_steps=steps)
        self.value = ValueModel(make())
        self.critic = critic_learner(self.value, optim=critic_optim, compute=compute, total_steps=steps)
        self.watch = Monitor(watch, report=lambda alarm: None)
        self.rows: list[dict[str, float]] = []
        self.parts: dict[str, object] = {
            "kl": KLConfig(mode="fixed", coef=0.1),
            "unfinished": UnfinishedConfig(),
            "prompts": lambda step: world.prompts,
            "sampler": world.sampler(self.model),
            "reference": FrozenReference(make(), temperature=1.0, compute=compute),
            "score": world.liking,
            "evaluate": lambda step: ({"eval_kl": 0.0}, 0.0),
            "monitor": self.watch,
            "log": lambda step, metrics: self.rows.append(metrics),
            "save": lambda state: None,
            "keep_best": lambda step: None,
            "seed": 0,
        }

    @property
    def alarms(self) -> list[str]:
        """Names of all alarms, each once."""
        return list(dict.fromkeys(a.name for a in self.watch.alarms))

    def run_ppo(self, updates: int = 3, *, state: ppo.RLState | None = None, **settings: object) -> ppo.RLState:
        shape = {"prompts_per_update": 8, "samples_per_prompt": 8, "critic_warmup": 0, "minibatches": 2}
        own = {"actor_critic": SeparateActorCritic(self.policy, self.critic), "language": lambda step, i: ()}
        cfg = ppo.PPOConfig(updates=updates, **shape | settings)  # type: ignore[arg-type]
        return ppo.run(cfg, state=state or ppo.RLState(), **own | self.parts)  # type: ignore[arg-type]

    def run_rloo(self, updates: int = 3, *, state: ppo.RLState | None = None, **settings: object) -> ppo.RLState:
        shape = {"prompts_per_update": 8, "samples_per_prompt": 8}
        cfg = rloo.RLOOConfig(updates=updates, **shape | settings)  # type: ignore[arg-type]
        own = {"policy": LearnerPolicy(self.policy)}
        return rloo.run(cfg, state=state or ppo.RLState(), **own | self.parts)  # type: ignore[arg-type]


@pytest.fixture
def course(world: World, speaker_copy: Callable[[], CausalModel]) -> Callable[..., Course]:
    """Lays out a run; parts of it may be replaced before it starts."""

    def lay(
        *,
        steps: int = 100,
        lr: float = 1e-3,
        watch: MonitorConfig | None = None,
        make: Callable[[], CausalModel] = speaker_copy,
    ) -> Course:
        return Course(world, make, steps=steps, lr=lr, watch=watch or MonitorConfig())

    return lay
