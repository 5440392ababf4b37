"""All weights of a decoder as the kernels that run whole of it read them.

V vocabulary, D width, P positions that the model knows, T positions, K head width.
"""

import ctypes
from collections.abc import Sequence

from torch import Tensor

from tutelage.native.kernels import F32, Heads, Norm, at
from tutelage.native.layer import LayerWeights
from tutelage.native.linear import LinearStruct, Paired


class LayerStruct(ctypes.Structure):
    """`Layer` of decoder.h."""

    _fields_ = (
        *((name, LinearStruct) for name in ("qkv", "attended", "gate", "up", "down")),
        *((name, ctypes.c_void_p) for name in (
            "norm_attention", "norm_mlp", "q_norm", "k_norm", "bias_attention", "bias_mlp")),
    )  # fmt: skip


class DecoderStruct(ctypes.Structure):
    """`Decoder` of decoder.h."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("layer", "embedding", "place", "last_norm", "last_bias")),
        ("head", LinearStruct),
        *((name, ctypes.c_long) for name in (
            "layers", "width", "heads", "groups", "head_width", "inner", "vocabulary")),
        ("eps", ctypes.c_float), ("head_eps", ctypes.c_float), ("scale", ctypes.c_float),
        ("cos", ctypes.c_void_p), ("sin", ctypes.c_void_p), ("activation", ctypes.c_long),
        ("is_parallel", ctypes.c_long),
    )  # fmt: skip


class DecoderWeights:
    """The weights of a model and the rotations of its positions.

    embedding_VD  float32
    place_PD      float32, what is added at each of the positions that the model knows
    head          None for who wants hidden states alone
    """

    def __init__(
        self, embedding_VD: Tensor, place_PD: Tensor | None, layers: Sequence[LayerWeights], last_norm: Norm,
        head: Paired | None, heads: Heads, cos_TK: Tensor, sin_TK: Tensor,
    ) -> None:  # fmt: skip
        self.layers, self.heads = list(layers), heads
        self.vocabulary, self.width = embedding_VD.shape
        self.has_head = head is not None
        # Beyond what the model knows there is nothing to read.
        self.n_positions = len(cos_TK) if place_PD is None else min(len(cos_TK), len(place_PD))
        self._held = embedding_VD, place_PD, last_norm, head, cos_TK, sin_TK  # what the structures point to
        self._layers = (LayerStruct * len(layers))(*map(_layer, layers))
        v, d, t, k, first = self.vocabulary, self.width, len(cos_TK), heads.width, layers[0]
        self._struct = DecoderStruct(
            ctypes.addressof(self._layers), at(embedding_VD, F32, v, d),
            at(place_PD, F32, 0 if place_PD is None else len(place_PD), d), at(last_norm.weight_D, F32, d),
            at(last_norm.bias_D, F32, d), LinearStruct() if head is None else head.struct(), len(layers), d,
            heads.queries, heads.groups, k, first.up.n_out, v, last_norm.eps, heads.eps, heads.scaling,
            at(cos_TK, F32, t, k), at(sin_TK, F32, t, k), first.activation, int(first.is_parallel),
        )  # fmt: skip

    def struct(self) -> DecoderStruct:
        """For C; it points into the tensors, which whoever holds it must hold, too."""
        return self._struct


def _layer(layer: LayerWeights) -> LayerStruct:
    d = len(layer.norm_attention.weight_D)
    k = 0 if layer.q_norm_K is None else len(layer.q_norm_K)
    parts = (layer.qkv, layer.out, layer.gate, layer.up, layer.down)
    return LayerStruct(
        *(LinearStruct() if part is None else part.struct() for part in parts),
        at(layer.norm_attention.weight_D, F32, d), at(layer.norm_mlp.weight_D, F32, d), at(layer.q_norm_K, F32, k),
        at(layer.k_norm_K, F32, k), at(layer.norm_attention.bias_D, F32, d), at(layer.norm_mlp.bias_D, F32, d),
    )  # fmt: skip
