"""Sampling on a device that works behind the program's back: the samples of the processor, with nobody waiting between.

The device is the tests' own (`card.py`); what a CUDA device adds, graphs, is for the tests marked `gpu`.
"""

import pytest
import torch

from tutelage.data.batch import collate
from tutelage.engine import room as room_file
from tutelage.engine.engine import Engine, EngineConfig
from tutelage.engine.request import Request, SamplingConfig
from tutelage.engine.room import STEPS, Room
from tutelage.model.lora import Adapter, LoraSettings

KINDS = ["llama", "mistral", "qwen2", "qwen3", "gpt2", "gpt_neox"]
PROMPTS = [(5, 6, 7), (9,), tuple(range(20, 60)), (8, 8)]
END = 1


@pytest.fixture
def make(small_causal):
    """(kind) -> a model that ends one answer in a few."""

    def made(kind="llama"):
        model = small_causal(kind, tie_word_embeddings=False)
        with torch.no_grad():
            head = model.hf.get_output_embeddings().weight
            head.mul_(0.7)
            head[END] *= 3.0
        return model

    return made


@pytest.fixture
def made_rooms(monkeypatch):
    """Every room that was made."""
    made, init = [], Room.__init__
    monkeypatch.setattr(Room, "__init__", lambda self, *a, **kw: (made.append(self), init(self, *a, **kw))[1])
    return made


def generate(model, sampling=None, *, prompts=PROMPTS, k=3, precision="fp32", **kw):
    requests = [Request(p, tuple(1000 * i + j for j in range(k))) for i, p in enumerate(prompts)]
    config = EngineConfig(**{key: kw.pop(key) for key in ("slots", "prefill_tokens") if key in kw})
    engine = Engine(model, end_id=END, window=96, config=config, precision=precision)
    return engine.generate(requests, sampling or SamplingConfig(max_new_tokens=20), **kw)


def tokens(samples):
    return [(s.i_request, s.i_sample, s.token_ids, s.finish_reason) for s in samples]


def logp(samples):
    return torch.tensor([x for s in samples for x in s.logp])


@pytest.mark.parametrize(
    ("slots", "settings"),
    [(1, {}), (3, {"temperature": 0.7}), (64, {}), (64, {"temperature": 0}), (3, {"top_k": 5, "top_p": 0.9})],
)
def test_samples_are_those_of_the_processor(slots, settings, make, card):
    cfg = SamplingConfig(max_new_tokens=20, **settings)
    expected = generate(make(), cfg)
    found = generate(make().to(card.NAME), cfg, slots=slots)
    assert tokens(found) == tokens(expected)
    assert {s.finish_reason for s in found} == {"stop", "length"} or settings
    torch.testing.assert_close(logp(found), logp(expected), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("kind", KINDS)
def test_no_step_waits_for_the_device_in_any_kind_of_model(kind, precision, make, card, monkeypatch):
    model, run, steps = make(kind).to(card.NAME), Room._step, []

    def step(*args):
        steps.append(1)
        with card.nobody_waits():
            run(*args)

    monkeypatch.setattr(Room, "_step", step)
    samples = generate(model, precision=precision)
    assert len(steps) >= max(len(s.token_ids) for s in samples) - 1


@pytest.mark.parametrize("rank", [0, 4])
@pytest.mark.parametrize("kind", ["llama", "qwen3", "gpt2"])
@pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False")
def test_recorded_log_probabilities_are_those_that_the_learner_computes_in_bf16(kind, rank, make, card):
    model = make(kind)
    if rank:
        Adapter(model, LoraSettings(rank=rank), seed=0)
        with torch.no_grad():
            for p in (p for name, p in model.named_parameters() if "lora_B" in name):
                p.copy_(torch.randn(p.shape, generator=torch.Generator().manual_seed(1)) * 0.1)
    model.to(card.NAME)
    samples = generate(model, k=4, slots=5, precision="bf16")
    rows = [(PROMPTS[s.i_request], s) for s in samples]
    batch = collate([((*p, *s.token_ids), [False] * len(p) + [True] * len(s.token_ids)) for p, s in rows])

    def learned(enabled):
        there = [x.to(card.NAME) for x in (batch.token_BT, batch.length_B, batch.mask_BT)]
        with torch.no_grad(), torch.autocast(card.NAME, torch.bfloat16, enabled=enabled):
            return model.logp(*there)[0].cpu()[batch.mask_BT]

    recorded, half, exact = logp(samples), learned(True), learned(False)
    assert (recorded - half).abs().mean() < 0.5 * (half - exact).abs().mean() < 0.05


def test_the_copy_in_bf16_gives_the_bits_of_autocast_and_is_no_part_of_the_model(make, card):
    model = make().to(card.NAME)
    n, twin = sum(p.numel() for p in model.parameters()), model.half_copy()
    tokens_BT = torch.randint(5, 320, (3, 12), device=card.NAME)
    asked = tokens_BT, torch.tensor([12, 12, 12], device=card.NAME), torch.ones_like(tokens_BT) > 0
    asked[2][:, 0] = False
    with torch.no_grad(), torch.autocast(card.NAME, torch.bfloat16):
        assert torch.equal(twin.logp(*asked)[0], model.logp(*asked)[0])
    assert sum(p.numel() for p in model.parameters()) == n == sum(p.numel() for p in twin.parameters())
    assert twin.hf.get_input_embeddings().weight is model.hf.get_input_embeddings().weight
    assert twin.hf.get_output_embeddings().weight.dtype == torch.bfloat16


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_room_outlives_the_call_and_nothing_in_it_is_stale(precision, make, card, made_rooms):
    model = make().to(card.NAME)
    before = generate(model, precision=precision)
    assert tokens(generate(model, precision=precision)) == tokens(before) and len(made_rooms) == 1
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(0.9)
    after = generate(model, precision=precision)
    assert tokens(after) != tokens(before) and len(made_rooms) == 1
    fresh = make().to(card.NAME)
    with torch.no_grad():
        for p in fresh.parameters():
            p.mul_(0.9)
    assert tokens(generate(fresh, precision=precision)) == tokens(after)


def test_a_room_that_is_too_small_or_of_another_model_is_replaced(make, card, made_rooms):
    model = make().to(card.NAME)
    expected = tokens(generate(model, slots=64))
    assert tokens(generate(model, slots=2)) == expected and len(made_rooms) == 1  # a larger one serves
    assert tokens(generate(model, slots=65)) == expected and len(made_rooms) == 2
    adapter = Adapter(model, LoraSettings(rank=2), seed=0)
    assert tokens(generate(model, slots=2)) == expected and len(made_rooms) == 3
    adapter.merge()
    assert tokens(generate(model, slots=2)) == expected and len(made_rooms) == 4
    del adapter, model
    made_rooms.clear()
    assert not list(room_file._rooms)


def test_a_sample_that_ends_on_the_way_writes_nothing_beyond_its_slot(small_causal, card):
    def asked(model):
        requests = [Request(tuple(range(5, 251)), (1,), max_new_tokens=10), Request((5, 6, 7), (2,), max_new_tokens=20)]
        return tokens(Engine(model, end_id=335, window=512).generate(requests, SamplingConfig(max_new_tokens=20)))

    make = lambda: small_causal(max_position_embeddings=512)  # noqa: E731
    assert asked(make().to(card.NAME)) == asked(make())  # 256 positions, all of them used


@pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False")
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_the_copy_follows_adapters_that_are_switched_off_or_merged(kind, make, card):
    model = make(kind)
    adapter = Adapter(model, LoraSettings(rank=4), seed=0)
    with torch.no_grad():
        for p in (p for name, p in model.named_parameters() if "lora_B" in name):
            p.fill_(0.05)
    model.to(card.NAME)
    token_BT = torch.arange(5, 17, device=card.NAME)[None]
    asked = token_BT, torch.tensor([12], device=card.NAME), torch.ones_like(token_BT) > 0
    asked[2][:, 0] = False

    def gap():
        with torch.no_grad(), torch.autocast(card.NAME, torch.bfloat16):
            return float((model.half_copy().logp(*asked)[0] - model.logp(*asked)[0]).abs().max())

    assert gap() == 0
    with adapter.off():
        assert gap() == 0
    assert gap() == 0
    adapter.merge()
    assert gap() == 0
    model.hf.set_output_embeddings(torch.nn.Linear(32, 336, bias=False, device=card.NAME))
    assert gap() == 0


def test_who_asks_is_shown_every_step_and_progress_is_told_every_token(make, card):
    model, shown, told = make().to(card.NAME), [], []
    samples = generate(
        model, k=1, slots=3, step=lambda running: shown.append({r.i_request: r.token_ids for r in running})
    )
    for i, s in enumerate(samples):
        seen = [now[i] for now in shown if i in now]
        assert [len(ids) for ids in seen] == list(range(2, len(s.token_ids))) or len(s.token_ids) < 3
    again = generate(model, k=1, slots=3, progress=told.append)
    assert tokens(again) == tokens(samples)
    assert sum(told) == sum(len(s.token_ids) for s in samples) and max(told) > 3 >= len(told) / STEPS


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, False),
        ({"rope_parameters": {"rope_type": "llama3", "rope_theta": 1e4, "factor": 2.0, "low_freq_factor": 1.0,
                              "high_freq_factor": 4.0, "original_max_position_embeddings": 48}}, False),
        ({"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}}, True),
    ],
)  # fmt: skip
def test_steps_that_ask_the_host_are_not_recorded(settings, expected, small_causal):
    assert room_file.asks_the_host(small_causal(**settings)) is expected


def test_few_sequences_take_narrow_steps(make, card, monkeypatch):
    model, widths, run = make().to(card.NAME), [], Room._step
    monkeypatch.setattr(Room, "_step", lambda self, m, width, *a: (widths.append(width), run(self, m, width, *a))[1])
    generate(model, SamplingConfig(max_new_tokens=3), k=17, slots=64)
    generate(model, SamplingConfig(max_new_tokens=3), prompts=PROMPTS[:1], k=1, slots=64)
    assert widths[0] == 64 and widths[-1] == 1
