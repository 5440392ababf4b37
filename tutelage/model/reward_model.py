"""A reward model: a causal or encoder backbone and one scalar head an aspect, its normalisation and its own tokenizer.

The score of an answer is read at its last token (causal: the end token) or at the first token (encoder).
B rows, T tokens, N packed tokens, D width, A aspects.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedModel, PreTrainedTokenizerBase

from tutelage.errors import DataError, ModelError
from tutelage.model.attention import Packed
from tutelage.model.causal import CausalModel
from tutelage.model.chat import Chat
from tutelage.model.checkpoint import LINEAGE, tensors_to_disk, write_causal
from tutelage.model.load import DROPOUTS, load_causal, load_tokenizer, locate
from tutelage.model.quiet import quieten
from tutelage.publish import published, verify, write_json
from tutelage.types import Prompt

HEAD = "reward_head.safetensors"
CARD = "reward.json"
PROBE_TOLERANCE = 1e-3  # how far a probe's score may move between saving and loading


@dataclass(frozen=True, slots=True)
class Probe:
    """One scored text that a loaded reward model must score alike, or it is not the model that was saved."""

    prompt: Prompt
    text: str
    score: float


class EncoderModel(nn.Module):
    """A bidirectional `transformers` encoder; the hidden state of the first token sums up the text."""

    def __init__(self, hf: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, window: int) -> None:
        super().__init__()
        self.hf, self.tokenizer, self.window = hf, tokenizer, window
        self.eval()

    def train(self, mode: bool = True) -> "EncoderModel":
        """Stays in evaluation mode, as the causal models do."""
        return super().train(False)

    @property
    def width(self) -> int:
        return int(self.hf.config.hidden_size)

    def token_ids(self, prompt: Prompt, text: str) -> list[int]:
        """The conversation and the answer as a pair of texts, with the tokenizer's own marks around them."""
        return list(self.tokenizer(prompt.text, text)["input_ids"])

    def summary(self, token_BT: Tensor, length_B: Tensor) -> Tensor:
        longest = int(length_B.max())
        seen_BT = torch.arange(longest, device=token_BT.device) < length_B[:, None]
        out = self.hf(input_ids=token_BT[:, :longest], attention_mask=seen_BT.long())
        first_BD: Tensor = out.last_hidden_state[:, 0]
        return first_BD


class RewardModel(nn.Module):
    """Scores answers. Score = gain x (weighted sum of the aspects' heads) + shift."""

    def __init__(
        self,
        backbone: CausalModel | EncoderModel,
        chat: Chat | None,
        *,
        aspects: Mapping[str, float] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.chat = chat  # of a causal backbone
        self.aspects = dict(aspects or {"overall": 1.0})
        width = backbone.width
        self.head = nn.Linear(width, len(self.aspects))
        with torch.no_grad():
            # N(0, 1/sqrt(d + 1)) keeps first scores of order one (Stiennon et al. 2020; the paper's text leaves out the
            # root).
            g = torch.Generator().manual_seed(seed)
            self.head.weight.normal_(0.0, 1 / math.sqrt(width + 1), generator=g)
            self.head.bias.zero_()
        self.register_buffer("weight_A", torch.tensor(list(self.aspects.values())))
        self.register_buffer("gain", torch.tensor(1.0))
        self.register_buffer("shift", torch.tensor(0.0))
        self.log_tie = nn.Parameter(torch.tensor(-1.0))  # log nu of Davidson, or the free parameter of Rao and Kupper

    def token_ids(self, prompt: Prompt, text: str, *, finished: bool = True) -> list[int]:
        """Prompt and answer in this model's own tokens. An answer that was cut off has no end token.

        Raises DataError when they do not fit the window: a reward model never sees a text that was cut silently.
        """
        if isinstance(self.backbone, EncoderModel):
            ids, window = self.backbone.token_ids(prompt, text), self.backbone.window
        else:
            assert self.chat is not None, "a causal reward model has a chat renderer"
            answer = self.chat.completion_ids(text)
            ids, window = self.chat.prompt_ids(prompt) + (answer if finished else answer[:-1]), self.chat.window
        if len(ids) > window:
            raise DataError(
                f"prompt {prompt.id} with this answer has {len(ids)} tokens, more than the reward model's window of "
                f"{window}. Leave it out, or use a reward model with a longer window."
            )
        return ids

    def heads(self, token_BT: Tensor, length_B: Tensor) -> Tensor:
        """Raw score of each aspect [B, A], float32."""
        if isinstance(self.backbone, EncoderModel):
            summary_BD = self.backbone.summary(token_BT, length_B)
        else:
            packed = Packed(length_B.tolist(), device=token_BT.device)
            hidden_ND = self.backbone.hidden(packed.pack(token_BT[:, : packed.longest]), packed.position_N, packed)
            summary_BD = hidden_ND[length_B.cumsum(0) - 1]
        with torch.autocast(token_BT.device.type, enabled=False):
            raw_BA: Tensor = self.head(summary_BD.float())
        return raw_BA

    def combine(self, raw_BA: Tensor) -> Tensor:
        """Score [B] from the aspects' heads: weighted, scaled and shifted."""
        gain, shift, weight_A = self.get_buffer("gain"), self.get_buffer("shift"), self.get_buffer("weight_A")
        return gain * (raw_BA * weight_A).sum(dim=-1) + shift

    def normalise(self, mean: float, std: float | None) -> None:
        """Shifts so that scores of this mean become 0; with `std`, also scales so that this spread becomes 1."""
        gain = 1.0 if std is None else 1.0 / std
        self.get_buffer("shift").copy_((self.get_buffer("shift") - mean) * gain)
        self.get_buffer("gain").mul_(gain)


def new_reward_model(
    source: str, kind: Literal["causal", "encoder"], *, aspects: Mapping[str, float] | None, seed: int
) -> RewardModel:
    """A reward model with a fresh head on an existing backbone."""
    if kind == "causal":
        model, chat = load_causal(source)
        return RewardModel(model, chat, aspects=aspects, seed=seed)
    return RewardModel(load_encoder(source), None, aspects=aspects, seed=seed)


def load_encoder(source: str) -> EncoderModel:
    """An encoder from a folder or hub name, float32, every dropout 0."""
    quieten()
    where = locate(source)
    tokenizer = load_tokenizer_of_encoder(source)
    try:
        config = AutoConfig.from_pretrained(where, trust_remote_code=False)
        for name in DROPOUTS:
            if name in config.to_dict():
                setattr(config, name, 0.0)
        hf = AutoModel.from_pretrained(
            where, config=config, dtype=torch.float32, use_safetensors=True, trust_remote_code=False
        )
    except (OSError, ValueError) as e:
        raise ModelError(f"{source}: the encoder could not be opened ({str(e).splitlines()[0]}).") from e
    # Encoders of the RoBERTa kind count positions from pad_token_id + 1, so their window is shorter by two.
    return EncoderModel(hf, tokenizer, window=config.max_position_embeddings - 2)


def load_tokenizer_of_encoder(source: str) -> PreTrainedTokenizerBase:
    """Encoders end a text with a separator, not with an end token; either will do."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(locate(source), trust_remote_code=False)
    if tokenizer.sep_token_id is None and tokenizer.eos_token_id is None:
        return load_tokenizer(source)  # raises with the message for a missing end token
    kept: PreTrainedTokenizerBase = tokenizer
    return kept


def save_reward(
    folder: Path,
    model: RewardModel,
    *,
    lineage: Mapping[str, Any],
    card: Mapping[str, Any],
    probes: Sequence[Probe],
    extra: Callable[[Path], None] = lambda folder: None,
) -> None:
    """Publishes backbone, heads, normalisation, lineage, a card of how it was measured, and probe scores.

    extra  may write further files into the folder before it is published
    """
    with published(folder) as aside, tensors_to_disk():
        if isinstance(model.backbone, EncoderModel):
            model.backbone.hf.save_pretrained(str(aside))
            model.backbone.tokenizer.save_pretrained(str(aside))
            kind = "encoder"
        else:
            assert model.chat is not None, "a causal reward model has a chat renderer"
            write_causal(aside, model.backbone, model.chat)
            kind = "causal"
        own = {k: v.detach().contiguous() for k, v in model.state_dict().items() if not k.startswith("backbone.")}
        save_file(own, aside / HEAD)
        rows = [{"prompt": p.prompt.model_dump(mode="json"), "text": p.text, "score": p.score} for p in probes]
        write_json(aside / CARD, {"kind": kind, "aspects": model.aspects, "probes": rows, "card": dict(card)})
        write_json(aside / LINEAGE, dict(lineage))
        extra(aside)


def load_reward(folder: Path) -> tuple[RewardModel, dict[str, Any]]:
    """A saved reward model and its card. Raises ModelError when the head is missing or the probes score otherwise."""
    if not folder.is_dir():
        raise ModelError(f"{folder}: no such reward model folder.")
    for name in (HEAD, CARD):
        if not (folder / name).is_file():
            raise ModelError(
                f"{folder}: there is no {name}, so this folder holds a language model without a reward head. "
                f"Train one with `tutelage reward`, or give the folder that it wrote."
            )
    verify(folder)
    facts = json.loads((folder / CARD).read_text(encoding="utf-8"))
    model = new_reward_model(str(folder), facts["kind"], aspects=facts["aspects"], seed=0)
    own = load_file(folder / HEAD)
    found = {k: tuple(v.shape) for k, v in own.items()}
    needed = {k: tuple(v.shape) for k, v in model.state_dict().items() if not k.startswith("backbone.")}
    if found != needed:
        raise ModelError(
            f"{folder}: the head holds {found}, but the backbone and the aspects need {needed}. Restore the folder."
        )
    model.load_state_dict({**{k: v for k, v in model.state_dict().items() if k.startswith("backbone.")}, **own})
    _check_probes(model, facts["probes"], folder)
    return model, facts["card"]


@torch.no_grad()
def _check_probes(model: RewardModel, probes: Sequence[Mapping[str, Any]], folder: Path) -> None:
    for row in probes:
        ids = model.token_ids(Prompt.model_validate(row["prompt"]), row["text"])
        score = float(model.combine(model.heads(torch.tensor([ids]), torch.tensor([len(ids)]))))
        if not abs(score - row["score"]) <= PROBE_TOLERANCE:
            raise ModelError(
                f"{folder}: a probe that scored {row['score']:.4f} when this reward model was saved scores "
                f"{score:.4f} now: head, tokenizer or template were changed. Restore the folder."
            )
