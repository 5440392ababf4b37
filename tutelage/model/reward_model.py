"""A reward model: a causal or encoder backbone and one scalar head an aspect, its normalisation and its own tokenizer.

The score of an answer is read at one token (causal: the end token; encoder: the first) or off all tokens of the answer.
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
from tutelage.model.device import AUTO, find_device
from tutelage.model.load import DROPOUTS, load_causal, load_tokenizer, locate
from tutelage.model.ngrams import Ngrams, ngrams
from tutelage.model.quiet import quieten
from tutelage.model.recompute import layers_recomputed
from tutelage.publish import published, verify, write_json
from tutelage.types import Prompt

HEAD = "reward_head.safetensors"
CARD = "reward.json"
PROBE_TOLERANCE = 1e-3  # how far a probe's score may move between saving and loading

Reading = Literal["token", "answer"]
Weighing = Literal["fixed", "prompt"]
Row = tuple[list[int], list[bool]]  # token ids, and which of them are the answer's


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
        self.gradient_checkpointing = False  # as in `CausalModel`
        self.eval()

    def train(self, mode: bool = True) -> "EncoderModel":
        """Stays in evaluation mode, as the causal models do."""
        return super().train(False)

    @property
    def device(self) -> torch.device:
        return self.hf.device

    @property
    def width(self) -> int:
        return int(self.hf.config.hidden_size)

    def row(self, prompt: Prompt, text: str) -> Row:
        """The conversation and the answer as a pair of texts, with the tokenizer's own marks around them."""
        read = self.tokenizer(prompt.text, text)
        return list(read["input_ids"]), [part == 1 for part in read.sequence_ids()]

    def hidden(self, token_BT: Tensor, length_B: Tensor) -> Tensor:
        """Last hidden states [B, T, D]; what stands beyond a row's length means nothing."""
        seen_BT = torch.arange(token_BT.shape[1], device=token_BT.device) < length_B[:, None]
        with layers_recomputed(self.hf, self.gradient_checkpointing):
            hidden_BTD: Tensor = self.hf(input_ids=token_BT, attention_mask=seen_BT.long()).last_hidden_state
        return hidden_BTD


class RewardModel(nn.Module):
    """Scores answers. Score = gain x (weighted sum of the aspects' heads) + shift.

    read   "token": the heads read the one token that has seen all (causal: the last; encoder: the first). "answer":
           they read the sum of the answer's hidden states over the root of their number, which says more where
           comparisons are too few to teach one token what to gather
    n_cells  of hashed tokens and pairs of tokens, each with a weight a head, whose sum joins the head's score; 0: none.
           Where comparisons are few, the words say what the states of a small backbone do not
    weigh  "fixed": the aspects weigh what `aspects` says. "prompt": a gate reads from the prompt which one counts, for
           tastes that pull apart and belong to different prompts; mixed, the larger scores would drown the other taste
    """

    def __init__(
        self,
        backbone: CausalModel | EncoderModel,
        chat: Chat | None,
        *,
        aspects: Mapping[str, float] | None = None,
        read: Reading = "token",
        weigh: Weighing = "fixed",
        n_cells: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.chat = chat  # of a causal backbone
        self.aspects = dict(aspects or {"overall": 1.0})
        self.read, self.weigh, self.n_cells = read, weigh, n_cells
        width = backbone.width
        self.head = nn.Linear(width, len(self.aspects))
        with torch.no_grad():
            # N(0, 1/sqrt(d + 1)) keeps first scores of order one (Stiennon et al. 2020; the paper's text leaves out the
            # root).
            g = torch.Generator().manual_seed(seed)
            self.head.weight.normal_(0.0, 1 / math.sqrt(width + 1), generator=g)
            self.head.bias.zero_()
            if read == "answer":  # a sum grows with the answer, so a random head would first score length
                self.head.weight.zero_()
        self.ngram_weight = nn.Parameter(torch.zeros(n_cells, len(self.aspects))) if n_cells else None
        self.gate = nn.Linear(width, len(self.aspects)) if weigh == "prompt" else None
        if self.gate is not None:
            nn.init.zeros_(self.gate.weight)
            nn.init.zeros_(self.gate.bias)
        self.register_buffer("weight_A", torch.tensor(list(self.aspects.values())))
        self.register_buffer("gain", torch.tensor(1.0))
        self.register_buffer("shift", torch.tensor(0.0))
        self.log_tie = nn.Parameter(torch.tensor(-1.0))  # log nu of Davidson, or the free parameter of Rao and Kupper
        self.to(backbone.device)

    def row(self, prompt: Prompt, text: str, *, finished: bool = True) -> Row:
        """Prompt and answer in this model's own tokens. An answer that was cut off has no end token.

        Raises DataError when they do not fit the window: a reward model never sees a text that was cut silently.
        """
        if isinstance(self.backbone, EncoderModel):
            (ids, is_answer), window = self.backbone.row(prompt, text), self.backbone.window
        else:
            assert self.chat is not None, "a causal reward model has a chat renderer"
            before, answer, window = self.chat.prompt_ids(prompt), self.chat.completion_ids(text), self.chat.window
            answer = answer if finished else answer[:-1]
            ids, is_answer = before + answer, [False] * len(before) + [True] * len(answer)
        if len(ids) > window:
            raise DataError(
                f"prompt {prompt.id} with this answer has {len(ids)} tokens, more than the reward model's window of "
                f"{window}. Leave it out, or use a reward model with a longer window."
            )
        return ids, is_answer

    def summaries(self, token_BT: Tensor, length_B: Tensor, mask_BT: Tensor) -> tuple[Tensor, Tensor]:
        """What the heads read of each row, and what the gate reads of its prompt: [B, D] each, float32.

        mask_BT  bool, the answer's tokens
        """
        longest = int(length_B.max())
        if isinstance(self.backbone, EncoderModel):
            hidden_BTD, one_B = self.backbone.hidden(token_BT[:, :longest], length_B), torch.zeros_like(length_B)
        else:
            packed, one_B = Packed.of(token_BT, length_B), length_B - 1
            read = packed.pack(token_BT[:, :longest]), packed.position_N, packed
            if self.read == "token" and self.gate is None:  # nothing else is needed of the rows
                last_B = packed.where_BT[torch.arange(len(length_B), device=token_BT.device), one_B]
                one_BD = self.backbone.hidden(*read, last_B).float()
                return one_BD, torch.zeros_like(one_BD)
            hidden_BTD = packed.unpack(self.backbone.hidden(*read))
        answer_BT = mask_BT[:, :longest, None]
        before_BT = ~answer_BT & (torch.arange(longest, device=token_BT.device) < length_B[:, None])[..., None]
        hidden_BTD = hidden_BTD.float()
        n_prompt_B1 = before_BT.sum(dim=1).clamp(min=1)
        prompt_BD = torch.where(before_BT, hidden_BTD, 0.0).sum(dim=1) / n_prompt_B1
        if self.read == "token":
            return hidden_BTD[torch.arange(len(length_B), device=token_BT.device), one_B], prompt_BD
        n_answer_B1 = answer_BT.sum(dim=1).clamp(min=1)
        return torch.where(answer_BT, hidden_BTD, 0.0).sum(dim=1) / n_answer_B1.sqrt(), prompt_BD

    def heads(self, token_BT: Tensor, length_B: Tensor, mask_BT: Tensor) -> Tensor:
        """Raw score of each aspect, and beside them, where there is a gate, the logit that it counts; float32.

        [B, A], with a gate [B, 2 A]. mask_BT is True on the answer's tokens.
        """
        found = self.ngrams(token_BT, mask_BT)
        return self.heads_of(*self.summaries(token_BT, length_B, mask_BT), found)

    def ngrams(self, token_BT: Tensor, mask_BT: Tensor) -> Ngrams | None:
        """The n-grams of each answer, where the heads read them."""
        return ngrams(token_BT, mask_BT, self.n_cells) if self.n_cells else None

    def heads_of(self, summary_BD: Tensor, prompt_BD: Tensor, found: Ngrams | None = None) -> Tensor:
        """`heads`, of what `summaries` and `ngrams` found."""
        with torch.autocast(summary_BD.device.type, enabled=False):
            raw_BA: Tensor = self.head(summary_BD)
            if self.ngram_weight is not None:
                assert found is not None, "the heads read n-grams"
                raw_BA = raw_BA + found.scores(self.ngram_weight)
            return raw_BA if self.gate is None else torch.cat([raw_BA, self.gate(prompt_BD)], dim=1)

    def combine(self, out_BC: Tensor) -> Tensor:
        """Score [B] from what `heads` gave: weighted by aspect, scaled and shifted."""
        gain, shift = self.get_buffer("gain"), self.get_buffer("shift")
        if self.gate is None:
            return gain * (out_BC * self.get_buffer("weight_A")).sum(dim=-1) + shift
        raw_BA, logit_BA = out_BC.chunk(2, dim=1)
        return gain * raw_BA.gather(1, logit_BA.argmax(dim=1, keepdim=True)).squeeze(1) + shift

    def normalise(self, mean: float, std: float | None) -> None:
        """Shifts so that scores of this mean become 0; with `std`, also scales so that this spread becomes 1."""
        gain = 1.0 if std is None else 1.0 / std
        self.get_buffer("shift").copy_((self.get_buffer("shift") - mean) * gain)
        self.get_buffer("gain").mul_(gain)


def new_reward_model(
    source: str,
    kind: Literal["causal", "encoder"],
    *,
    aspects: Mapping[str, float] | None,
    read: Reading = "token",
    weigh: Weighing = "fixed",
    n_cells: int = 0,
    seed: int,
    device: str = AUTO,
) -> RewardModel:
    """A reward model with a fresh head on an existing backbone."""
    backbone, chat = load_causal(source, device=device) if kind == "causal" else (load_encoder(source, device), None)
    return RewardModel(backbone, chat, aspects=aspects, read=read, weigh=weigh, n_cells=n_cells, seed=seed)


def load_encoder(source: str, device: str = AUTO) -> EncoderModel:
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
    return EncoderModel(hf, tokenizer, window=config.max_position_embeddings - 2).to(find_device(device))


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
        own = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items() if not k.startswith("backbone.")}
        save_file(own, aside / HEAD)
        rows = [{"prompt": p.prompt.model_dump(mode="json"), "text": p.text, "score": p.score} for p in probes]
        form = {
            "kind": kind,
            "aspects": model.aspects,
            "read": model.read,
            "weigh": model.weigh,
            "n_cells": model.n_cells,
        }
        write_json(aside / CARD, {**form, "probes": rows, "card": dict(card)})
        write_json(aside / LINEAGE, dict(lineage))
        extra(aside)


def load_reward(folder: Path, *, device: str = AUTO) -> tuple[RewardModel, dict[str, Any]]:
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
    # Cards of before 2026-12 have none of these: those models read one token and weigh as they say.
    form = {name: facts[name] for name in ("read", "weigh", "n_cells") if name in facts}
    model = new_reward_model(str(folder), facts["kind"], aspects=facts["aspects"], **form, seed=0, device=device)
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
        ids, is_answer = model.row(Prompt.model_validate(row["prompt"]), row["text"])
        found = model.heads(*(torch.tensor(x, device=model.backbone.device) for x in ([ids], [len(ids)], [is_answer])))
        score = float(model.combine(found))
        if not abs(score - row["score"]) <= PROBE_TOLERANCE:
            raise ModelError(
                f"{folder}: a probe that scored {row['score']:.4f} when this reward model was saved scores "
                f"{score:.4f} now: head, tokenizer or template were changed. Restore the folder."
            )
