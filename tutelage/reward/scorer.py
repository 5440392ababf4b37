"""Rewards of texts by one reward model or an ensemble. Text in, number out: each model reads with its own tokenizer.

B texts, E members of an ensemble.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from tutelage.data.batch import TokenBatch, collate
from tutelage.data.packing import cut, microbatches
from tutelage.model.causal import CausalModel
from tutelage.model.device import AUTO
from tutelage.model.reward_model import RewardModel, load_reward
from tutelage.types import Prompt

Mode = Literal["mean", "worst", "uncertainty"]


def combine(score_BE: Tensor, mode: Mode, *, penalty: float = 0.5) -> Tensor:
    """One score [B] from the members': their mean, the worst of them, or mean - penalty x variance.

    Worst-case and uncertainty-weighted optimisation, Coste et al. 2023 (arXiv:2310.02743), equations 3 and 4;
    the variance is the population's.
    """
    if mode == "worst":
        return score_BE.amin(dim=1)
    mean_B = score_BE.mean(dim=1)
    return mean_B if mode == "mean" else mean_B - penalty * score_BE.var(dim=1, unbiased=False)


def _by_length(batch: TokenBatch, max_tokens: int) -> list[Tensor]:
    return microbatches(batch.length_B.tolist(), max_tokens)


class Scorer:
    """Scores finished answers. An ensemble's members may differ in everything."""

    def __init__(
        self, members: Sequence[RewardModel], *, mode: Mode = "mean", precision: str = "fp32", batch_tokens: int = 8192
    ) -> None:
        assert members, "an ensemble has at least one member"
        self.members = list(members)
        self.mode: Mode = mode
        self._precision = precision
        self._batch_tokens = batch_tokens

    @classmethod
    def load(
        cls, folders: Sequence[Path], *, mode: Mode = "mean", precision: str = "fp32", device: str = AUTO
    ) -> "Scorer":
        """The reward models in these folders."""
        return cls([load_reward(f, device=device)[0] for f in folders], mode=mode, precision=precision)

    def __call__(self, prompts: Sequence[Prompt], texts: Sequence[str]) -> Tensor:
        """Reward [B], float32. Raises DataError for a text that is longer than a member's window."""
        return combine(self.by_member(prompts, texts), self.mode)

    @torch.no_grad()
    def by_member(self, prompts: Sequence[Prompt], texts: Sequence[str]) -> Tensor:
        """Each member's score [B, E]."""
        return torch.stack([self._score(m, prompts, texts) for m in self.members], dim=1)

    def _score(self, member: RewardModel, prompts: Sequence[Prompt], texts: Sequence[str]) -> Tensor:
        whole = collate([member.row(p, t) for p, t in zip(prompts, texts, strict=True)])
        device = member.head.weight.device
        score_B = torch.empty(len(whole))
        # A causal model computes what answers begin with once, if they stand together; an encoder reads each by itself.
        is_causal = isinstance(member.backbone, CausalModel)
        for rows in (cut if is_causal else _by_length)(whole, self._batch_tokens):
            batch = whole.rows(rows)
            with torch.autocast(device.type, torch.bfloat16, enabled=self._precision == "bf16"):
                out_BC = member.heads(batch.token_BT.to(device), batch.length_B.to(device), batch.mask_BT.to(device))
            score_B[rows] = member.combine(out_BC).cpu()
        return score_B
