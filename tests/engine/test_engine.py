"""The engine against slow and certain ways of doing the same: token by token, prompt by prompt, through the learner."""

import pytest
import torch

from tutelage.data.batch import collate
from tutelage.engine.engine import Engine, EngineConfig
from tutelage.engine.request import Request, SamplingConfig
from tutelage.errors import ConfigError, DataError

END = 1
KINDS = ["llama", "mistral", "qwen2", "qwen3", "gpt2", "gpt_neox"]
PROMPTS = [(5, 6, 7), (9,), tuple(range(20, 60)), (8, 8)]


@pytest.fixture
def model(small_causal):
    """A model that ends one answer in a few: its end token is as likely as a handful of others together."""
    model = small_causal(tie_word_embeddings=False)
    with torch.no_grad():
        model.hf.lm_head.weight.mul_(0.7)
        model.hf.lm_head.weight[END] *= 3.0
    return model


def engine(model, **kw):
    return Engine(model, end_id=END, window=96, config=EngineConfig(**kw))


def requests(k=3, prompts=PROMPTS):
    return [Request(p, tuple(1000 * i + j for j in range(k))) for i, p in enumerate(prompts)]


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_greedy_is_the_argmax_loop_on_each_prompt_alone(kind, small_hf, small_causal):
    plain = small_hf(kind)
    samples = engine(small_causal(kind)).generate(requests(k=1), SamplingConfig(max_new_tokens=12, temperature=0))
    for prompt, sample in zip(PROMPTS, samples, strict=True):
        ids = list(prompt)
        while len(ids) < len(prompt) + 12 and (len(ids) == len(prompt) or ids[-1] != END):
            ids.append(plain(torch.tensor([ids])).logits[0, -1].argmax().item())
        assert sample.token_ids == tuple(ids[len(prompt) :])
        assert set(sample.logp) == {0.0}


@torch.no_grad()
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("kind", ["llama", "gpt2", "qwen3"])
def test_recorded_log_probabilities_are_those_that_the_learner_computes(kind, temperature, small_causal):
    model = small_causal(kind)
    cfg = SamplingConfig(max_new_tokens=20, temperature=temperature)
    samples = engine(model, slots=5).generate(requests(k=4), cfg)
    rows = [(PROMPTS[s.i_request], s) for s in samples]
    batch = collate([((*p, *s.token_ids), [False] * len(p) + [True] * len(s.token_ids)) for p, s in rows])
    logp_BT, _ = model.logp(batch.token_BT, batch.length_B, batch.mask_BT, temperature=temperature)
    recorded = torch.tensor([x for s in samples for x in s.logp])
    assert (logp_BT[batch.mask_BT] - recorded).abs().max() < 1e-4
    other_BT, _ = model.logp(batch.token_BT, batch.length_B, batch.mask_BT, temperature=1.3)
    assert (other_BT[batch.mask_BT] - recorded).abs().max() > 1e-2


def drawn(samples):
    return {(s.i_request, s.i_sample): (s.token_ids, s.finish_reason) for s in samples}


def test_a_seed_gives_its_sample_whatever_slots_order_and_company(model):
    cfg = SamplingConfig(max_new_tokens=20)
    reference = drawn(engine(model).generate(requests(), cfg))
    assert {r for _, r in reference.values()} == {"stop", "length"}
    assert len({t for t, _ in reference.values()}) > 8
    for kw in ({"slots": 1}, {"slots": 2}, {"slots": 5, "prefill_tokens": 1}, {"slots": 64}):
        assert drawn(engine(model, **kw).generate(requests(), cfg)) == reference
    backwards = engine(model, slots=2).generate(requests()[::-1], cfg)
    assert {(3 - i, j): s for (i, j), s in drawn(backwards).items()} == reference
    for i, request in enumerate(requests()):
        alone = engine(model).generate([Request(request.prompt_ids, request.seeds[1:2])], cfg)
        assert drawn(alone)[0, 0] == reference[i, 1]


def test_samples_come_in_order_though_they_end_out_of_order(model):
    samples = engine(model, slots=3).generate(requests(), SamplingConfig(max_new_tokens=20))
    assert [(s.i_request, s.i_sample) for s in samples] == [(i, j) for i in range(4) for j in range(3)]
    assert all(len(s.logp) == len(s.token_ids) for s in samples)


def test_the_end_token_is_kept_as_the_last_and_says_stop(model):
    samples = engine(model, slots=4).generate(requests(k=10), SamplingConfig(max_new_tokens=20))
    assert {s.finish_reason for s in samples} == {"stop", "length"}
    for s in samples:
        assert END not in s.token_ids[:-1]
        assert (s.finish_reason == "stop") == (s.token_ids[-1] == END)
        assert len(s.token_ids) <= 20
        assert s.finish_reason == "stop" or len(s.token_ids) == 20


def test_an_end_token_at_the_limit_is_a_stop(model):
    stopped = [
        s
        for s in engine(model).generate(requests(k=10), SamplingConfig(max_new_tokens=20))
        if s.finish_reason == "stop"
    ]
    for s in stopped[:3]:
        seed = requests(k=10)[s.i_request].seeds[s.i_sample]
        ask = [Request(PROMPTS[s.i_request], (seed,))]
        (at_limit,) = engine(model).generate(ask, SamplingConfig(max_new_tokens=len(s.token_ids)))
        assert (at_limit.token_ids, at_limit.finish_reason) == (s.token_ids, "stop")
        if len(s.token_ids) > 1:
            (cut,) = engine(model).generate(ask, SamplingConfig(max_new_tokens=len(s.token_ids) - 1))
            assert (cut.token_ids, cut.finish_reason) == (s.token_ids[:-1], "length")


@pytest.mark.parametrize("slots", [1, 3, 64])
def test_answers_of_one_token_need_no_decoding_step(model, slots, calls):
    samples = engine(model, slots=slots).generate(requests(), SamplingConfig(max_new_tokens=1))
    assert all(len(s.token_ids) == 1 for s in samples) and len(samples) == 12
    assert calls["tokens"] == sum(len(p) for p in PROMPTS)


@pytest.fixture
def calls(model, monkeypatch):
    """Counts forward passes and the tokens in them."""
    count = {"passes": 0, "tokens": 0}
    logits = model.logits

    def counted(token_N, *rest):
        count["passes"] += 1
        count["tokens"] += len(token_N)
        return logits(token_N, *rest)

    monkeypatch.setattr(model, "logits", counted)
    return count


@pytest.mark.parametrize("slots", [1, 2, 3, 64])
def test_each_prompt_is_computed_once_however_many_samples_and_slots(model, calls, slots):
    k, cfg = 5, SamplingConfig(max_new_tokens=6)
    samples = engine(model, slots=slots).generate(requests(k), cfg)
    # A sample of n tokens takes n - 1 decoding steps: its first comes from the prompt's own logits.
    assert calls["tokens"] == sum(len(p) for p in PROMPTS) + sum(len(s.token_ids) - 1 for s in samples)


def test_slots_are_filled_again_as_soon_as_they_fall_free(model, calls):
    samples = engine(model, slots=4).generate(requests(k=10), SamplingConfig(max_new_tokens=20))
    n_decoded = sum(len(s.token_ids) - 1 for s in samples)
    n_prefills = len(PROMPTS)
    # Waiting for a whole wave would take the longest sample of every four; refilled at once, slots stay full.
    assert calls["passes"] <= n_prefills + n_decoded / 4 + 20


def test_prompts_are_computed_together_up_to_the_limit(model, calls):
    engine(model, prefill_tokens=46).generate(requests(k=1), SamplingConfig(max_new_tokens=1))
    assert calls["passes"] == 1  # 3 + 1 + 40 + 2 tokens
    engine(model, prefill_tokens=45).generate(requests(k=1), SamplingConfig(max_new_tokens=1))
    assert calls["passes"] == 3


def test_prompts_that_wait_are_computed_along_with_those_that_need_not(model, calls):
    prompts = [(5, i) for i in range(20)]
    cfg = SamplingConfig(max_new_tokens=1)
    computed = []
    logits = model.logits
    model.logits = lambda token_N, *a: (computed.append(len(token_N) // 2), logits(token_N, *a))[1]
    first = engine(model, slots=8).generate(requests(k=1, prompts=prompts), cfg)
    # Eight and two that wait; the slots take these two and six more, and two wait again; then those and the last two.
    assert computed == [10, 8, 2]
    computed.clear()
    again = engine(model, slots=8, prefill_tokens=17).generate(requests(k=1, prompts=prompts), cfg)
    assert computed == [8, 8, 4]  # no pass has room for more than eight prompts
    assert drawn(first) == drawn(again) == drawn(engine(model).generate(requests(k=1, prompts=prompts), cfg))


@pytest.mark.parametrize("k", [1, 3])
def test_prompts_of_any_length_wait_together(model, k):
    prompts = [tuple(range(5, 6 + 7 * i % 23)) for i in range(20)]
    cfg = SamplingConfig(max_new_tokens=6)
    through_few = engine(model, slots=8).generate(requests(k=k, prompts=prompts), cfg)
    at_once = engine(model, slots=64).generate(requests(k=k, prompts=prompts), cfg)
    assert [s.token_ids for s in through_few] == [s.token_ids for s in at_once]
    for a, b in zip(through_few, at_once, strict=True):
        assert a.logp == pytest.approx(b.logp, abs=1e-4)


def test_nothing_is_stale_after_the_weights_change(model, small_causal):
    cfg = SamplingConfig(max_new_tokens=12)
    one = engine(model)
    before = drawn(one.generate(requests(), cfg))
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(0.9)
    one.version = 7
    after = one.generate(requests(), cfg)
    assert drawn(after) == drawn(engine(model).generate(requests(), cfg))
    assert drawn(after) != before
    assert {s.version for s in after} == {7}


def test_the_first_token_follows_the_softmax(model):
    n = 4000
    samples = engine(model).generate([Request((5, 6, 7), tuple(range(n)))], SamplingConfig(max_new_tokens=1))
    with torch.no_grad():
        p_V = model.hf(torch.tensor([[5, 6, 7]]), layout=_packed(3)).logits[0, -1].softmax(-1)
    count_V = torch.bincount(torch.tensor([s.token_ids[0] for s in samples]), minlength=len(p_V))
    often = n * p_V > 10
    # Chi-square of k cells and the rest: mean k, standard deviation sqrt(2 k). Four of those pass once in 10^4.
    cells = torch.cat([count_V[often], count_V[~often].sum()[None]])
    expected = torch.cat([n * p_V[often], n * p_V[~often].sum()[None]])
    k = len(cells) - 1
    assert k > 20
    assert ((cells - expected) ** 2 / expected).sum() < k + 4 * (2 * k) ** 0.5


def _packed(n):
    from tutelage.model.attention import Packed

    return Packed([n])


def test_top_k_samples_carry_renormalised_log_probabilities(model):
    cfg = SamplingConfig(max_new_tokens=6, top_k=1)
    assert all(set(s.logp) == {0.0} for s in engine(model).generate(requests(), cfg))
    greedy = engine(model).generate(requests(), SamplingConfig(max_new_tokens=6, temperature=0))
    assert drawn(engine(model).generate(requests(), cfg)) == drawn(greedy)


def test_progress_is_told_every_token(model):
    told = []
    samples = engine(model, slots=3).generate(requests(), SamplingConfig(max_new_tokens=8), progress=told.append)
    assert sum(told) == sum(len(s.token_ids) for s in samples)


@pytest.mark.parametrize(
    ("prompts", "words"),
    [
        ([], "no prompt to sample from"),
        ([(5,), ()], "prompt 1 has no token"),
        ([(5,), (6,) * 87], "prompt 1 has 87 tokens; with 10 for the answer .* window of 96"),
    ],
)
def test_prompts_that_cannot_be_answered_are_refused(model, prompts, words):
    with pytest.raises(DataError, match=words):
        engine(model).generate(requests(1, prompts), SamplingConfig(max_new_tokens=10))


def test_a_prompt_that_just_fits_is_answered_to_the_limit(model):
    samples = engine(model).generate(requests(4, [(6,) * 86]), SamplingConfig(max_new_tokens=10))
    assert max(len(s.token_ids) for s in samples) == 10


def test_sampling_builds_no_graph(model):
    engine(model).generate(requests(), SamplingConfig(max_new_tokens=2))
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("kw", [{"slots": 0}, {"prefill_tokens": 0}])
def test_settings_that_cannot_be_are_refused(kw):
    with pytest.raises(ConfigError, match="must be 1 or more"):
        EngineConfig(**kw)
