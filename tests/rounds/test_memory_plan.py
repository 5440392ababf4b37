"""The plan of memory: worked by hand, what it grows with, and against what a pass really keeps."""

import dataclasses

import pytest

from tutelage.rounds.memory_plan import Need, Plan, Shape, activations, cache, plan

SHAPE = Shape(layers=2, width=10, inner=30, heads=2, groups=1, head_width=5, vocabulary=100)
PLAIN = Need(
    shape=SHAPE, parameters=(1000, 1000, 500), trained=(1000, 100), copies=1, half=False, fused=False, tokens=8,
    chosen=4, slots=3, positions=16, program=7,
)  # fmt: skip


def test_the_plan_by_hand():
    # Activations: a layer keeps 4 x 4 x 10 + 4 (2 x 10 + 2 x 10 + 2 x 5 + 4 x 30) = 840 bytes a token; the MLP under
    # way 4 x 4 x 30 = 480; logits 100 x (2 x 4 x 4 + 2 x 4 x 4) = 6400.
    assert activations(PLAIN) == 8 * (2 * 840 + 480) + 6400 == 23_680
    # Cache: 3 slots x 16 positions x (keys and values) x 2 layers x 1 group x 5 x 4 bytes.
    assert cache(PLAIN) == 3 * 16 * 2 * 2 * 5 * 4 == 3840
    assert dict(plan(PLAIN).parts) == {
        "program": 7,
        "weights of 3 models": 10_000,
        "gradients": 4400,
        "Adam": 8800,
        "copies and saving": 4000 + 13_200 + 4000,  # the best; a state of both learners and of the best
        "activations of 8 tokens": 23_680,
        "KV cache of 3 x 16 positions": 3840,
        "a step's logits": 0,
    }
    assert plan(PLAIN).total == 7 + 10_000 + 4400 + 8800 + 21_200 + 23_680 + 3840


def test_the_kernels_keep_half_and_copies_of_the_weights():
    fused = dataclasses.replace(PLAIN, half=True, fused=True)
    # A layer: 8 x 10 + 4 x 10 + 2 x 20 + 2 x 10 + 4 x 30 = 300; the way back: 12 x 10 + 2 (40 + 120 + 20) = 480.
    # Logits: of all 4 positions at once, 4 x 100 x 2.
    assert activations(fused) == 8 * (2 * 300 + 480) + 4 * 10 * 10 + 800
    # A slice holds 16 MiB of them or 256 rows, whichever is more.
    for vocabulary, held in ((32_768, 256 * 65_536), (151_936, 256 * 303_872)):
        wide = dataclasses.replace(fused, shape=dataclasses.replace(SHAPE, vocabulary=vocabulary), chosen=5000)
        assert activations(wide) == 8 * (2 * 300 + 480) + 5000 * 10 * 10 + held
    assert cache(fused) == 3 * 16 * 2 * 2 * 32 * 2  # a head of 5 is padded to 32
    assert dict(plan(fused).parts)["weights of 3 models"] == 4 * 2500 + 2 * (2500 + 1100)
    # Under adapters: the sums with them twice in bf16, the head, and 1000 / 2 of one layer twice in float32.
    under = dataclasses.replace(fused, adapted=1000)
    assert dict(plan(under).parts)["weights of 3 models"] == 4 * 2500 + 2 * (2500 + 1100) + 4000 + 2000 + 4000
    assert activations(dataclasses.replace(fused, chosen=0)) == 8 * (2 * 300 + 480)


def test_recomputed_layers_keep_what_they_read_and_one_of_them_all():
    # 4 x 10 bytes a layer, and what one layer keeps when its insides are computed again.
    assert activations(dataclasses.replace(PLAIN, recomputed=True)) == 8 * (2 * 40 + 840 + 480) + 6400
    # On the kernels the stream is a pair: 4 x 10 + 2 x 10.
    fused = dataclasses.replace(PLAIN, half=True, fused=True, recomputed=True)
    assert activations(fused) == 8 * (2 * 60 + 300 + 480) + 4 * 10 * 10 + 800


def test_logits_that_are_too_many_are_there_by_slices():
    wide = dataclasses.replace(PLAIN, shape=dataclasses.replace(SHAPE, vocabulary=1 << 17), chosen=5000)
    # 2^26 numbers: 512 rows, each in float32 twice and once as the head makes them; and the head so, of width 10.
    assert activations(wide) == 8 * (2 * 840 + 480) + (512 + 10) * (1 << 17) * 3 * 4


def test_a_gpu_samples_from_a_copy_in_bf16_and_keeps_its_slots_so():
    there = dataclasses.replace(PLAIN, half=True, sampled_half=1000, program=0)
    # Autocast rounds the weights that are trained, 1000 at most at a time.
    assert dict(plan(there).parts)["weights of 3 models"] == 10_000 + 2000 + 2000
    assert cache(there) == cache(PLAIN) / 2
    assert dict(plan(there).parts)["a step's logits"] == 3 * 100 * 24


def test_bf16_without_kernels_lies_between():
    assert activations(dataclasses.replace(PLAIN, half=True)) < activations(PLAIN)


@pytest.mark.parametrize(("more", "part"), [({"tokens": 16, "chosen": 8}, "activations"), ({"slots": 6}, "KV cache")])
def test_twice_the_work_is_twice_its_part(more, part):
    def of(need):
        return next(n for name, n in plan(need).parts if name.startswith(part))

    assert of(dataclasses.replace(PLAIN, **more)) == 2 * of(PLAIN)


def test_the_line_leaves_out_what_is_not_there():
    line = Plan((("program", 500_000_000), ("weights of 1 model", 120_000_000), ("KV cache of 0 x 0 positions", 0)))
    assert line.line() == "memory: about 0.6 GB at most (program 0.50, weights of 1 model 0.12)"
