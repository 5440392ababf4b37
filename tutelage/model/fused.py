"""A decoder on the native kernels: the same model as `transformers` runs, from the same parameters.

It serves bf16 passes on a processor, where casts and elementwise steps would take longer than the products. What it
does not know (other kinds, other layouts) is left to `transformers`: `can_fuse` tells.
N packed tokens, M chosen positions, D width, V vocabulary, T positions, K head width.
"""

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from tutelage.model import kind_gpt, kind_llama
from tutelage.model.attention import KeepingLayout, Layout, Packed
from tutelage.model.effective_weight import EffectiveWeight, is_plain
from tutelage.model.recompute import recomputed
from tutelage.model.weight_cache import WeightCache
from tutelage.native import kernels
from tutelage.native.decode import Decoder
from tutelage.native.forward import forward
from tutelage.native.head import head_logp
from tutelage.native.kernels import Heads, Norm, Sequences
from tutelage.native.layer import PARAMETERS, LayerWeights, last_norm, layer
from tutelage.native.linear import Paired, read_logits
from tutelage.native.slots import Slots
from tutelage.native.weights import DecoderWeights

MOST_READ = 0.9  # share of a pass's rows


class Kind(Protocol):
    """How models of one architecture are laid out."""

    blocks: list[Any]
    embedding: nn.Embedding

    def place(self) -> Tensor | None: ...
    def embed(self, token_N: Tensor, position_N: Tensor) -> Tensor: ...
    def heads(self) -> Heads: ...
    def angles(self, n: int) -> tuple[Tensor, Tensor]: ...
    def last_norm(self) -> tuple[Tensor, Tensor | None, float]: ...
    def weights(self, cache: WeightCache, i: int) -> LayerWeights: ...
    def parameters(self, i: int) -> dict[str, Tensor | None]: ...


# Which models a kind serves, and the kind.
KINDS: tuple[tuple[Callable[[PreTrainedModel], bool], Callable[[PreTrainedModel], Kind]], ...] = (
    (kind_llama.fits, kind_llama.LlamaKind),
    (kind_gpt.fits_gpt2, kind_gpt.GPT2Kind),
    (kind_gpt.fits_neox, kind_gpt.NeoXKind),
)


class Trunk:
    """The fused passes of one model. Holds no weight of its own but bf16 copies."""

    def __init__(self, hf: PreTrainedModel) -> None:
        self.hf = hf
        self._kind = next(kind(hf) for serves, kind in KINDS if serves(hf))
        self._cache = WeightCache()
        self._cos_TK = self._sin_TK = torch.empty(0, 0)

    def hidden(
        self, token_N: Tensor, layout: Layout, keep_M: Tensor | None = None, *, gradient_checkpointing: bool = False
    ) -> Tensor:
        """Hidden states after the last norm, float32: of all tokens [N, D], or at the chosen positions [M, D]."""
        kind, packed = self._kind, packed_of(layout)
        assert packed is not None, "can_fuse has seen it"
        rows = self._rows(packed)
        read_U, keep_M = rows_read(keep_M, len(token_N))
        if not torch.is_grad_enabled():
            into = layout.into(len(kind.blocks), kind.heads()) if isinstance(layout, KeepingLayout) else None
            assert packed.after == (into.after if into else 0), "what is before the row is not known here"
            hidden_UD = forward(self._weights(None), token_N, rows, read_U=read_U, into=into)
            return hidden_UD if keep_M is None else hidden_UD.index_select(0, keep_M)
        x_ND, y_ND = kind.embed(token_N, packed.position_N), None
        run = recomputed(layer) if gradient_checkpointing else layer
        for i in range(len(kind.blocks)):
            named = kind.parameters(i)
            parameters = tuple(named[name] if name in named else None for name in PARAMETERS)
            only_U = read_U if i == len(kind.blocks) - 1 else None
            x_ND, y_ND = run(x_ND, y_ND, kind.weights(self._cache, i), rows, kind.heads(), parameters, only_U)
        return last_norm(x_ND, y_ND, *kind.last_norm(), keep_M)

    def logits(self, hidden_MD: Tensor) -> Tensor:
        """Next-token logits [M, V], float32 but for passes with gradient."""
        weight_VD = self._head()
        if torch.is_grad_enabled() and (hidden_MD.requires_grad or weight_VD.requires_grad):
            return nn.functional.linear(hidden_MD, weight_VD)
        return read_logits(hidden_MD.bfloat16(), self._cache.paired("head", [EffectiveWeight(weight_VD)]))

    def logp(
        self, hidden_MD: Tensor, token_M: Tensor, *, temperature: float, with_entropy: bool
    ) -> tuple[Tensor, Tensor]:
        """Log-probability and entropy [M] of the tokens that follow the hidden states."""
        weight_VD = self._head()
        head = self._cache.paired("head", [EffectiveWeight(weight_VD)])
        turned = self._cache.turned("head", [EffectiveWeight(weight_VD)]) if torch.is_grad_enabled() else None
        return head_logp(
            hidden_MD, weight_VD, head, turned, token_M, temperature=temperature, with_entropy=with_entropy
        )

    def decoder(self, slots: Slots) -> Decoder:
        """What decodes in these slots, with the weights of now."""
        self._turn_up_to(slots.capacity)
        return Decoder(self._weights(self._cache.paired("head", [EffectiveWeight(self._head())])), slots)

    def _weights(self, head: Paired | None) -> DecoderWeights:
        """Those of now."""
        kind = self._kind
        place_PD = kind.place()
        weight_D, bias_D, eps = kind.last_norm()
        return DecoderWeights(
            kind.embedding.weight.detach(),
            None if place_PD is None else place_PD.detach(),
            [kind.weights(self._cache, i) for i in range(len(kind.blocks))],
            Norm(weight_D.detach(), None if bias_D is None else bias_D.detach(), eps),
            head,
            kind.heads(),
            self._cos_TK,
            self._sin_TK,
        )

    def _head(self) -> Tensor:
        head: Any = self.hf.get_output_embeddings()
        weight_VD: Tensor = head.weight
        return weight_VD

    def _rows(self, packed: Packed) -> Sequences:
        """Where the families of rows begin, where their rows branch, and the angles of their positions."""
        self._turn_up_to(packed.after + packed.longest)
        if not packed.is_shared:
            start_B1, trunk_B = (
                torch.tensor([0, *packed.lengths]).cumsum(0),
                torch.zeros(packed.n_rows, dtype=torch.int64),
            )
            own_N = torch.zeros_like(packed.position_N)
            return Sequences(start_B1, trunk_B, own_N, packed.position_N, self._cos_TK, self._sin_TK)
        size_B, own = [], []
        for family in packed.families:
            rests = [packed.lengths[b] - family.trunk for b in family.rows]
            begin_b = torch.tensor([family.trunk, *rests]).cumsum(0)[:-1]
            own += [torch.zeros(family.trunk, dtype=torch.int64), begin_b.repeat_interleave(torch.tensor(rests))]
            size_B.append(family.trunk + sum(rests))
        trunk_B = torch.tensor([family.trunk for family in packed.families])
        start_B1 = torch.tensor([0, *size_B]).cumsum(0)
        return Sequences(start_B1, trunk_B, torch.cat(own), packed.position_N, self._cos_TK, self._sin_TK)

    def _turn_up_to(self, n: int) -> None:
        """Extends the angles to n positions."""
        if len(self._cos_TK) < n:
            self._cos_TK, self._sin_TK = self._kind.angles(n)


def rows_read(keep_M: Tensor | None, n: int) -> tuple[Tensor | None, Tensor | None]:
    """Which of n rows the last layer need finish [U], in order, and where each kept row stands among them [M].

    None, and `keep_M` as it was, where so few rows go unread that sorting them out would take longer.
    """
    if keep_M is None or len(keep_M) > MOST_READ * n:
        return None, keep_M
    is_read_N = torch.zeros(n, dtype=torch.bool)
    is_read_N[keep_M] = True
    read_U = is_read_N.nonzero().squeeze(1)
    return read_U, (is_read_N.cumsum(0) - 1)[keep_M]


def packed_of(layout: Layout) -> Packed | None:
    """The packing by which a layout attends, if it is one of ours."""
    if isinstance(layout, Packed):
        return layout
    return layout.packed if isinstance(layout, KeepingLayout) else None


def can_fuse(hf: PreTrainedModel, position_N: Tensor, layout: Layout) -> bool:
    """Whether a `Trunk` serves this pass: causal rows, bf16 autocast on a processor, a known model, and a compiler."""
    packed = packed_of(layout)
    return (
        packed is not None
        and packed.causal
        and position_N is packed.position_N
        and position_N.device.type == "cpu"
        and (packed is layout or not torch.is_grad_enabled())
        and is_half_pass()
        and is_fusable(hf)
    )


def is_half_pass() -> bool:
    """Whether we are inside bf16 autocast on a processor."""
    return torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16


def is_fusable(hf: PreTrainedModel) -> bool:
    """Whether bf16 passes of this model run fused here."""
    return fits(hf) and kernels.is_ready()


def fits(hf: PreTrainedModel) -> bool:
    """Whether one of the kinds reads the model as it stands now: in float32 and on the processor."""
    head = hf.get_output_embeddings()
    return (
        type(head) is nn.Linear  # an adapter on it would be left out
        and is_plain(head)
        and type(hf.get_input_embeddings()) is nn.Embedding
        and any(serves(hf) for serves, _ in KINDS)
    )
