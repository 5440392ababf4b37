"""Decoding on the native kernels in bf16: the learner's own log-probabilities, and the same sample in any company."""

import pytest
import torch

from tutelage.data.batch import collate
from tutelage.engine.cache import PrefillLayout, SlotCache
from tutelage.engine.engine import Engine, EngineConfig
from tutelage.engine.request import Request, SamplingConfig
from tutelage.model.attention import Packed
from tutelage.model.lora import Adapter, LoraSettings
from tutelage.native import kernels
from tutelage.native.decode import Decoder

KINDS = ["llama", "mistral", "qwen2", "qwen3", "gpt2", "gpt_neox"]
PROMPTS = [(5, 6, 7), (9,), tuple(range(20, 60)), (8, 8)]
END = 1


@pytest.fixture(autouse=True, scope="module")
def _compiled():
    if not kernels.is_ready():
        pytest.skip("the native kernels cannot be compiled here")


@pytest.fixture
def steps(monkeypatch):
    """How many native calls were made."""
    count = []

    def counted(method):
        return lambda *a, **kw: (count.append(1), method(*a, **kw))[1]

    for name in ("run", "logits"):
        monkeypatch.setattr(Decoder, name, counted(getattr(Decoder, name)))
    return count


def sharp(model):
    """The model with an output layer that ends one answer in a few."""
    with torch.no_grad():
        model.hf.lm_head.weight.mul_(0.7)
        model.hf.lm_head.weight[END] *= 3.0
    return model


@pytest.fixture
def model(small_causal):
    return sharp(small_causal(tie_word_embeddings=False))


def generate(model, sampling, *, prompts=PROMPTS, k=3, precision="bf16", **kw):
    requests = [Request(p, tuple(1000 * i + j for j in range(k))) for i, p in enumerate(prompts)]
    engine = Engine(model, end_id=END, window=96, config=EngineConfig(**kw), precision=precision)
    return engine.generate(requests, sampling)


def drawn(samples):
    return [(s.i_request, s.i_sample, s.token_ids, s.logp, s.finish_reason) for s in samples]


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_decoding_through_slots_equals_a_whole_bf16_pass(kind, small_causal, steps):
    model = small_causal(kind)
    g = torch.Generator().manual_seed(0)
    n_prompt, n_new = [4, 30, 1], 6
    rows = [torch.randint(5, 320, (n + n_new,), generator=g) for n in n_prompt]
    with torch.autocast("cpu", torch.bfloat16):
        packed = Packed(n_prompt)
        cache = SlotCache(4, 48)
        layout = PrefillLayout(packed, cache, [[0], [1], [2]])
        prompt_N = torch.cat([r[:n] for r, n in zip(rows, n_prompt, strict=True)])
        last_B = torch.tensor(n_prompt).cumsum(0) - 1
        got = [[logits_V] for logits_V in model.logits(prompt_N, packed.position_N, last_B, layout)]
        decoder = model.decoder(cache.native)
        for t in range(n_new):
            token_S = torch.stack([r[n + t] for r, n in zip(rows, n_prompt, strict=True)])
            for slot, logits_V in enumerate(decoder.logits(token_S, torch.tensor([n + t for n in n_prompt]))):
                got[slot].append(logits_V.clone())
    for row, n, logits in zip(rows, n_prompt, got, strict=True):
        alone = Packed([len(row)])
        whole = [row, alone.position_N, torch.arange(n - 1, len(row)), alone]
        exact_TV = model.logits(*whole)
        with torch.autocast("cpu", torch.bfloat16):
            half_TV = model.logits(*whole)
        error, allowed = ((x.float() - exact_TV).norm() for x in (torch.stack(logits), half_TV))
        assert 0 < error <= 1.5 * allowed
    assert len(steps) == n_new


@pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False")
@pytest.mark.parametrize("rank", [0, 4])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("kind", KINDS)
def test_recorded_log_probabilities_are_those_that_the_learner_computes_in_bf16(
    kind, temperature, rank, small_causal, steps
):
    model = small_causal(kind)
    if rank:
        Adapter(model, LoraSettings(rank=rank), seed=0)
        g = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for p in (p for name, p in model.named_parameters() if "lora_B" in name):
                p.copy_(torch.randn(p.shape, generator=g) * 0.1)
    samples = generate(model, SamplingConfig(max_new_tokens=20, temperature=temperature), slots=5, k=4)
    rows = [(PROMPTS[s.i_request], s) for s in samples]
    batch = collate([((*p, *s.token_ids), [False] * len(p) + [True] * len(s.token_ids)) for p, s in rows])
    recorded = torch.tensor([x for s in samples for x in s.logp])

    def learned(at, precision):
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            logp_BT, _ = model.logp(batch.token_BT, batch.length_B, batch.mask_BT, temperature=at)
        return logp_BT[batch.mask_BT]

    half, exact = learned(temperature, "bf16"), learned(temperature, "fp32")
    # Both round in the same places, so they are much nearer to each other than either is to float32.
    assert steps and (recorded - half).abs().mean() < 0.5 * (half - exact).abs().mean() < 0.03
    assert (recorded - learned(1.3, "bf16")).abs().mean() > 0.1


def test_a_seed_gives_its_sample_to_the_bit_whatever_slots_order_and_company(model, steps):
    cfg = SamplingConfig(max_new_tokens=20)
    reference = drawn(generate(model, cfg))
    assert {r for *_, r in reference} == {"stop", "length"} and len(steps) == 2  # 19 steps
    for kw in ({"slots": 1}, {"slots": 2}, {"slots": 5, "prefill_tokens": 1}, {"slots": 64}):
        assert drawn(generate(model, cfg, **kw)) == reference
    for i, prompt in enumerate(PROMPTS):
        engine = Engine(model, end_id=END, window=96, precision="bf16")
        (alone,) = engine.generate([Request(prompt, (1000 * i + 1,))], cfg)
        assert (alone.token_ids, alone.logp) == reference[3 * i + 1][2:4]


def test_the_prompt_alone_goes_through_the_model(model, steps, passes):
    generate(model, SamplingConfig(max_new_tokens=6))
    assert passes == [sum(len(p) for p in PROMPTS)] and steps


@pytest.mark.parametrize("settings", [{"temperature": 0}, {"top_k": 1}, {"top_k": 5, "top_p": 0.9}])
def test_other_ways_of_drawing_read_the_same_logits(model, steps, settings):
    cfg = SamplingConfig(max_new_tokens=8, **settings)
    samples = drawn(generate(model, cfg, slots=3))
    assert samples == drawn(generate(model, cfg)) and steps
    if "top_p" not in settings:
        assert all(set(logp) == {0.0} for _, _, _, logp, _ in samples)
        assert [s[2] for s in samples] == [
            s[2] for s in drawn(generate(model, SamplingConfig(max_new_tokens=8, top_k=1)))
        ]


def test_who_asks_is_shown_every_step_and_progress_is_told_every_token(model, steps):
    cfg, shown, told = SamplingConfig(max_new_tokens=20), [], []
    requests = [Request(p, (i,)) for i, p in enumerate(PROMPTS)]
    engine = Engine(model, end_id=END, window=96, config=EngineConfig(slots=3), precision="bf16")
    samples = engine.generate(
        requests, cfg, step=lambda running: shown.append({r.i_request: r.token_ids for r in running})
    )
    assert len(steps) >= max(len(s.token_ids) for s in samples) - 1
    for i, s in enumerate(samples):
        seen = [ids for ids in (now.get(i) for now in shown) if ids]
        assert [len(ids) for ids in seen] == list(range(2, len(s.token_ids))) or len(s.token_ids) < 3
        assert all(ids == list(s.token_ids[: len(ids)]) for ids in seen)
    assert drawn(engine.generate(requests, cfg, progress=told.append)) == drawn(samples)
    assert sum(told) == sum(len(s.token_ids) for s in samples) and len(told) < len(shown)


def test_nothing_is_stale_after_the_weights_change(model, steps):
    cfg = SamplingConfig(max_new_tokens=12)
    before = drawn(generate(model, cfg))
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(0.9)
    after = drawn(generate(model, cfg))
    model.forget_copies()
    assert after == drawn(generate(model, cfg)) != before


@pytest.mark.parametrize("settings", [{"activation_function": "relu"}, {}])
def test_a_model_without_kernels_and_a_float32_engine_run_as_ever(settings, small_causal, steps):
    model, cfg = small_causal("gpt2", **settings), SamplingConfig(max_new_tokens=8)
    expected = drawn(generate(model, cfg, precision="fp32"))
    if settings:
        assert drawn(generate(model, cfg)) == expected
    assert not steps


def test_without_a_compiler_bf16_falls_back_to_float32(model, steps, monkeypatch):
    monkeypatch.setattr(kernels, "is_ready", lambda: False)
    cfg = SamplingConfig(max_new_tokens=8)
    assert drawn(generate(model, cfg)) == drawn(generate(model, cfg, precision="fp32")) and not steps
