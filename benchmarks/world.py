"""Models, texts and tasks that both sides of a comparison read: random weights, made-up words, nothing downloaded.

Everything lies under `$TUTELAGE_BENCH_CACHE` (or `~/.cache/tutelage/benchmarks`) and is made on first use.
"""

import json
import os
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from shapes import SHAPES
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification, PreTrainedTokenizerBase

from tutelage.model.chat import Chat
from tutelage.model.load import load_causal
from tutelage.model.reward_model import RewardModel, save_reward
from tutelage.model.tokenizer import train_bpe
from tutelage.publish import is_published, published, write_json
from tutelage.types import Message, Prompt

VERSION = "1"  # of what is written here; another number makes the folders anew
WINDOW = 1024
DOCUMENT = (32, 224)  # tokens of a document, uniform
SPREAD = 0.25  # a prompt has between 1 - SPREAD and 1 + SPREAD times the mean number of tokens


@dataclass(frozen=True, slots=True)
class World:
    """One shape's folder. Reward models stand in a second one, since who only decodes needs none."""

    folder: Path
    size: str

    @property
    def policy(self) -> Path:
        return self.folder / "policy"

    @property
    def tasks(self) -> Path:
        return self.folder / "tasks.json"

    @property
    def judges(self) -> Path:
        return self.folder.with_name(self.folder.name + "-judges")

    @property
    def reward(self) -> Path:
        """As `transformers` reads it."""
        return self.judges / "reward"

    @property
    def own_reward(self) -> Path:
        """The same weights as tutelage reads them."""
        return self.judges / "own-reward"

    def read_tasks(self) -> dict[str, Any]:
        """`prompts`: text, rendering and ids; `answers`: texts; `documents`: ids."""
        return dict(json.loads(self.tasks.read_text(encoding="utf-8")))

    def mean_prompt(self) -> float:
        """Mean number of tokens of a prompt."""
        lengths = [len(p["ids"]) for p in self.read_tasks()["prompts"]]
        return sum(lengths) / len(lengths)


def cache() -> Path:
    chosen = os.environ["TUTELAGE_BENCH_CACHE"] if "TUTELAGE_BENCH_CACHE" in os.environ else ""
    return Path(chosen) if chosen else Path.home() / ".cache" / "tutelage" / "benchmarks"


def open_world(size: str, *, judges: bool = False, vocabulary: int = 0, prompt: int = 64, answer: int = 64) -> World:
    """The folder of a shape, made now unless it is there.

    judges      with reward models
    vocabulary  another number of tokens than the shape's own
    prompt      mean tokens of a prompt
    answer      most tokens of a written answer (half of it at least)
    """
    vocabulary = vocabulary or SHAPES[size].vocabulary
    world = World(cache() / f"{size}-v{vocabulary}-p{prompt}-a{answer}-{VERSION}", size)
    if not is_published(world.folder):
        with published(world.folder) as aside:
            _make(World(aside, size), vocabulary, prompt, answer)
    if judges and not is_published(world.judges):
        with published(world.judges) as aside:
            _make_judges(world, aside)
    return world


def _make(world: World, vocabulary: int, prompt: int, answer: int) -> None:
    words = Words(random.Random(0))
    tokenizer = train_bpe((words.text(200) for _ in range(1500)), min(vocabulary, 8192))
    torch.manual_seed(0)
    LlamaForCausalLM(_config(world.size, vocabulary, tokenizer)).save_pretrained(world.policy)
    tokenizer.save_pretrained(world.policy)
    write_json(world.tasks, _tasks(Chat(tokenizer, window=WINDOW), prompt, answer))


def _make_judges(world: World, aside: Path) -> None:
    """A reward model for the peers, and the same weights as one of tutelage."""
    backbone, chat = load_causal(str(world.policy))
    config = LlamaConfig.from_pretrained(world.policy, num_labels=1)
    torch.manual_seed(1)
    judge = LlamaForSequenceClassification(config)
    judge.save_pretrained(aside / "reward")
    chat.tokenizer.save_pretrained(aside / "reward")
    with torch.no_grad():
        backbone.hf.base_model.load_state_dict(judge.model.state_dict())
        model = RewardModel(backbone, chat)
        model.head.weight.copy_(judge.score.weight)
    card = {"train_score_p999": 1e9}  # what the made-up scores never reach
    save_reward(aside / "own-reward", model, lineage={"weights": "made up"}, card=card, probes=[])


def _config(size: str, vocabulary: int, tokenizer: PreTrainedTokenizerBase) -> LlamaConfig:
    shape = SHAPES[size]
    return LlamaConfig(
        hidden_size=shape.width,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.groups,
        intermediate_size=shape.inner,
        vocab_size=vocabulary,
        max_position_embeddings=WINDOW,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
    )


def _tasks(chat: Chat, prompt: int, answer: int) -> dict[str, Any]:
    words = Words(random.Random(2))

    def ids(text: str) -> list[int]:
        return list(chat.tokenizer(text, add_special_tokens=False)["input_ids"])

    prompts = []
    for _ in range(512):
        n = words.random.randint(round(prompt * (1 - SPREAD)), round(prompt * (1 + SPREAD)))
        content = words.of_tokens(n, lambda text: len(chat.prompt_ids(_prompt(text))))
        tokens = chat.prompt_ids(_prompt(content))
        prompts.append({"text": content, "rendered": chat.tokenizer.decode(tokens), "ids": tokens})
    answers = [words.of_tokens(words.random.randint(answer // 2, answer), lambda t: len(ids(t))) for _ in range(2048)]
    documents = [
        ids(words.of_tokens(words.random.randint(*DOCUMENT), lambda text: len(ids(text)))) for _ in range(1024)
    ]
    return {"prompts": prompts, "answers": answers, "documents": documents}


def _prompt(text: str) -> Prompt:
    return Prompt(messages=(Message(role="user", content=text),))


def prompts_of(tasks: dict[str, Any]) -> list[Prompt]:
    """The prompts as tutelage knows them."""
    return [_prompt(p["text"]) for p in tasks["prompts"]]


class Words:
    """Made-up words, joined to texts."""

    def __init__(self, source: random.Random) -> None:
        self.random = source
        consonants, vowels = "bcdfghjklmnprstvwz", "aeiou"
        fixed = random.Random(1)
        self._known = [
            "".join(fixed.choice(consonants) + fixed.choice(vowels) for _ in range(fixed.randint(1, 4)))
            for _ in range(6000)
        ]

    def text(self, n_words: int) -> str:
        return " ".join(self.random.choice(self._known) for _ in range(n_words))

    def of_tokens(self, n: int, count: Callable[[str], int]) -> str:
        """A text of `n` tokens by `count`, or of one or two more."""
        text = self.text(max(1, n // 4))
        while count(text) < n:
            text += " " + self.random.choice(self._known)
        return text


def random_ids(n: int, length: int, vocabulary: int, seed: int) -> list[list[int]]:
    """Prompts for who reads ids alone."""
    source = random.Random(seed)
    return [[source.randrange(5, vocabulary) for _ in range(length)] for _ in range(n)]
