"""A backbone that reads what was compared: it learns the texts, whoever won, and nothing else of the model moves."""

import pytest
import torch

from tutelage.data.comparisons import ranked_rows
from tutelage.errors import ConfigError
from tutelage.model.reward_model import RewardModel
from tutelage.train.learner import ComputeConfig
from tutelage.train.optim import OptimConfig
from tutelage.train.transcripts import BATCH, read_transcripts
from tutelage.types import Message, Prompt, RankedGroup


def ranked(chat, model, n=10, *, tiers=(1, 2, 3)):
    words = ["ant", "bee", "cat", "dog", "elk", "fox"]
    groups = [
        RankedGroup(
            prompt=Prompt(messages=(Message(role="user", content=f"{words[i % 6]} {words[(i + 1) % 6]}"),)),
            texts=tuple(f"{words[(i + j) % 6]} gnu hen" for j in range(3)),
            tiers=tiers,
        )
        for i in range(n)
    ]
    return ranked_rows(groups, model.row)[0]


def read(model, rows, *, epochs=1, seed=0, lr=5e-3):
    told = []
    read_transcripts(
        model, rows, epochs=epochs, optim=OptimConfig(lr=lr, warmup_steps=0), compute=ComputeConfig(), seed=seed,
        log=lambda step, row: told.append((step, row["loss"])),
    )  # fmt: skip
    return told


def test_every_conversation_is_read_as_often_as_asked_and_is_learned(speaker_copy, chat):
    model = RewardModel(speaker_copy(), chat, read="answer")
    rows = ranked(chat, model, 40)
    told = read(model, rows, epochs=6)
    assert [step for step, _ in told] == list(range(6 * -(-120 // BATCH)))
    assert told[-1][1] < 0.7 * told[0][1]


def test_the_first_loss_is_the_mean_over_all_tokens_but_the_first(speaker_copy, chat):
    model = RewardModel(speaker_copy(), chat)
    rows = ranked(chat, model, 4)
    with torch.no_grad():
        expected, n = 0.0, 0
        for ids, _ in (answer for r in rows for answer in r.answers):
            token_1T, length = torch.tensor([ids]), torch.tensor([len(ids)])
            mask_1T = torch.ones_like(token_1T, dtype=torch.bool)
            mask_1T[:, 0] = False
            expected -= float(model.backbone.logp(token_1T, length, mask_1T, with_entropy=False)[0].sum())
            n += len(ids) - 1
    assert read(model, rows)[0][1] == pytest.approx(expected / n, rel=1e-4)


def test_the_heads_stay_and_no_preference_is_used(speaker_copy, chat):
    found = []
    for tiers in ((1, 2, 3), (3, 2, 1)):
        model = RewardModel(
            speaker_copy(), chat, read="answer", n_cells=64, aspects={"a": 0.5, "b": 0.5}, weigh="prompt"
        )
        before = {k: v.clone() for k, v in model.state_dict().items() if not k.startswith("backbone.")}
        read(model, ranked(chat, model, tiers=tiers))
        assert all(torch.equal(v, model.state_dict()[k]) for k, v in before.items())
        found.append(model.backbone.state_dict())
    assert all(torch.equal(found[0][k], found[1][k]) for k in found[0])
    fresh = speaker_copy().state_dict()
    assert not all(torch.equal(found[0][k], fresh[k]) for k in fresh)


def test_an_encoder_is_refused(chat):
    class Encoder(torch.nn.Module):
        width, device = 4, torch.device("cpu")

    with pytest.raises(ConfigError, match="predicts no next token"):
        read(RewardModel(Encoder(), None), [])
