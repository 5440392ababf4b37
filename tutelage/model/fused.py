"""A decoder of the Llama kind on the native kernels: the same model as `transformers` runs, from the same parameters.

It serves bf16 passes on a processor, where casts and elementwise steps would take longer than the products. What it
does not know (other kinds, adapters, other layouts, biases elsewhere) is left to `transformers`: `can_fuse` tells.
N packed tokens, M chosen positions, D width, V vocabulary, T positions, K head width.
"""

from collections.abc import Sequence
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

from tutelage.model.attention import Layout, Packed
from tutelage.native import kernels
from tutelage.native.head import head_logp
from tutelage.native.kernels import Heads, Sequences
from tutelage.native.layer import LayerWeights, last_norm, layer

KINDS = (LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM)
ROTATIONS = {"default", "linear", "llama3", "yarn"}  # those whose angles do not depend on the length of a pass
ROUND = 256  # tokens of a pass are filled up to this: products of few shapes, whose plans the library keeps in memory
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

    def get(self, name: str, sources: Sequence[Tensor]) -> Tensor:
        """The sources in bf16, one below the other."""
        state = tuple((p._version, p.data_ptr()) for p in sources)
        made = self._made.get(name)
        if made is not None and made.state == state and all(a is b for a, b in zip(made.sources, sources, strict=True)):
            return made.tensor
        with torch.no_grad():
            tensor = torch.cat([p.detach().bfloat16() for p in sources])
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
        assert isinstance(layout, Packed), "can_fuse has seen it"
        body: Any = self.hf.base_model
        n_tokens = len(token_N)
        token_N = nn.functional.pad(token_N, (0, -n_tokens % ROUND))  # a sequence that nobody reads
        rows, heads = self._rows(layout, len(token_N)), self._heads()
        x_ND: Tensor = body.embed_tokens(token_N)
        y_ND: Tensor | None = None
        for i, block in enumerate(body.layers):
            x_ND, y_ND = layer(x_ND, y_ND, self._weights(i, block), rows, heads, _parameters(block))
        if keep_M is None:
            keep_M = torch.arange(n_tokens)
        return last_norm(x_ND, y_ND, body.norm.weight, body.norm.variance_epsilon, keep_M)

    def logits(self, hidden_MD: Tensor) -> Tensor:
        """Next-token logits [M, V] in bf16."""
        weight_VD = self._head()
        if torch.is_grad_enabled() and (hidden_MD.requires_grad or weight_VD.requires_grad):
            return nn.functional.linear(hidden_MD, weight_VD)
        return torch.mm(hidden_MD.bfloat16(), self._half_head().T)

    def logp(
        self, hidden_MD: Tensor, token_M: Tensor, *, temperature: float, with_entropy: bool
    ) -> tuple[Tensor, Tensor]:
        """Log-probability and entropy [M] of the tokens that follow the hidden states."""
        weight_VD = self._head()
        return head_logp(
            hidden_MD, weight_VD, self._half_head(), token_M, temperature=temperature, with_entropy=with_entropy
        )

    def _half_head(self) -> Tensor:
        return self._cache.get("head", [self._head()])

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

    def _rows(self, packed: Packed, n_tokens: int) -> Sequences:
        """Where the rows begin, what fills up `n_tokens` among them, and the model's own angles of their positions."""
        lengths = [*packed.lengths, n_tokens - len(packed.position_N)]
        if len(self._cos_TK) < max(lengths):
            position_1T = torch.arange(max(lengths))[None]
            body: Any = self.hf.base_model
            cos_1TK, sin_1TK = body.rotary_emb(torch.empty(0), position_1T)
            self._cos_TK, self._sin_TK = cos_1TK[0].contiguous(), sin_1TK[0].contiguous()
        return Sequences(torch.tensor([0, *(n for n in lengths if n)]).cumsum(0), self._cos_TK, self._sin_TK)

    def _weights(self, i: int, block: Any) -> LayerWeights:
        attention, mlp = block.self_attn, block.mlp
        joined = [attention.q_proj, attention.k_proj, attention.v_proj]
        biases = [p.bias for p in joined if p.bias is not None]

        def half(name: str, *layers: nn.Linear) -> Tensor:
            return self._cache.get(f"{i}.{name}", [p.weight for p in layers])

        return LayerWeights(
            half("qkv", *joined),
            self._cache.get(f"{i}.bias", biases) if biases else None,
            half("out", attention.o_proj),
            half("gate_up", mlp.gate_proj, mlp.up_proj),
            half("down", mlp.down_proj),
            block.input_layernorm.weight.detach(),
            block.post_attention_layernorm.weight.detach(),
            attention.q_norm.weight.detach() if hasattr(attention, "q_norm") else None,
            attention.k_norm.weight.detach() if hasattr(attention, "k_norm") else None,
            float(block.input_layernorm.variance_epsilon),
        )


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


def can_fuse(hf: PreTrainedModel, position_N: Tensor, layout: Layout) -> bool:
    """Whether a `Trunk` serves this pass: causal rows, bf16 autocast on a processor, a known model, and a compiler."""
    return (
        isinstance(layout, Packed)
        and layout.causal
        and position_N is layout.position_N
        and position_N.device.type == "cpu"
        and torch.is_autocast_enabled("cpu")
        and torch.get_autocast_dtype("cpu") == torch.bfloat16
        and fits(hf)
        and kernels.is_ready()
    )


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
