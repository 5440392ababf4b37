"""A causal language model as the rest of tutelage sees it: packed rows in, log-probabilities or hidden states out.

Holds a `transformers` model and calls it, or the fused passes over the same weights where they exist; nothing above
knows which architecture it is.
B sequences, T tokens, N packed tokens, M chosen positions, V vocabulary, D width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from tutelage.model.attention import Layout, Packed
from tutelage.model.fused import Trunk, can_fuse, is_fusable
from tutelage.model.half_copy import HalfCopy, switches_of
from tutelage.model.logits import MOST_LOGITS, chosen_logp, head_logp
from tutelage.model.recompute import layers_recomputed
from tutelage.model.weight_cache import Contents
from tutelage.native.decode import Decoder
from tutelage.native.slots import Slots

# Kinds whose logits are what the output layer makes of the last hidden states, neither scaled nor capped.
PLAIN_HEADS = {"llama", "mistral", "qwen2", "qwen3", "gpt2", "gpt_neox"}


class CausalModel(nn.Module):
    """A causal model over packed rows, always in evaluation mode: dropout would make two passes of one batch differ."""

    def __init__(self, hf: PreTrainedModel) -> None:
        super().__init__()
        self.hf = hf
        self.gradient_checkpointing = False  # whether a pass keeps the layers' inputs alone; see `recompute.py`
        self._n_forgotten = 0
        self._trunk: Trunk | None = None
        self._twin: tuple[HalfCopy, CausalModel] | None = None
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

    def _fused(self, position_N: Tensor, layout: Layout) -> Trunk | None:
        """The fused passes, if they serve this one."""
        return self._open_trunk() if can_fuse(self.hf, position_N, layout) else None

    def _open_trunk(self) -> Trunk:
        if self._trunk is None or self._trunk.hf is not self.hf:
            self._trunk = Trunk(self.hf)
        return self._trunk

    def _through(self, trunk: Trunk, token_N: Tensor, layout: Layout, keep_M: Tensor | None) -> Tensor:
        return trunk.hidden(token_N, layout, keep_M, gradient_checkpointing=self.gradient_checkpointing)

    @property
    def is_fusable(self) -> bool:
        """Whether bf16 passes run on the native kernels, and so faster than float32 ones."""
        return is_fusable(self.hf)

    def decoder(self, slots: Slots) -> Decoder:
        """What goes on in slots that a pass on the native kernels has filled, with the weights of now."""
        return self._open_trunk().decoder(slots)

    def _sliced_head(self, n: int) -> Tensor | None:
        """The output layer [V, D] where the logits of n positions are too many to hold and it alone makes them."""
        head = self.hf.get_output_embeddings()
        is_plain = type(head) is nn.Linear and head.bias is None and self.hf.config.model_type in PLAIN_HEADS
        return head.weight if is_plain and n * self.vocabulary > MOST_LOGITS else None

    def half_copy(self) -> "CausalModel":
        """For passes without gradient in bf16 autocast on a GPU: the same bits, without rounding the weights each time.

        It holds the weights of now until it is asked for again.
        """
        if self._twin is None or not self._twin[0].is_of(self.hf):
            half = HalfCopy(self.hf)
            self._twin = half, CausalModel(half.hf)
        half, twin = self._twin
        half.refresh()
        return twin

    def forget_copies(self) -> None:
        """For who has changed weights through `.data`, which the fused passes cannot see."""
        self._trunk = self._twin = None
        self._n_forgotten += 1

    def contents(self) -> tuple[object, ...]:
        """What a pass reads: while it is equal, the same tokens give the same hidden states.

        Sees what `Contents` sees, and adapters; not what else a model has, such as the epsilon of its norms.
        """
        return self._n_forgotten, switches_of(self.hf), Contents(self.hf.parameters())

    def logits(self, token_N: Tensor, position_N: Tensor, keep_M: Tensor, layout: Layout) -> Tensor:
        """Next-token logits [M, V], computed at the packed positions `keep_M` alone."""
        if trunk := self._fused(position_N, layout):
            return trunk.logits(self._through(trunk, token_N, layout, keep_M))
        with layers_recomputed(self.hf, self.gradient_checkpointing):
            out = self.hf(
                input_ids=token_N[None],
                position_ids=position_N[None],
                layout=layout,
                logits_to_keep=keep_M,
                use_cache=False,
            )
        logits_MV: Tensor = out.logits[0]
        return logits_MV

    def hidden(self, token_N: Tensor, position_N: Tensor, layout: Layout, keep_M: Tensor | None = None) -> Tensor:
        """Last hidden states after the final norm: [N, D], or at the packed positions `keep_M` alone [M, D]."""
        if trunk := self._fused(position_N, layout):
            return self._through(trunk, token_N, layout, keep_M)
        with layers_recomputed(self.hf, self.gradient_checkpointing):
            out = self.hf.base_model(
                input_ids=token_N[None], position_ids=position_N[None], layout=layout, use_cache=False
            )
        hidden_ND: Tensor = out.last_hidden_state[0]
        return hidden_ND if keep_M is None else hidden_ND[keep_M]

    def hidden_before(self, token_BT: Tensor, length_B: Tensor, mask_BT: Tensor) -> Tensor:
        """Last hidden states [M, D] from which the M masked tokens, row by row, are predicted; arguments as `logp`."""
        asked = _Asked.of(token_BT, length_B, mask_BT)
        return self.hidden(asked.token_N, asked.packed.position_N, asked.packed, asked.keep_M)

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
        asked = _Asked.of(token_BT, length_B, mask_BT)
        if trunk := self._fused(asked.packed.position_N, asked.packed):
            hidden_MD = self._through(trunk, asked.token_N, asked.packed, asked.keep_M)
            return asked.spread(
                *trunk.logp(hidden_MD, asked.chosen_M, temperature=temperature, with_entropy=with_entropy)
            )
        if (weight_VD := self._sliced_head(len(asked.keep_M))) is not None:
            hidden_MD = self.hidden(asked.token_N, asked.packed.position_N, asked.packed, asked.keep_M)
            return asked.spread(
                *head_logp(hidden_MD, weight_VD, asked.chosen_M, temperature=temperature, with_entropy=with_entropy)
            )
        logits_MV = self.logits(asked.token_N, asked.packed.position_N, asked.keep_M, asked.packed)
        return asked.spread(*chosen_logp(logits_MV, asked.chosen_M, temperature=temperature, with_entropy=with_entropy))

    def logp_and_hidden(
        self, token_BT: Tensor, length_B: Tensor, mask_BT: Tensor, *, temperature: float = 1.0
    ) -> tuple[Tensor, Tensor, Tensor]:
        """`logp`, and the hidden states [M, D] from which the M masked tokens, row by row, were predicted: one pass."""
        asked = _Asked.of(token_BT, length_B, mask_BT)
        if trunk := self._fused(asked.packed.position_N, asked.packed):
            hidden_MD = self._through(trunk, asked.token_N, asked.packed, asked.keep_M)
            logp_M, entropy_M = trunk.logp(hidden_MD, asked.chosen_M, temperature=temperature, with_entropy=True)
            return *asked.spread(logp_M, entropy_M), hidden_MD
        if (weight_VD := self._sliced_head(len(asked.keep_M))) is not None:
            hidden_MD = self.hidden(asked.token_N, asked.packed.position_N, asked.packed, asked.keep_M)
            logp_M, entropy_M = head_logp(hidden_MD, weight_VD, asked.chosen_M, temperature=temperature)
            return *asked.spread(logp_M, entropy_M), hidden_MD
        # Caught where the output layer reads them, so they are right whatever an architecture does before and after.
        read: list[Tensor] = []
        door = self.hf.get_output_embeddings().register_forward_pre_hook(lambda _, inputs: read.append(inputs[0][0]))
        try:
            logp_BT, entropy_BT = self.logp(token_BT, length_B, mask_BT, temperature=temperature)
        finally:
            door.remove()
        return logp_BT, entropy_BT, read[0]


@dataclass(frozen=True, slots=True)
class _Asked:
    """The masked tokens of a padded batch, and the packed positions that predict them."""

    packed: Packed
    token_N: Tensor
    keep_M: Tensor  # the logits at t - 1 predict the token at t
    chosen_M: Tensor
    mask_BT: Tensor

    @classmethod
    def of(cls, token_BT: Tensor, length_B: Tensor, mask_BT: Tensor) -> "_Asked":
        packed = Packed.of(token_BT, length_B)
        target_BT = torch.zeros_like(mask_BT)
        target_BT[:, : packed.longest] = mask_BT[:, : packed.longest]
        predictor_BT = torch.zeros_like(target_BT)
        predictor_BT[:, :-1] = target_BT[:, 1:]
        keep_M = packed.where_BT[predictor_BT[:, : packed.longest]]
        token_N = packed.pack(token_BT[:, : packed.longest])
        return cls(packed, token_N, keep_M, token_BT[target_BT], target_BT)

    def spread(self, logp_M: Tensor, entropy_M: Tensor) -> tuple[Tensor, Tensor]:
        """Both as [B, T], 0 off the mask."""
        zero_BT = torch.zeros_like(self.mask_BT, dtype=torch.float32)
        return zero_BT.masked_scatter(self.mask_BT, logp_M), zero_BT.masked_scatter(self.mask_BT, entropy_M)
