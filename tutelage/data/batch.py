"""What goes through a model: right-padded rows of token ids, their lengths, and which tokens are trained.

B rows, T tokens. Padding is known by length alone, never by an id, so that the end token is always real.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tutelage.types import Prompt


@dataclass(frozen=True, slots=True)
class TokenBatch:
    """Rows of tokens. Example: prompt [5, 6] and answer [7, 2] give token [5, 6, 7, 2], length 4, mask [F, F, T, T]."""

    token_BT: Tensor  # int64, 0 beyond the length
    length_B: Tensor  # int64
    mask_BT: Tensor  # bool, True on the tokens that are trained

    def __len__(self) -> int:
        return len(self.length_B)

    def rows(self, index: Tensor) -> "TokenBatch":
        """The chosen rows, still T wide."""
        return TokenBatch(self.token_BT[index], self.length_B[index], self.mask_BT[index])


def collate(rows: Sequence[tuple[Sequence[int], Sequence[bool]]]) -> TokenBatch:
    """Token ids and trained-masks of each row -> one right-padded batch."""
    longest = max(len(ids) for ids, _ in rows)
    token_BT = torch.zeros(len(rows), longest, dtype=torch.int64)
    mask_BT = torch.zeros(len(rows), longest, dtype=torch.bool)
    for i, (ids, mask) in enumerate(rows):
        token_BT[i, : len(ids)] = torch.tensor(ids)
        mask_BT[i, : len(mask)] = torch.tensor(mask)
    return TokenBatch(token_BT, torch.tensor([len(ids) for ids, _ in rows]), mask_BT)


@dataclass(frozen=True, slots=True)
class Rollouts:
    """What one step samples: samples of one prompt stand side by side, `group` to a prompt."""

    batch: TokenBatch  # mask on the tokens that the policy wrote, its end token included
    sampler_logp_BT: Tensor  # float32 nats, under the weights that wrote them; 0 off the mask
    finished_B: Tensor  # bool, False where the answer was cut at the limit
    prompts: tuple[Prompt, ...]  # B, repeated within a group
    texts: tuple[str, ...]  # B
    group: int
    version: int  # which weights wrote them

    def __len__(self) -> int:
        return len(self.texts)
