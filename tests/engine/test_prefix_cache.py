"""What prompts begin with is computed once, gives the bits of the whole prompt, and goes when the weights change."""

import pytest
import torch

from tutelage.engine.engine import Engine, EngineConfig
from tutelage.engine.prefill import Prefill
from tutelage.engine.prefix_cache import Prefix, PrefixCache, in_common
from tutelage.engine.request import Request, SamplingConfig
from tutelage.model.lora import Adapter, LoraSettings
from tutelage.native.slots import PAGE

KINDS = ["llama", "mistral", "qwen2", "qwen3", "gpt2", "gpt_neox"]
SAMPLING = SamplingConfig(max_new_tokens=12)
WINDOW = 512


def ids(n, seed=0):
    return tuple(torch.randint(5, 320, (n,), generator=torch.Generator().manual_seed(seed)).tolist())


COMMON = ids(150)  # two whole pages of 64, and a part of one
PROMPTS = [COMMON + ids(n, seed) for seed, n in ((1, 1), (2, 30), (3, 70), (4, 2), (5, 9))]


@pytest.fixture
def model(small_causal):
    return small_causal(max_position_embeddings=WINDOW)


def engine(model, prefixes=None, *, precision="bf16", **kw):
    config = EngineConfig(**kw)
    return Engine(model, end_id=1, window=WINDOW, config=config, precision=precision, prefixes=prefixes)


def draw(machine, prompts, k=2):
    requests = [Request(p, tuple(1000 * i + j for j in range(k))) for i, p in enumerate(prompts)]
    return [(s.i_request, s.i_sample, s.token_ids, s.logp) for s in machine.generate(requests, SAMPLING)]


@pytest.fixture
def whole(monkeypatch):
    """What is drawn where every prompt is computed as a whole."""

    def drawn(model, prompts, k=2):
        with monkeypatch.context() as patch:
            patch.setattr(Prefill, "begin", lambda _: None)
            return draw(engine(model), prompts, k)

    return drawn


@pytest.mark.parametrize("kind", KINDS)
def test_what_all_prompts_begin_with_is_computed_once_and_changes_no_bit(kind, small_causal, passes, whole):
    model = small_causal(kind, max_position_embeddings=WINDOW)
    expected = whole(model, PROMPTS)
    assert passes == [sum(map(len, PROMPTS))] and len({ids for *_, ids, _ in expected}) == len(expected)
    for settings in ({}, {"slots": 2}, {"slots": 3, "prefill_tokens": 80}):
        del passes[:]
        machine = engine(model, **settings)
        assert draw(machine, PROMPTS) == expected
        assert passes[0] == 128 and sum(passes) == 128 + sum(len(p) - 128 for p in PROMPTS)
        del passes[:]
        assert draw(machine, PROMPTS[::-1][2:]) == whole(model, PROMPTS[::-1][2:])
        assert sum(passes[:-1]) == sum(len(p) - 128 for p in PROMPTS[::-1][2:])


def test_a_conversation_computes_its_new_turn_alone(model, passes, whole):
    turns = [COMMON[:100], COMMON, COMMON + ids(50), COMMON + ids(200)]
    prefixes = PrefixCache()
    expected = [whole(model, [turn]) for turn in turns]
    del passes[:]
    assert [draw(engine(model, prefixes), [turn]) for turn in turns] == expected
    assert passes == [100, 150 - 64, 200 - 128, 350 - 192]
    del passes[:]
    for _ in range(2):  # another conversation in between, and one that goes back a turn
        assert draw(engine(model, prefixes), [ids(90, 7)]) == whole(model, [ids(90, 7)])
        assert draw(engine(model, prefixes), [turns[1]]) == expected[1]
    assert passes == [90, 90, 150 - 128, 90 - 64, 90, 150 - 128]


def test_a_prompt_that_ends_with_a_page_leaves_a_token_to_compute(model, passes, whole):
    prompt = COMMON[: 2 * PAGE]
    machine = engine(model)
    for _ in range(2):
        assert draw(machine, [prompt]) == whole(model, [prompt])
    assert passes == [128, 128, 128 - 64, 128]


def half(model):
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(0.9)


def behind_torch(model):
    for p in model.parameters():
        p.data.mul_(0.9)
    model.forget_copies()


@pytest.mark.parametrize("change", [half, behind_torch])
def test_new_weights_drop_what_the_old_ones_computed(change, model, passes, whole):
    machine = engine(model)
    before = draw(machine, PROMPTS)
    change(model)
    del passes[:]
    after = draw(machine, PROMPTS)
    assert passes[0] == 128 and after == whole(model, PROMPTS) != before


def test_an_adapter_that_is_switched_is_another_model(model, passes, whole):
    plain = whole(model, PROMPTS)
    adapter, machine = Adapter(model, LoraSettings(rank=4), seed=0), engine(model)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_B" in name:
                p.fill_(0.1)
    adapted = draw(machine, PROMPTS)
    with adapter.off():
        assert draw(machine, PROMPTS) == plain
    assert draw(machine, PROMPTS) == adapted == whole(model, PROMPTS) != plain


def kept(ids, seed=0):
    keys = torch.randn(2, 1, len(ids), 32, generator=torch.Generator().manual_seed(seed)).bfloat16()
    return Prefix(ids, keys, keys + 1)


def test_the_longest_known_beginning_is_found_in_whole_pages():
    cache, weights = PrefixCache(), (1,)
    assert cache.longest(COMMON, weights) is None
    cache.keep(kept(COMMON[:128]))
    cache.keep(kept(COMMON[:64] + ids(128, 5)))
    found = cache.longest(COMMON[:64] + ids(70, 5) + (7,), weights)
    assert len(found) == 128 and found.ids == COMMON[:64] + ids(64, 5)
    assert torch.equal(found.keys_LGPW, kept(COMMON[:64] + ids(128, 5)).keys_LGPW[:, :, :128])
    assert torch.equal(found.values_LGPW, found.keys_LGPW + 1)
    assert len(cache.longest(COMMON, weights)) == 128 and cache.longest(COMMON[:63], weights) is None
    assert cache.longest(ids(200, 9), weights) is None
    assert cache.longest(COMMON, (2,)) is None and cache.n_bytes == 0  # other weights


def test_what_was_used_last_stays_and_a_longer_one_takes_the_place_of_its_beginning():
    one = kept(ids(64, 1))
    cache = PrefixCache(most_bytes=3 * one.n_bytes)
    for seed in (1, 2, 3):
        cache.keep(kept(ids(64, seed)))
    assert cache.longest(ids(64, 1), ()) is not None
    cache.keep(kept(ids(64, 4)))
    assert [cache.longest(ids(64, seed), ()) is not None for seed in (1, 2, 3, 4)] == [True, False, True, True]
    assert cache.n_bytes == 3 * one.n_bytes
    longer = ids(64, 1) + ids(64, 8)
    cache.keep(kept(longer))
    assert len(cache.longest(longer, ())) == 128 and cache.n_bytes == 3 * one.n_bytes
    cache.keep(kept(ids(256, 6)))  # more than there is room for
    assert cache.longest(ids(256, 6), ()) is None and cache.n_bytes == 3 * one.n_bytes


def test_the_common_beginning_ends_with_the_shortest_prompt():
    assert in_common([COMMON]) == 128
    assert in_common([COMMON, COMMON[:127]]) == 64
    assert in_common([COMMON, COMMON[:100] + ids(50, 3)]) == 64
    assert in_common([COMMON, ids(150, 3)]) == in_common([COMMON[:63]]) == 0
