"""The memory that a stage of training needs at most, worked out from shapes before its first step.

Pure numbers: it reads no model and no machine. Everything is added up as if it were held at one time, which errs on the
side of too much.
D width, C columns of the joined projections, O = query heads x head width, F inner width, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from tutelage.model.logits import MOST_LOGITS, SLICE, rows_of
from tutelage.native.head import slice_rows

GB = 1e9
PROGRAM = 500_000_000  # Python, torch and transformers, resident once a run has begun (measured with torch 2.13)
FLOAT, HALF = 4, 2  # bytes
STEP_LOGITS = 24  # bytes of a logit while a GPU draws from it: twice in float32, twice in float64
MOMENTS = 2  # that AdamW keeps of every weight
HEAD_STEP = 32  # to a multiple of which the kernels pad a head


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """The trained model. The bundled one: `Shape(layers=6, width=256, inner=704, heads=4, groups=4, …)`."""

    layers: int
    width: int
    inner: int  # of the MLP
    heads: int
    groups: int  # heads of keys and values
    head_width: int
    vocabulary: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """What a stage is about to do."""

    shape: Shape
    parameters: Sequence[int]  # of each model that lies in memory, of every kind
    trained: Sequence[int]  # parameters that each learner moves
    adapted: int = 0  # parameters under adapters, which take the place of those in training
    copies: int = 0  # further float32 copies of what the first learner moves: the best so far, an average
    half: bool  # passes in bf16
    recomputed: bool = False  # of a layer, only what it reads is kept for the way back
    fused: bool  # on the native kernels
    tokens: int  # of a microbatch, at most
    chosen: int  # of them, those whose log-probability is asked
    slots: int = 0  # of the engine; 0 = nothing is sampled
    positions: int = 0  # that a slot can hold
    sampled_half: int = 0  # parameters of the copy in bf16 that a GPU samples from
    program: int = PROGRAM  # 0 where the memory is a GPU's


@dataclass(frozen=True, slots=True)
class Plan:
    """Bytes by what they are for, in the order in which they are told."""

    parts: tuple[tuple[str, int], ...]

    @property
    def total(self) -> int:
        return sum(n for _, n in self.parts)

    def line(self) -> str:
        told = ", ".join(f"{name} {n / GB:.2f}" for name, n in self.parts if n)
        return f"memory: about {self.total / GB:.1f} GB at most ({told})"


def plan(need: Need) -> Plan:
    """Adds up weights, what optimisers and saving keep, one microbatch's activations, and the engine's cache."""
    weights, trained = sum(need.parameters), sum(need.trained)
    halves = HALF * need.sampled_half
    if need.fused:
        halves += HALF * (weights + trained)  # of the trained ones a turned copy, too
    elif need.half:
        halves += HALF * max(need.trained)  # that autocast makes in each pass
    if need.fused and need.adapted:
        # Sums with the adapters, straight and turned; the head turned; of one layer the sums and gradient in float32.
        halves += HALF * (2 * need.adapted + need.shape.vocabulary * need.shape.width)
        halves += 2 * FLOAT * need.adapted // need.shape.layers
    best = FLOAT * need.copies * need.trained[0]
    # A training state is cloned before it is written: weights and moments of every learner, and the copies.
    saved = FLOAT * (1 + MOMENTS) * trained + best
    models = f"weights of {len(need.parameters)} model{'s' if len(need.parameters) > 1 else ''}"
    return Plan(
        (
            ("program", need.program),
            (models, FLOAT * weights + halves),
            ("gradients", FLOAT * trained),
            ("Adam", FLOAT * MOMENTS * trained),
            ("copies and saving", best + saved),
            (f"activations of {need.tokens:,} tokens", activations(need)),
            (f"KV cache of {need.slots} x {need.positions:,} positions", cache(need)),
            ("a step's logits", STEP_LOGITS * need.slots * need.shape.vocabulary if need.sampled_half else 0),
        )
    )


def activations(need: Need) -> int:
    """Bytes that a pass keeps for its way back, and the logits."""
    s = need.shape
    d, f, queries, groups = s.width, s.inner, s.heads * s.head_width, s.groups * s.head_width
    if need.fused:
        # As `native.layer._Kept` lists them: the stream twice in float32, two norms, projections, attention, gates.
        stream = FLOAT * d + HALF * d
        layer = 2 * FLOAT * d + 2 * HALF * d + HALF * (queries + 2 * groups) + HALF * queries + HALF * 2 * f
        way_back = FLOAT * 3 * d + HALF * (4 * d + 4 * f + queries + 2 * groups)  # of the one layer that is under way
        held = min(need.chosen, slice_rows(s.vocabulary)) * HALF * s.vocabulary
        kept = s.layers * stream + layer if need.recomputed else s.layers * layer
        return need.tokens * (kept + way_back) + need.chosen * (2 * FLOAT + HALF) * d + held
    element = HALF if need.half else FLOAT
    # Two norms keep their input, the normed and the scaled; attention its three inputs and its output; the MLP four.
    layer = FLOAT * 4 * d + element * (2 * d + 2 * queries + 2 * groups + 4 * f)
    if s.vocabulary * need.chosen > MOST_LOGITS:  # made and read a slice at a time
        logits = s.vocabulary * (2 * FLOAT + element) * rows_of(s.vocabulary)
        logits += s.vocabulary * d * (2 * FLOAT + element)  # the head as it multiplies, its gradient and what joins it
    else:
        logits = s.vocabulary * (2 * element * need.chosen + 2 * FLOAT * min(need.chosen, SLICE))  # and their gradient
    kept = s.layers * FLOAT * d + layer if need.recomputed else s.layers * layer
    return need.tokens * (kept + element * 4 * f) + logits


def cache(need: Need) -> int:
    """Bytes of keys and values of all slots."""
    s = need.shape
    width = s.head_width + (-s.head_width % HEAD_STEP if need.fused else 0)
    element = HALF if need.fused or need.sampled_half else FLOAT
    return need.slots * need.positions * 2 * s.layers * s.groups * width * element
