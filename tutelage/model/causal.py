"""A causal language model as the rest of tutelage sees it: packed rows in, log-probabilities or hidden states out.

Holds a `transformers` model and calls it; nothing above knows which architecture it is.
B sequences, T tokens, N packed tokens, M chosen positions, V vocabulary, D width.
"""

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from tutelage.model.attention import Layout, Packed
from tutelage.model.logits import chosen_logp


class CausalModel(nn.Module):
    """A causal model over packed rows, always in evaluation mode: dropout would make two passes of one batch differ."""

    def __init__(self, hf: PreTrainedModel) -> None:
        super().__init__()
        self.hf = hf
        self.eval()

    def train(self, mode: bool = True) -> "CausalModel":
        """Stays in evaluation mode: RLHF needs the same log-probability from two passes over one batch."""
        return super().train(False)

    @property
    def device(self) -> torch.device:
        return self.hf.device

    @property
    def vocabulary(self) -> int:
        return int(self.hf.config.vocab_size)

    @property
    def width(self) -> int:
        return int(self.hf.config.hidden_size)

    def logits(self, token_N: Tensor, position_N: Tensor, keep_M: Tensor, layout: Layout) -> Tensor:
        """Next-token logits [M, V], computed at the packed positions `keep_M` alone."""
        out = self.hf(
            input_ids=token_N[None],
            position_ids=position_N[None],
            layout=layout,
            logits_to_keep=keep_M,
            use_cache=False,
        )
        logits_MV: Tensor = out.logits[0]
        return logits_MV

    def hidden(self, token_N: Tensor, position_N: Tensor, layout: Layout) -> Tensor:
        """Last hidden states [N, D], after the final norm."""
        out = self.hf.base_model(input_ids=token_N[None], position_ids=position_N[None], layout=layout, use_cache=False)
        hidden_ND: Tensor = out.last_hidden_state[0]
        return hidden_ND

    def logp(
        self,
        token_BT: Tensor,
        length_B: Tensor,
        mask_BT: Tensor,
        *,
        temperature: float = 1.0,
        with_entropy: bool = True,
    ) -> tuple[Tensor, Tensor]:
        """Log-probability and entropy (both nats, [B, T], float32) of each token under the mask; 0 elsewhere.

        token_BT     int64, right-padded; what stands beyond a row's length is never read
        length_B     real tokens of each row
        mask_BT      bool; may not be True at position 0, which nothing predicts
        temperature  divides the logits, as in sampling
        with_entropy False leaves the entropy 0 and saves its pass
        """
        packed = Packed(length_B.tolist(), device=token_BT.device)
        # The logits at t - 1 predict the token at t.
        target_BT = torch.zeros_like(mask_BT)
        target_BT[:, : packed.longest] = mask_BT[:, : packed.longest]
        predictor_BT = torch.zeros_like(target_BT)
        predictor_BT[:, :-1] = target_BT[:, 1:]
        keep_M = packed.pack(predictor_BT[:, : packed.longest]).nonzero().squeeze(1)
        token_N = packed.pack(token_BT[:, : packed.longest])
        logits_MV = self.logits(token_N, packed.position_N, keep_M, packed)
        chosen_M = token_BT[target_BT]
        logp_M, entropy_M = chosen_logp(logits_MV, chosen_M, temperature=temperature, with_entropy=with_entropy)
        zero_BT = torch.zeros_like(token_BT, dtype=torch.float32)
        return zero_BT.masked_scatter(target_BT, logp_M), zero_BT.masked_scatter(target_BT, entropy_M)

    def logp_and_hidden(
        self, token_BT: Tensor, length_B: Tensor, mask_BT: Tensor, *, temperature: float = 1.0
    ) -> tuple[Tensor, Tensor, Tensor]:
        """`logp`, and the hidden states [M, D] from which the M masked tokens, row by row, were predicted: one pass."""
        # Caught where the output layer reads them, so they are right whatever an architecture does before and after.
        read: list[Tensor] = []
        door = self.hf.get_output_embeddings().register_forward_pre_hook(lambda _, inputs: read.append(inputs[0][0]))
        try:
            logp_BT, entropy_BT = self.logp(token_BT, length_B, mask_BT, temperature=temperature)
        finally:
            door.remove()
        return logp_BT, entropy_BT, read[0]
