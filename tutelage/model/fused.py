"""A decoder of the Llama kind on the native kernels: the same model as `transformers` runs, from the same parameters.

It serves bf16 passes on a processor, where casts and elementwise steps would take longer than the products. What it
does not know (other kinds, adapters, other layouts, biases elsewhere) is left to `transformers`: `can_fuse` tells.
N packed tokens, M chosen positions, D width, V vocabulary, T positions, K head width.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    LlamaForCausalLM,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2ForCausalLM,
    Qwen3ForCausalLM,
)

from tutelage.model.attention import KeepingLayout, Layout, Packed
from tutelage.native import kernels
from tutelage.native.decode import Decoder, DecoderWeights, Projections
from tutelage.native.head import head_logp
from tutelage.native.kernels import Heads, Sequences
from tutelage.native.layer import LayerWeights, TurnedWeights, last_norm, layer, layer_and_qkv
from tutelage.native.linear import Paired, pair, read_logits

KINDS = (LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM)
ROTATIONS = {"default", "linear", "llama3", "yarn"}  # those whose angles do not depend on the length of a pass
BIASED = ("q_proj", "k_proj", "v_proj")  # layers that may carry a bias


@dataclass(slots=True)
class _Made:
    """A tensor made from parameters, and which contents of them it was made from."""

    tensor: Tensor
    sources: tuple[Tensor, ...]
    state: tuple[tuple[int, int], ...]


class WeightCache:
    """bf16 copies of parameters, made again when a parameter has changed.

    torch counts every in-place change in `_version` (optimiser steps and `copy_` among them); new storage has another
    address. A change through `.data` keeps both, so whoever makes one calls `CausalModel.forget_copies`.
    """

    def __init__(self) -> None:
        self._made: dict[str, _Made] = {}

    def get(self, name: str, sources: Sequence[Tensor], make: Callable[[Tensor], Tensor] = lambda half: half) -> Tensor:
        """What is made of the sources in bf16, one below the other. One name always comes with one `make`."""
        state = tuple((p._version, p.data_ptr()) for p in sources)
        made = self._made.get(name)
        if made is not None and made.state == state and all(a is b for a, b in zip(made.sources, sources, strict=True)):
            return made.tensor
        with torch.no_grad():
            halves = [p.detach().bfloat16() for p in sources]
            tensor = make(halves[0] if len(halves) == 1 else torch.cat(halves))
        self._made[name] = _Made(tensor, tuple(sources), state)
        return tensor


class Trunk:
    """The fused passes of one model. Holds no weight of its own but bf16 copies."""

    def __init__(self, hf: PreTrainedModel) -> None:
        self.hf = hf
        self._cache = WeightCache()
        self._cos_TK = self._sin_TK = torch.empty(0, 0)

    def hidden(self, token_N: Tensor, layout: Layout, keep_M: Tensor | None = None) -> Tensor:
        """Hidden states after the last norm, float32: of all tokens [N, D], or at the chosen positions [M, D]."""
        body: Any = self.hf.base_model
        packed = packed_of(layout)
        assert packed is not None, "can_fuse has seen it"
        rows, heads = self._rows(packed), self._heads()
        x_ND: Tensor = body.embed_tokens(token_N)
        y_ND: Tensor | None = None
        read_U, keep_M = rows_read(keep_M, len(token_N))
        for i, block in enumerate(body.layers):
            weights = self._weights(i, block)
            only_U = read_U if i == len(body.layers) - 1 else None
            if isinstance(layout, KeepingLayout):
                x_ND, y_ND, qkv_NC = layer_and_qkv(x_ND, y_ND, weights, rows, heads, only_U)
                layout.keep(i, Projections(qkv_NC, heads, rows.cos_TK, rows.sin_TK, weights.k_norm_K))
            else:
                x_ND, y_ND = layer(x_ND, y_ND, weights, rows, heads, _parameters(block), only_U)
        return last_norm(x_ND, y_ND, body.norm.weight, body.norm.variance_epsilon, keep_M)

    def logits(self, hidden_MD: Tensor) -> Tensor:
        """Next-token logits [M, V], float32 but for passes with gradient."""
        weight_VD = self._head()
        if torch.is_grad_enabled() and (hidden_MD.requires_grad or weight_VD.requires_grad):
            return nn.functional.linear(hidden_MD, weight_VD)
        return read_logits(hidden_MD.bfloat16(), self._paired("head", [weight_VD]))

    def logp(
        self, hidden_MD: Tensor, token_M: Tensor, *, temperature: float, with_entropy: bool
    ) -> tuple[Tensor, Tensor]:
        """Log-probability and entropy [M] of the tokens that follow the hidden states."""
        weight_VD = self._head()
        head = self._paired("head", [weight_VD])
        turned = self._turned("head", [weight_VD]) if torch.is_grad_enabled() else None
        return head_logp(
            hidden_MD, weight_VD, head, turned, token_M, temperature=temperature, with_entropy=with_entropy
        )

    def decoder(self, keys: Sequence[Tensor], values: Sequence[Tensor]) -> Decoder:
        """What decodes into these buffers [slots, G, T, W] bf16 a layer, with the weights of now."""
        body: Any = self.hf.base_model
        self._turn_up_to(keys[0].shape[2])
        weights = DecoderWeights(
            body.embed_tokens.weight.detach(),
            [self._weights(i, block) for i, block in enumerate(body.layers)],
            body.norm.weight.detach(),
            self._paired("head", [self._head()]),
            self._heads(),
            float(body.norm.variance_epsilon),
            self._cos_TK,
            self._sin_TK,
        )
        return Decoder(weights, keys, values)

    def _paired(self, name: str, joined: Sequence[Tensor], bias_O: Tensor | None = None) -> Paired:
        """The layers of these weights [O, I], one below the other, for x W^T."""
        weight = self._cache.get(name, joined, pair)
        return Paired(weight, sum(len(w) for w in joined), joined[0].shape[1], bias_O)

    def _turned(self, name: str, joined: Sequence[Tensor]) -> Paired:
        """The same for x W, which has I outputs."""
        weight = self._cache.get(f"{name}, turned", joined, lambda half: pair(half, turned=True))
        return Paired(weight, joined[0].shape[1], sum(len(w) for w in joined))

    def _head(self) -> Tensor:
        head: Any = self.hf.get_output_embeddings()
        weight_VD: Tensor = head.weight
        return weight_VD

    def _heads(self) -> Heads:
        body: Any = self.hf.base_model
        first = body.layers[0].self_attn
        width = int(first.head_dim)
        return Heads(
            first.q_proj.out_features // width,
            first.k_proj.out_features // width,
            width,
            float(first.scaling),
            float(first.q_norm.variance_epsilon) if hasattr(first, "q_norm") else 0.0,
        )

    def _rows(self, packed: Packed) -> Sequences:
        """Where the families of rows begin, where their rows branch, and the angles of their positions."""
        self._turn_up_to(packed.longest)
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
            body: Any = self.hf.base_model
            cos_1TK, sin_1TK = body.rotary_emb(torch.empty(0), torch.arange(n)[None])
            self._cos_TK, self._sin_TK = cos_1TK[0].contiguous(), sin_1TK[0].contiguous()

    def _weights(self, i: int, block: Any) -> LayerWeights:
        attention, mlp = block.self_attn, block.mlp
        joined = [attention.q_proj, attention.k_proj, attention.v_proj]
        qkv, out, down = [p.weight for p in joined], [attention.o_proj.weight], [mlp.down_proj.weight]
        gate, up = [mlp.gate_proj.weight], [mlp.up_proj.weight]
        biases = [p.bias for p in joined if p.bias is not None]
        turned = None
        if torch.is_grad_enabled():
            turned = TurnedWeights(
                self._turned(f"{i}.qkv", qkv),
                self._turned(f"{i}.out", out),
                self._turned(f"{i}.gate_up", [*gate, *up]),
                self._turned(f"{i}.down", down),
            )
        return LayerWeights(
            self._paired(f"{i}.qkv", qkv, self._cache.get(f"{i}.bias", biases) if biases else None),
            self._paired(f"{i}.out", out),
            self._paired(f"{i}.gate", gate),
            self._paired(f"{i}.up", up),
            self._paired(f"{i}.down", down),
            block.input_layernorm.weight.detach(),
            block.post_attention_layernorm.weight.detach(),
            attention.q_norm.weight.detach() if hasattr(attention, "q_norm") else None,
            attention.k_norm.weight.detach() if hasattr(attention, "k_norm") else None,
            float(block.input_layernorm.variance_epsilon),
            turned,
        )


def rows_read(keep_M: Tensor | None, n: int) -> tuple[Tensor | None, Tensor | None]:
    """Which of n rows the last layer need finish [U], in order, and where each kept row stands among them [M].

    Without rows that nobody reads: None, and `keep_M` as it was.
    """
    if keep_M is None:
        return None, None
    is_read_N = torch.zeros(n, dtype=torch.bool)
    is_read_N[keep_M] = True
    read_U = is_read_N.nonzero().squeeze(1)
    return (None, keep_M) if len(read_U) == n else (read_U, (is_read_N.cumsum(0) - 1)[keep_M])


def _parameters(block: Any) -> tuple[Tensor | None, ...]:
    """In the order of `native.layer.PARAMETERS`."""
    attention, mlp = block.self_attn, block.mlp
    has_norms = hasattr(attention, "q_norm")
    return (
        block.input_layernorm.weight, attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight,
        attention.o_proj.weight, block.post_attention_layernorm.weight, mlp.gate_proj.weight, mlp.up_proj.weight,
        mlp.down_proj.weight, attention.q_norm.weight if has_norms else None,
        attention.k_norm.weight if has_norms else None, attention.q_proj.bias, attention.k_proj.bias,
        attention.v_proj.bias,
    )  # fmt: skip


def packed_of(layout: Layout) -> Packed | None:
    """The packing by which a layout attends, if it is one of ours."""
    if isinstance(layout, KeepingLayout):
        return layout.packed
    return layout if isinstance(layout, Packed) else None


def can_fuse(hf: PreTrainedModel, position_N: Tensor, layout: Layout) -> bool:
    """Whether a `Trunk` serves this pass: causal rows, bf16 autocast on a processor, a known model, and a compiler."""
    packed = packed_of(layout)
    return (
        packed is not None
        and packed.causal
        and position_N is packed.position_N
        and position_N.device.type == "cpu"
        and not (isinstance(layout, KeepingLayout) and torch.is_grad_enabled())
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
    """Whether the model is laid out as `Trunk` reads it, in float32 and without adapters, as it stands now."""
    if type(hf) not in KINDS or hf.config.hidden_act != "silu":
        return False
    body: Any = hf.base_model
    if body.rotary_emb.rope_type not in ROTATIONS or not _is_plain(hf.get_output_embeddings()):
        return False
    return type(body.embed_tokens) is nn.Embedding and all(_block_fits(block) for block in body.layers)


def _block_fits(block: Any) -> bool:
    attention, mlp = block.self_attn, block.mlp
    biased = [getattr(attention, name) for name in BIASED]
    has_bias = {p.bias is not None for p in biased if type(p) is nn.Linear}
    return (
        len(has_bias) == 1
        and all(_is_plain(p, may_have_bias=True) for p in biased)
        and all(_is_plain(p) for p in (attention.o_proj, mlp.gate_proj, mlp.up_proj, mlp.down_proj))
        and attention.head_dim % 2 == 0
    )


def _is_plain(linear: Any, *, may_have_bias: bool = False) -> bool:
    return (
        type(linear) is nn.Linear
        and linear.weight.dtype == torch.float32
        and linear.weight.device.type == "cpu"
        and (may_have_bias or linear.bias is None)
    )
