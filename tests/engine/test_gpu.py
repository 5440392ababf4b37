"""Sampling and learning on a CUDA device: `make gpu`. Elsewhere these are skipped; `test_room.py` shows the rest."""

import copy

import pytest
import torch

from tutelage.data.batch import collate
from tutelage.engine.engine import Engine, EngineConfig
from tutelage.engine.request import Request, SamplingConfig
from tutelage.engine.room import Room
from tutelage.train.learner import ComputeConfig, Term
from tutelage.train.optim import OptimConfig
from tutelage.train.pretrain import language_learner, mean_nll

pytestmark = pytest.mark.gpu
KINDS = ["llama", "mistral", "qwen2", "qwen3", "gpt2", "gpt_neox"]
PROMPTS = [(5, 6, 7), (9,), tuple(range(20, 60)), (8, 8)]
END = 1


def generate(model, precision, **settings):
    requests = [Request(p, tuple(1000 * i + j for j in range(5))) for i, p in enumerate(PROMPTS)]
    engine = Engine(model, end_id=END, window=96, config=EngineConfig(slots=8), precision=precision)
    return engine.generate(requests, SamplingConfig(max_new_tokens=20, **settings))


def tokens(samples):
    return [(s.i_request, s.i_sample, s.token_ids, s.finish_reason) for s in samples]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("kind", KINDS)
def test_replayed_graphs_draw_what_steps_one_by_one_draw(kind, precision, small_causal, monkeypatch):
    model = small_causal(kind, hidden_size=64, tie_word_embeddings=False).to("cuda")
    replayed = generate(model, precision)
    assert tokens(generate(model, precision)) == tokens(replayed)  # graphs of the first call
    monkeypatch.setattr(Room, "_record", lambda self, step: type("Played", (), {"replay": staticmethod(step)}))
    alone = generate(copy.deepcopy(model), precision)
    assert tokens(alone) == tokens(replayed)
    assert [s.logp for s in alone] == [pytest.approx(s.logp, abs=1e-5) for s in replayed]


@pytest.mark.parametrize("kind", KINDS)
def test_recorded_log_probabilities_are_the_learners_and_follow_the_weights(kind, small_causal):
    model = small_causal(kind, hidden_size=64, tie_word_embeddings=False).to("cuda")
    for _ in range(2):
        samples = generate(model, "bf16")
        rows = [(PROMPTS[s.i_request], s) for s in samples]
        batch = collate([((*p, *s.token_ids), [False] * len(p) + [True] * len(s.token_ids)) for p, s in rows])
        there = [x.cuda() for x in (batch.token_BT, batch.length_B, batch.mask_BT)]
        recorded = torch.tensor([x for s in samples for x in s.logp])
        found = {}
        for enabled in (True, False):
            with torch.no_grad(), torch.autocast("cuda", torch.bfloat16, enabled=enabled):
                found[enabled] = model.logp(*there)[0].cpu()[batch.mask_BT]
        assert (recorded - found[True]).abs().mean() < (found[True] - found[False]).abs().mean() < 0.1
        with torch.no_grad():
            for p in model.parameters():
                p.mul_(0.9)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_an_update_on_the_card_is_that_of_the_processor(precision, small_causal):
    rows = [(list(range(5, 5 + n)), [False] + [True] * (n - 1)) for n in (12, 40, 7, 40)]
    batch, losses = collate(rows), {}
    for device in ("cpu", "cuda"):
        model = small_causal(hidden_size=64).to(device)
        compute = ComputeConfig(precision=precision, microbatch_tokens=60)
        learner = language_learner(model, optim=OptimConfig(lr=1e-2, warmup_steps=0), compute=compute, total_steps=5)
        losses[device] = [learner.step([Term(batch, torch.arange(4), mean_nll(batch))])["loss"] for _ in range(5)]
    assert losses["cuda"][-1] < 0.9 * losses["cuda"][0]
    assert losses["cuda"] == pytest.approx(losses["cpu"], rel=1e-3 if precision == "fp32" else 3e-2)
