"""What a step costs at least, against a count by hand and against a model's own weights."""

import pytest
from shapes import SHAPES, Shape
from world import open_world

from tutelage.model.load import load_causal

TINY = Shape(width=4, layers=1, heads=2, groups=1, inner=3, vocabulary=5)


def test_weights_by_hand() -> None:
    # queries 4 x 4, keys and values 4 x 2 each, out 4 x 4: 48; gate, up and down 3 x 4 x 3: 36; head 4 x 5: 20
    assert (TINY.trunk, TINY.head, TINY.weights) == (84, 20, 104)


def test_operations_by_hand() -> None:
    assert TINY.forward(10, 2) == 2 * 84 * 10 + 2 * 20 * 2
    assert TINY.train(10, 2) == 3 * TINY.forward(10, 2)
    # one prompt of 3 tokens once, its last token read for each of 2 samples; then 2 samples of 4 tokens
    assert TINY.rollout(1, 3, 2, 4) == 2 * 84 * 3 + 2 * 20 * 2 + 2 * 104 * 8


def test_bytes_of_a_decoding_step_by_hand() -> None:
    # 104 weights and, of each of 6 positions in 3 slots, a key and a value of 2, in 2 bytes each
    assert TINY.step_bytes(3, 1, 6) == 2 * 104 + 3 * 6 * 2 * 2 * 2
    assert TINY.step_bytes(3, 2, 6) - TINY.step_bytes(3, 1, 6) == 2 * 104  # two threads read all weights twice
    assert TINY.step_bytes(130, 2, 0) == 3 * 2 * 104  # 64, 64 and 2 rows


def test_a_shared_prompt_is_counted_once() -> None:
    apart, shared = TINY.rloo(8, 1, 64, 16), TINY.rloo(1, 8, 64, 16)
    # rollout, reference and reward pass forward once, training three times: 6 passes over 7 prompts less
    assert apart - shared == pytest.approx(6 * 2 * 84 * 7 * 64)


def test_ppo_of_the_10m_model_is_the_stated_floor() -> None:
    # 145 rollout, 146 reference, 125 reward, 125 value, 439 actor, 375 critic, in 10^9 operations
    assert SHAPES["10M"].ppo(64, 64, 64) / 1e12 == pytest.approx(1.355, abs=0.002)


def test_a_world_holds_the_shape_it_is_named_by(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("TUTELAGE_BENCH_CACHE", str(tmp_path))
    world, shape = open_world("1M"), SHAPES["1M"]
    model, chat = load_causal(str(world.policy))
    matrices = sum(p.numel() for p in model.parameters() if p.ndim == 2)
    assert matrices == shape.weights
    tasks = world.read_tasks()
    assert all(32 <= len(ids) <= 224 + 3 for ids in tasks["documents"])
    assert all(
        chat.tokenizer(p["rendered"], add_special_tokens=False)["input_ids"] == p["ids"] for p in tasks["prompts"]
    )
    assert open_world("1M").folder == world.folder
