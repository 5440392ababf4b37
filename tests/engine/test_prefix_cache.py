"""What prompts begin with is computed once, gives the bits of the whole prompt, and goes when the weights change."""

import pytest
import torch

from tutelage.engine.engine import Engine, EngineConfig
from tutelage.engine.prefix_cache import MOST_ENTRIES, Prefix, PrefixCache, in_common
from tutelage.engine.request import Request, SamplingConfig
from tutelage.model.lora import Adapter, LoraSettings
from tutelage.native.slots import PAGE
from tutelage.train.optim import OptimConfig, build_adamw

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


def whole(model, prompts, k=2):
    """What is drawn where every prompt is computed as a whole."""
    return draw(engine(model, PrefixCache(0)), prompts, k)


@pytest.mark.parametrize("kind", KINDS)
def test_what_all_prompts_begin_with_is_computed_once_and_changes_no_bit(kind, small_causal, passes):
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


def test_a_conversation_computes_its_new_turn_alone(model, passes):
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


def test_a_prompt_that_ends_with_a_page_leaves_a_token_to_compute(model, passes):
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


def stepped(model):
    optimizer = build_adamw(dict(model.named_parameters()), OptimConfig(lr=0.1))
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()


@pytest.mark.parametrize("change", [half, behind_torch, stepped])
def test_new_weights_drop_what_the_old_ones_computed(change, model, passes):
    machine = engine(model)
    before = draw(machine, PROMPTS)
    change(model)
    del passes[:]
    after = draw(machine, PROMPTS)
    assert passes[0] == 128 and after == whole(model, PROMPTS) != before


def test_prompts_that_share_nothing_drop_what_old_weights_computed(model, passes):
    prefixes = PrefixCache()
    draw(engine(model, prefixes), PROMPTS)
    draw(engine(model, prefixes), [(5, 6), (7,)])
    assert len(prefixes) == 1
    half(model)
    draw(engine(model, prefixes), [(5, 6), (7,)])
    assert len(prefixes) == 0


def test_a_conversation_too_long_to_be_kept_goes_on_behind_its_first_pages(model, passes):
    prompts = [COMMON, COMMON + ids(60), COMMON + ids(200), COMMON + ids(300)]
    size = PrefixCache()
    draw(engine(model, size), [COMMON])
    prefixes = PrefixCache(size.n_bytes // 2 * 3)  # three pages
    expected = [whole(model, [p]) for p in prompts]
    del passes[:]
    assert [draw(engine(model, prefixes), [p]) for p in prompts] == expected
    assert passes == [150, 210 - 128, 350 - 192, 450 - 192] and prefixes.n_bytes == size.n_bytes // 2 * 3
    # As much of what several begin with as there is room for.
    both = [COMMON + ids(300) + (5,), COMMON + ids(300) + (6, 7)]
    assert draw(engine(model, prefixes), both) == whole(model, both)


def test_an_adapter_that_is_switched_is_another_model(model, passes):
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
    cache.keep(kept(COMMON[:128]), weights)
    cache.keep(kept(COMMON[:64] + ids(128, 5)), weights)
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

    def known(of):
        return len(cache.longest(of, ()) or ())

    for seed in (1, 2, 3):
        cache.keep(kept(ids(64, seed)), ())
    assert known(ids(64, 1)) == 64
    cache.keep(kept(ids(64, 4)), ())
    assert [known(ids(64, seed)) for seed in (1, 2, 3, 4)] == [64, 0, 64, 64] and cache.n_bytes == 3 * one.n_bytes
    longer = ids(64, 1) + ids(64, 8)
    cache.keep(kept(longer), ())
    assert known(longer) == 128 and cache.n_bytes == 3 * one.n_bytes and len(cache) == 2
    cache.keep(kept(longer[:64]), ())  # known already
    assert known(longer) == 128 and len(cache) == 2
    cache.keep(kept(longer + ids(200, 6)), ())  # more than there is room for
    assert known(longer + ids(200, 6)) == 192 and cache.n_bytes == 3 * one.n_bytes and len(cache) == 1
    small = PrefixCache(one.n_bytes - 1)
    small.keep(one, ())
    assert len(small) == 0


def test_what_is_kept_is_a_copy_and_there_are_not_too_many():
    cache, source = PrefixCache(), kept(ids(64))
    cache.keep(source, ())
    source.keys_LGPW.zero_()
    assert torch.equal(cache.longest(ids(64), ()).keys_LGPW, kept(ids(64)).keys_LGPW)
    for seed in range(1, 100):
        cache.keep(kept(ids(64, seed)), ())
    assert len(cache) == MOST_ENTRIES and cache.longest(ids(64), ()) is None


def test_the_common_beginning_ends_with_the_shortest_prompt():
    assert in_common([COMMON]) == 128
    assert in_common([COMMON, COMMON[:127]]) == 64
    assert in_common([COMMON, COMMON[:100] + ids(50, 3)]) == 64
    assert in_common([COMMON, ids(150, 3)]) == in_common([COMMON[:63]]) == 0
