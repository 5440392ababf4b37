"""How models of the Llama kind (Llama, Mistral, Qwen2, Qwen3) are laid out, for the fused passes.

N tokens, T positions, K head width, D width, V vocabulary.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlamaForCausalLM, MistralForCausalLM, PreTrainedModel, Qwen2ForCausalLM, Qwen3ForCausalLM

from tutelage.model.effective_weight import effective, is_plain
from tutelage.model.weight_cache import WeightCache
from tutelage.native.kernels import Heads, Norm
from tutelage.native.layer import LayerWeights, TurnedWeights

MODELS = (LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM)
ROTATIONS = {"default", "linear", "llama3", "yarn"}  # those whose angles do not depend on the length of a pass
BIASED = ("q_proj", "k_proj", "v_proj")  # layers that may carry a bias


class LlamaKind:
    """Gated MLP, RMS norms, rotary positions."""

    def __init__(self, hf: PreTrainedModel) -> None:
        body: Any = hf.base_model
        self._body = body
        self.blocks: list[Any] = list(body.layers)
        self.embedding: nn.Embedding = body.embed_tokens

    def place(self) -> Tensor | None:
        return None

    def embed(self, token_N: Tensor, position_N: Tensor) -> Tensor:
        x_ND: Tensor = self.embedding(token_N)
        return x_ND

    def heads(self) -> Heads:
        first = self.blocks[0].self_attn
        width = int(first.head_dim)
        return Heads(
            first.q_proj.out_features // width,
            first.k_proj.out_features // width,
            width,
            float(first.scaling),
            float(first.q_norm.variance_epsilon) if hasattr(first, "q_norm") else 0.0,
        )

    def angles(self, n: int) -> tuple[Tensor, Tensor]:
        """Cosines and sines [T, K] of n positions."""
        cos_1TK, sin_1TK = self._body.rotary_emb(torch.empty(0), torch.arange(n)[None])
        return cos_1TK[0].contiguous(), sin_1TK[0].contiguous()

    def last_norm(self) -> tuple[Tensor, Tensor | None, float]:
        norm = self._body.norm
        return norm.weight, None, float(norm.variance_epsilon)

    def weights(self, cache: WeightCache, i: int) -> LayerWeights:
        block = self.blocks[i]
        attention, mlp = block.self_attn, block.mlp
        qkv = [effective(p) for p in (attention.q_proj, attention.k_proj, attention.v_proj)]
        out, down = [effective(attention.o_proj)], [effective(mlp.down_proj)]
        gate, up = [effective(mlp.gate_proj)], [effective(mlp.up_proj)]
        turned = None
        if torch.is_grad_enabled():
            turned = TurnedWeights(
                cache.turned(f"{i}.qkv", qkv),
                cache.turned(f"{i}.out", out),
                cache.turned(f"{i}.gate_up", [*gate, *up]),
                cache.turned(f"{i}.down", down),
            )
        return LayerWeights(
            cache.paired(f"{i}.qkv", qkv),
            cache.paired(f"{i}.out", out),
            cache.paired(f"{i}.gate", gate),
            cache.paired(f"{i}.up", up),
            cache.paired(f"{i}.down", down),
            _norm(block.input_layernorm),
            _norm(block.post_attention_layernorm),
            attention.q_norm.weight.detach() if hasattr(attention, "q_norm") else None,
            attention.k_norm.weight.detach() if hasattr(attention, "k_norm") else None,
            turned,
        )

    def parameters(self, i: int) -> dict[str, Tensor | None]:
        """By the names of `native.layer.PARAMETERS`."""
        block = self.blocks[i]
        attention, mlp = block.self_attn, block.mlp
        has_norms = hasattr(attention, "q_norm")
        return {
            "norm_attention": block.input_layernorm.weight,
            "q": effective(attention.q_proj).whole(),
            "k": effective(attention.k_proj).whole(),
            "v": effective(attention.v_proj).whole(),
            "out": effective(attention.o_proj).whole(),
            "norm_mlp": block.post_attention_layernorm.weight,
            "gate": effective(mlp.gate_proj).whole(),
            "up": effective(mlp.up_proj).whole(),
            "down": effective(mlp.down_proj).whole(),
            "q_norm": attention.q_norm.weight if has_norms else None,
            "k_norm": attention.k_norm.weight if has_norms else None,
            "q_bias": attention.q_proj.bias,
            "k_bias": attention.k_proj.bias,
            "v_bias": attention.v_proj.bias,
        }


def _norm(norm: Any) -> Norm:
    return Norm(norm.weight.detach(), None, float(norm.variance_epsilon))


def fits(hf: PreTrainedModel) -> bool:
    """Whether the model is laid out as `LlamaKind` reads it, in float32, as it stands now."""
    if type(hf) not in MODELS or hf.config.hidden_act != "silu":
        return False
    body: Any = hf.base_model
    return (
        body.rotary_emb.rope_type in ROTATIONS
        and type(body.embed_tokens) is nn.Embedding
        and all(_block_fits(block) for block in body.layers)
    )


def _block_fits(block: Any) -> bool:
    attention, mlp = block.self_attn, block.mlp
    biased = [getattr(attention, name) for name in BIASED]
    return (
        all(is_plain(p, may_have_bias=True) for p in biased)
        and len({p.bias is not None for p in biased}) == 1
        and all(is_plain(p) for p in (attention.o_proj, mlp.gate_proj, mlp.up_proj, mlp.down_proj))
        and attention.head_dim % 2 == 0
    )
