"""Scores of texts by one reward model or several: by hand, and whatever the batch."""

import copy

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers

from tutelage.errors import DataError
from tutelage.model.causal import CausalModel
from tutelage.model.chat import Chat, turns_tokenizer
from tutelage.model.load import new_llama
from tutelage.model.reward_model import Probe, RewardModel, save_reward
from tutelage.model.tokenizer import SPECIAL
from tutelage.reward.scorer import Scorer, combine
from tutelage.types import Message, Prompt

WORDS = ("ant", "bee", "cat", "dog")


def ask(text):
    return Prompt(messages=(Message(role="user", content=text),))


def member(*, words=WORDS, seed=0, window=24, weights=None):
    """A small reward model with a tokenizer that numbers the words in this order."""
    backend = Tokenizer(models.WordLevel({w: i for i, w in enumerate([*SPECIAL, *words])}, unk_token="<|pad|>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.add_special_tokens(SPECIAL)
    chat = Chat(turns_tokenizer(backend), window=window)
    n = len(SPECIAL) + len(words)
    trunk = new_llama(vocabulary=n, width=16, layers=2, heads=2, window=window, eos_id=chat.end_id, seed=seed)
    model = RewardModel(trunk, chat, aspects=weights, seed=seed)
    with torch.no_grad():
        model.head.weight.mul_(10)  # so that scores of a fresh model differ visibly
    return model


PROMPTS = [ask("ant"), ask("bee cat"), ask("dog dog dog"), ask("cat")]
TEXTS = ["bee", "cat dog ant bee cat", "", "dog dog"]


@pytest.mark.parametrize(
    ("mode", "score"),
    [("mean", 2.0), ("worst", 1.0), ("uncertainty", 2 - 0.5 * 2 / 3)],  # the population's variance of 1, 2, 3 is 2 / 3
)
def test_members_are_joined_by_hand(mode, score):
    assert combine(torch.tensor([[1.0, 2.0, 3.0]]), mode).item() == pytest.approx(score)
    assert combine(torch.tensor([[1.0, 2.0, 3.0]]), "uncertainty", penalty=0.5).item() == pytest.approx(1.666667)


@pytest.mark.parametrize("mode", ["mean", "worst", "uncertainty"])
def test_one_member_or_agreeing_ones_are_the_score_itself(mode):
    score_B = torch.tensor([1.5, -2.0])
    torch.testing.assert_close(combine(score_B[:, None], mode), score_B)
    torch.testing.assert_close(combine(score_B[:, None].expand(-1, 3), mode), score_B)


def test_disagreement_costs_and_the_order_of_members_does_not_matter():
    score_BE = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    for mode in ("worst", "uncertainty"):
        assert (combine(score_BE, mode) < combine(score_BE, "mean")).all()
        torch.testing.assert_close(combine(score_BE, mode), combine(score_BE.flip(1), mode))


def test_scores_are_those_of_each_text_alone_in_its_place():
    model = member()
    together = Scorer([model])(PROMPTS, TEXTS)
    alone = torch.stack([Scorer([model])([p], [t])[0] for p, t in zip(PROMPTS, TEXTS, strict=True)])
    cut = Scorer([model], batch_tokens=1)(PROMPTS, TEXTS)
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)
    torch.testing.assert_close(together, cut, atol=1e-5, rtol=0)
    assert together.std() > 0.1 and not together.requires_grad and together.dtype == torch.float32


def test_the_prompt_matters():
    score_B = Scorer([member()])([ask("ant"), ask("dog cat")], ["bee", "bee"])
    assert (score_B[0] - score_B[1]).abs() > 1e-3


def test_each_member_reads_with_its_own_tokenizer():
    # The second numbers the words backwards: the same text is other ids to it.
    a, b = member(), member(words=WORDS[::-1])
    assert a.row(PROMPTS[1], "cat") != b.row(PROMPTS[1], "cat")
    both_BE = Scorer([a, b]).by_member(PROMPTS, TEXTS)
    torch.testing.assert_close(both_BE[:, 0], Scorer([a])(PROMPTS, TEXTS))
    torch.testing.assert_close(both_BE[:, 1], Scorer([b])(PROMPTS, TEXTS))
    mirrored = [ask(" ".join(WORDS[3 - WORDS.index(w)] for w in p.messages[0].content.split())) for p in PROMPTS]
    mirrored_texts = [" ".join(WORDS[3 - WORDS.index(w)] for w in t.split()) for t in TEXTS]
    torch.testing.assert_close(Scorer([a])(PROMPTS, TEXTS), Scorer([b])(mirrored, mirrored_texts))


def test_the_mode_joins_the_members():
    members = [member(seed=i) for i in range(3)]
    by_member = Scorer(members).by_member(PROMPTS, TEXTS)
    for mode in ("mean", "worst", "uncertainty"):
        torch.testing.assert_close(Scorer(members, mode=mode)(PROMPTS, TEXTS), combine(by_member, mode))


def test_normalisation_and_aspect_weights_are_in_the_score():
    model = member(weights={"helpful": 2.0, "brief": -1.0})
    plain = Scorer([model])(PROMPTS, TEXTS)
    rows = map(model.row, PROMPTS, TEXTS)
    raw = torch.stack(
        [model.heads(torch.tensor([ids]), torch.tensor([len(ids)]), torch.tensor([own]))[0] for ids, own in rows]
    )
    torch.testing.assert_close(plain, (2 * raw[:, 0] - raw[:, 1]).detach(), atol=1e-5, rtol=1e-5)
    model.normalise(float(plain.mean()), float(plain.std(unbiased=False)))
    normal = Scorer([model])(PROMPTS, TEXTS)
    assert normal.mean().item() == pytest.approx(0, abs=1e-5)
    assert normal.std(unbiased=False).item() == pytest.approx(1, abs=1e-4)


def test_bf16_is_near_and_changes_no_weight():
    model = member()
    before = copy.deepcopy(model.state_dict())
    low = Scorer([model], precision="bf16")(PROMPTS, TEXTS)
    high = Scorer([model])(PROMPTS, TEXTS)
    assert low.dtype == torch.float32
    assert (low - high).abs().max() < 0.1 * high.std() + 0.05
    assert all(torch.equal(model.state_dict()[k], v) for k, v in before.items())


def test_a_text_beyond_the_window_is_refused():
    with pytest.raises(DataError, match="window of 24"):
        Scorer([member()])([PROMPTS[0]], [" ".join(["cat"] * 40)])


def test_saved_members_score_alike(tmp_path):
    members = [member(seed=i) for i in range(2)]
    expected = Scorer(members, mode="worst")(PROMPTS, TEXTS)
    for i, m in enumerate(members):
        probe = Probe(PROMPTS[0], TEXTS[0], float(Scorer([m])(PROMPTS[:1], TEXTS[:1])[0]))
        save_reward(tmp_path / str(i), m, lineage={}, card={}, probes=[probe])
    loaded = Scorer.load([tmp_path / "0", tmp_path / "1"], mode="worst")
    torch.testing.assert_close(loaded(PROMPTS, TEXTS), expected, atol=1e-5, rtol=0)


def test_an_ensemble_of_none_is_a_mistake_of_ours():
    with pytest.raises(AssertionError, match="at least one member"):
        Scorer([])


def test_a_prompt_is_read_once_for_answers_that_stand_apart_and_the_scores_stay_what_they_are(monkeypatch):
    model, prompt = member(window=60), ask("ant bee cat dog " * 6)
    prompts = [prompt, ask("bee"), prompt, ask("cat cat"), prompt]
    texts = ["bee", "dog", "ant cat", "bee", "dog dog dog"]
    alone = [float(Scorer([model])([p], [t])) for p, t in zip(prompts, texts, strict=True)]
    read = []
    hidden = CausalModel.hidden
    monkeypatch.setattr(
        CausalModel, "hidden", lambda self, token_N, *a: (read.append(len(token_N)), hidden(self, token_N, *a))[1]
    )
    lengths = [len(model.row(p, t)[0]) for p, t in zip(prompts, texts, strict=True)]
    score_B = Scorer([model], batch_tokens=max(lengths) + 8)([*prompts], [*texts])
    assert score_B.tolist() == pytest.approx(alone, abs=1e-5) and len(set(alone)) == 5
    assert sum(read) < sum(lengths) - 2 * 20  # the long prompt's tokens, two times less
