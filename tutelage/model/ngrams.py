"""What an answer says, word by word: its tokens and pairs of neighbouring tokens, hashed into cells that have weights.

A language model's states sum an answer up; a linear model over n-grams beside them knows the words themselves, which is
most of what a thousand comparisons can teach (the "wide" part of Cheng et al. 2016, arXiv:1606.07792; hashing as in
Weinberger et al. 2009, arXiv:0902.2206).

B rows, T tokens, N n-grams of all rows, A aspects.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

PRIME = 2**31 - 1
# Factors of the hash (Carter and Wegman 1979): fixed for ever, as the weights of a saved model belong to their cells.
FIRST, SECOND, SINGLE, TURN = 1_000_003_843, 1_373_653_861, 715_827_889, 1_618_033_989


@dataclass(frozen=True, slots=True)
class Ngrams:
    """Cells of each row's n-grams, row after row, as `embedding_bag` reads them."""

    cell_N: Tensor  # int64
    share_N: Tensor  # float32: 1 / sqrt(number of n-grams of the row), for each occurrence
    start_B: Tensor  # int64: where a row's n-grams begin

    def scores(self, weight_cA: Tensor) -> Tensor:
        """Sum of the cells' weights over each row's n-grams, over the root of their number: [B, A]."""
        out_BA: Tensor = embedding_bag(
            self.cell_N, weight_cA, self.start_B, mode="sum", per_sample_weights=self.share_N.to(weight_cA.dtype)
        )
        return out_BA


def ngrams(token_BT: Tensor, mask_BT: Tensor, n_cells: int) -> Ngrams:
    """The tokens under the mask and each two of them that stand side by side.

    mask_BT  bool, the answer's tokens
    """
    pair_BT = mask_BT & mask_BT.roll(-1, dims=1)
    pair_BT[:, -1] = False
    next_BT = token_BT.roll(-1, dims=1)
    # Below the prime at every step, so that no product passes 63 bits.
    single_BT = token_BT * SINGLE % PRIME
    both_BT = (token_BT * FIRST % PRIME + next_BT * SECOND % PRIME + 1) % PRIME
    hash_B2T = torch.cat([single_BT, both_BT], dim=1) * TURN % PRIME % n_cells
    there_B2T = torch.cat([mask_BT, pair_BT], dim=1)
    n_B = there_B2T.sum(dim=1)
    share_B = n_B.clamp(min=1).rsqrt()
    return Ngrams(hash_B2T[there_B2T], share_B.repeat_interleave(n_B), n_B.cumsum(0) - n_B)
