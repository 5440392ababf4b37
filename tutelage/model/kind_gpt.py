"""How models of the GPT-2 and GPT-NeoX (Pythia) kinds are laid out, for the fused passes.

A NeoX head turns only its first numbers by position. Its queries and keys are taken in another order, the same for
both, in which those that are turned together stand half a head apart, as the kernels expect; scores do not change.
N tokens, T positions, P positions that the model knows, H heads, K head width, D width, C joined projections.
"""

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GPT2LMHeadModel, GPTNeoXForCausalLM, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from tutelage.model.effective_weight import EffectiveWeight, effective, is_plain
from tutelage.model.kind_llama import ROTATIONS
from tutelage.model.weight_cache import Order, WeightCache, as_it_is
from tutelage.native.kernels import Heads, Norm
from tutelage.native.layer import GELU, GELU_TANH, LayerWeights, TurnedWeights

ACTIVATIONS = {"gelu": GELU, "gelu_new": GELU_TANH, "gelu_fast": GELU_TANH, "gelu_pytorch_tanh": GELU_TANH}


def _turned_round(x: Tensor) -> Tensor:
    """A weight of `Conv1D`, [I, O], as that of a linear layer."""
    return x.T


class _GPTKind(ABC):
    """Layer norms, biases everywhere, an MLP without gates. What differs is where a block keeps its layers."""

    is_parallel = False
    order: Order = staticmethod(as_it_is)  # of all weights but the joined projections
    qkv_order: Order = staticmethod(as_it_is)
    qkv_bias_order: Order = staticmethod(as_it_is)

    def __init__(self, hf: PreTrainedModel) -> None:
        body: Any = hf.base_model
        self._body, self._config = body, hf.config
        self.blocks: list[Any] = []
        self.embedding: nn.Embedding

    def place(self) -> Tensor | None:
        """What is added at each position that the model knows [P, D]."""
        return None

    @abstractmethod
    def _parts(self, block: Any) -> tuple[Any, Any, Any, Any, Any, Any]:
        """Norm, joined projections and output of attention; norm and both layers of the MLP."""

    def _effective(
        self, block: Any
    ) -> tuple[Any, EffectiveWeight, EffectiveWeight, Any, EffectiveWeight, EffectiveWeight]:
        before, qkv, out, between, up, down = self._parts(block)
        return before, effective(qkv), effective(out), between, effective(up), effective(down)

    @abstractmethod
    def heads(self) -> Heads: ...

    @property
    @abstractmethod
    def _activation(self) -> int: ...

    def embed(self, token_N: Tensor, position_N: Tensor) -> Tensor:
        x_ND: Tensor = self.embedding(token_N)
        return x_ND

    def weights(self, cache: WeightCache, i: int) -> LayerWeights:
        before, qkv, out, between, up, down = self._effective(self.blocks[i])
        turned = None
        if torch.is_grad_enabled():
            turned = TurnedWeights(
                cache.turned(f"{i}.qkv", [qkv], self.qkv_order),
                cache.turned(f"{i}.out", [out], self.order),
                cache.turned(f"{i}.up", [up], self.order),
                cache.turned(f"{i}.down", [down], self.order),
            )
        return LayerWeights(
            cache.paired(f"{i}.qkv", [qkv], self.qkv_order, self.qkv_bias_order),
            cache.paired(f"{i}.out", [out], self.order),
            None,
            cache.paired(f"{i}.up", [up], self.order),
            cache.paired(f"{i}.down", [down], self.order),
            _norm(before),
            _norm(between),
            None,
            None,
            turned,
            self._activation,
            self.is_parallel,
        )

    def parameters(self, i: int) -> dict[str, Tensor | None]:
        """By the names of `native.layer.PARAMETERS`, in the kernels' order; gradients find their way back by torch."""
        before, qkv, out, between, up, down = self._effective(self.blocks[i])
        q, k, v = self.qkv_order(qkv.whole()).chunk(3)
        biases = (None,) * 3 if qkv.bias_O is None else self.qkv_bias_order(qkv.bias_O).chunk(3)
        return {
            "norm_attention": before.weight,
            "norm_attention_bias": before.bias,
            "q": q,
            "k": k,
            "v": v,
            "q_bias": biases[0],
            "k_bias": biases[1],
            "v_bias": biases[2],
            "out": self.order(out.whole()),
            "out_bias": out.bias_O,
            "norm_mlp": between.weight,
            "norm_mlp_bias": between.bias,
            "up": self.order(up.whole()),
            "up_bias": up.bias_O,
            "down": self.order(down.whole()),
            "down_bias": down.bias_O,
        }


class GPT2Kind(_GPTKind):
    """Positions are learned and added; the layers are `Conv1D`."""

    order = qkv_order = staticmethod(_turned_round)

    def __init__(self, hf: PreTrainedModel) -> None:
        super().__init__(hf)
        self.blocks, self.embedding = list(self._body.h), self._body.wte

    def place(self) -> Tensor | None:
        weight_PD: Tensor = self._body.wpe.weight
        return weight_PD

    def embed(self, token_N: Tensor, position_N: Tensor) -> Tensor:
        x_ND: Tensor = self.embedding(token_N) + self._body.wpe(position_N)
        return x_ND

    def _parts(self, block: Any) -> tuple[Any, Any, Any, Any, Any, Any]:
        attention, mlp = block.attn, block.mlp
        return block.ln_1, attention.c_attn, attention.c_proj, block.ln_2, mlp.c_fc, mlp.c_proj

    @property
    def _activation(self) -> int:
        return ACTIVATIONS[self._config.activation_function]

    def heads(self) -> Heads:
        first = self.blocks[0].attn
        return Heads(first.num_heads, first.num_heads, first.head_dim, float(first.scaling), 0.0)

    def angles(self, n: int) -> tuple[Tensor, Tensor]:
        """Nothing is turned."""
        width = self.heads().width
        return torch.ones(n, width), torch.zeros(n, width)

    def last_norm(self) -> tuple[Tensor, Tensor | None, float]:
        return self._body.ln_f.weight, self._body.ln_f.bias, float(self._body.ln_f.eps)


class NeoXKind(_GPTKind):
    """Rotary positions of a part of each head; attention and MLP read the same stream, if the model says so."""

    def __init__(self, hf: PreTrainedModel) -> None:
        super().__init__(hf)
        self.blocks, self.embedding = list(self._body.layers), self._body.embed_in
        self.is_parallel = bool(self.blocks[0].use_parallel_residual)
        heads, n_turned = self.heads(), int(self.blocks[0].attention.rotary_ndims)
        half, order_K = heads.width // 2, _apart(heads.width, n_turned)
        self._n_turned, self._half = n_turned, half
        straight_K = torch.arange(heads.width)
        # Heads of the model hold query, key and value; the kernels want all queries, all keys, all values.
        start_H = torch.arange(heads.queries) * 3 * heads.width
        order_C = torch.cat(
            [
                (start_H[:, None] + part * heads.width + order).flatten()
                for part, order in enumerate((order_K, order_K, straight_K))
            ]
        )
        self.qkv_order = self.qkv_bias_order = lambda x: x.index_select(0, order_C.to(x.device))

    def _parts(self, block: Any) -> tuple[Any, Any, Any, Any, Any, Any]:
        attention, mlp = block.attention, block.mlp
        return (
            block.input_layernorm, attention.query_key_value, attention.dense, block.post_attention_layernorm,
            mlp.dense_h_to_4h, mlp.dense_4h_to_h,
        )  # fmt: skip

    @property
    def _activation(self) -> int:
        return ACTIVATIONS[self._config.hidden_act]

    def heads(self) -> Heads:
        first, n = self.blocks[0].attention, int(self._config.num_attention_heads)
        return Heads(n, n, int(first.head_size), float(first.scaling), 0.0)

    def angles(self, n: int) -> tuple[Tensor, Tensor]:
        """Cosines and sines [T, K] in the kernels' order; 1 and 0 for numbers that are not turned."""
        rotated = self._body.rotary_emb(torch.empty(0), torch.arange(n)[None])
        cos_TK, sin_TK = torch.ones(n, 2 * self._half), torch.zeros(n, 2 * self._half)
        part = self._n_turned // 2
        for whole_TK, given_1TR in zip((cos_TK, sin_TK), rotated, strict=True):
            whole_TK[:, :part] = given_1TR[0, :, :part]
            whole_TK[:, self._half : self._half + part] = given_1TR[0, :, part:]
        return cos_TK, sin_TK

    def last_norm(self) -> tuple[Tensor, Tensor | None, float]:
        norm = self._body.final_layer_norm
        return norm.weight, norm.bias, float(norm.eps)


def _apart(width: int, n_turned: int) -> Tensor:
    """Where each number of a head in the kernels' order stands in the model's [K]: turned pairs half a head apart."""
    part, half = n_turned // 2, width // 2
    rest = torch.arange(n_turned, width)
    first, second = torch.arange(part), torch.arange(part, n_turned)
    return torch.cat([first, rest[: half - part], second, rest[half - part :]])


def _norm(norm: Any) -> Norm:
    return Norm(norm.weight.detach(), norm.bias.detach(), float(norm.eps))


def fits_gpt2(hf: PreTrainedModel) -> bool:
    """Whether the model is laid out as `GPT2Kind` reads it, in float32, as it stands now."""
    if type(hf) is not GPT2LMHeadModel or hf.config.activation_function not in ACTIVATIONS:
        return False
    body: Any = hf.base_model
    is_known = not (hf.config.add_cross_attention or hf.config.scale_attn_by_inverse_layer_idx)
    return (
        is_known
        and type(body.wpe) is nn.Embedding
        and all(
            type(block.ln_1) is nn.LayerNorm
            and block.attn.head_dim % 2 == 0
            and all(
                is_plain(p, may_have_bias=True, kind=Conv1D)
                for p in (block.attn.c_attn, block.attn.c_proj, block.mlp.c_fc, block.mlp.c_proj)
            )
            for block in body.h
        )
    )


def fits_neox(hf: PreTrainedModel) -> bool:
    """Whether the model is laid out as `NeoXKind` reads it, in float32, as it stands now."""
    if type(hf) is not GPTNeoXForCausalLM or hf.config.hidden_act not in ACTIVATIONS:
        return False
    body: Any = hf.base_model
    return body.rotary_emb.rope_type in ROTATIONS and all(
        block.attention.head_size % 2 == 0
        and block.attention.rotary_ndims % 2 == 0
        and all(
            is_plain(p, may_have_bias=True)
            for p in (
                block.attention.query_key_value,
                block.attention.dense,
                block.mlp.dense_h_to_4h,
                block.mlp.dense_4h_to_h,
            )
        )
        for block in body.layers
    )
