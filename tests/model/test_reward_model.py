"""The reward model: the score stands at the last token, survives padding, company and the disk, and cannot be swapped.

B rows, T tokens, A aspects.
"""

import json
import math

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import AutoConfig, AutoModel, PreTrainedTokenizerFast

from tutelage.data.batch import collate
from tutelage.errors import CorruptError, DataError, ModelError
from tutelage.model.checkpoint import save_causal
from tutelage.model.reward_model import HEAD, Probe, RewardModel, load_reward, new_reward_model, save_reward
from tutelage.publish import MANIFEST, sha256_file

ANSWERS = ["Yes, until eight.", "No.", "The kettle is on the blue shelf.", "Of course. Which day suits you?"]


FORMS = [
    {}, {"read": "answer"}, {"weigh": "prompt"}, {"read": "answer", "weigh": "prompt"}, {"n_cells": 512},
    {"read": "answer", "weigh": "prompt", "n_cells": 512},
]  # fmt: skip


@pytest.fixture
def moved(small_causal, small_chat):
    """Makes a reward model of a form, with no head or gate that stands at 0."""

    def make(**form):
        model = RewardModel(small_causal(), small_chat, aspects={"helpful": 0.5, "kind": 0.5}, seed=3, **form)
        g = torch.Generator().manual_seed(5)
        with torch.no_grad():
            for layer in filter(None, (model.head, model.gate)):
                layer.weight.normal_(0, 0.3, generator=g)
                layer.bias.normal_(0, 0.3, generator=g)
            if model.ngram_weight is not None:
                model.ngram_weight.normal_(0, 0.3, generator=g)
        return model

    return make


@pytest.fixture
def reward(small_causal, small_chat):
    return RewardModel(small_causal(), small_chat, seed=3)


@torch.no_grad()
def scores(model, prompts, texts):
    return model.combine(model.heads(*spread(collate([model.row(p, t) for p, t in zip(prompts, texts, strict=True)]))))


def spread(batch):
    return batch.token_BT, batch.length_B, batch.mask_BT


@torch.no_grad()
@pytest.mark.parametrize("n_padding", [0, 5, 50])
@pytest.mark.parametrize("fill", [0, 319])
@pytest.mark.parametrize("form", FORMS)
def test_right_padding_does_not_change_a_score(moved, ask, n_padding, fill, form):
    reward = moved(**form)
    ids, own = reward.row(ask("Is the pool open?"), ANSWERS[0])
    bare = reward.combine(reward.heads(torch.tensor([ids]), torch.tensor([len(ids)]), torch.tensor([own])))
    token_BT, mask_BT = torch.tensor([ids + [fill] * n_padding]), torch.tensor([own + [False] * n_padding])
    padded = reward.combine(reward.heads(token_BT, torch.tensor([len(ids)]), mask_BT))
    torch.testing.assert_close(padded, bare, atol=1e-5, rtol=0)


@pytest.mark.parametrize("form", FORMS)
def test_batch_mates_do_not_change_a_score_for_k_completions(moved, ask, form):
    reward, prompt = moved(**form), ask("Is the pool open?")
    together = scores(reward, [prompt] * 4, ANSWERS)
    alone = torch.cat([scores(reward, [prompt], [t]) for t in ANSWERS])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)
    assert len({round(s, 4) for s in alone.tolist()}) == 4


@torch.no_grad()
def test_the_score_is_read_at_the_end_token(reward, ask):
    ids, own = reward.row(ask("Is the pool open?"), ANSWERS[0])
    assert (
        ids[-1] == reward.chat.end_id
        and reward.chat.text([i for i, a in zip(ids, own, strict=True) if a]) == ANSWERS[0]
    )
    hidden_TD = reward.backbone.hf.base_model(input_ids=torch.tensor([ids]), layout=packed(len(ids)))[0][0]
    expected = hidden_TD[-1] @ reward.head.weight[0] + reward.head.bias[0]
    torch.testing.assert_close(scores(reward, [ask("Is the pool open?")], ANSWERS[:1])[0], expected, atol=1e-5, rtol=0)
    cut = reward.row(ask("Is the pool open?"), ANSWERS[0], finished=False)
    assert cut == (ids[:-1], own[:-1])


@torch.no_grad()
def test_an_answer_is_read_off_all_of_its_tokens_and_weighed_by_its_prompt(moved, ask):
    reward = moved(read="answer", weigh="prompt")
    ids, own = reward.row(ask("Is the pool open?"), ANSWERS[2])
    hidden_TD = reward.backbone.hf.base_model(input_ids=torch.tensor([ids]), layout=packed(len(ids)))[0][0]
    n = sum(own)
    raw_A = reward.head(hidden_TD[-n:].sum(0) / math.sqrt(n))
    logit_A = reward.gate(hidden_TD[:-n].mean(0))
    assert (raw_A[0] - raw_A[1]).abs() > 0.01 and (logit_A[0] - logit_A[1]).abs() > 0.01
    expected = raw_A[logit_A.argmax()]
    torch.testing.assert_close(scores(reward, [ask("Is the pool open?")], [ANSWERS[2]])[0], expected, atol=1e-5, rtol=0)


@torch.no_grad()
def test_n_grams_of_the_answer_join_the_score_and_those_of_the_prompt_do_not(moved, ask):
    reward, prompt = moved(n_cells=512), ask("No. No. Is the pool open? No.")
    with_them = scores(reward, [prompt] * 2, ["No.", "No. No."])
    found = [reward.ngrams(*(torch.tensor([x]) for x in reward.row(prompt, t))) for t in ("No.", "No. No.")]
    words = torch.stack([n.scores(reward.ngram_weight)[0].mean() for n in found])
    reward.ngram_weight.zero_()
    torch.testing.assert_close(with_them - scores(reward, [prompt] * 2, ["No.", "No. No."]), words, atol=1e-5, rtol=0)
    assert words.abs().min() > 1e-3 and (words[0] - words[1]).abs() > 1e-3


@pytest.mark.parametrize("form", FORMS)
def test_every_form_comes_back_from_disk(moved, ask, tmp_path, form):
    model, prompt = moved(**form), ask("Is the pool open?")
    save(model, tmp_path / "rm", ask)
    loaded, _ = load_reward(tmp_path / "rm")
    assert (loaded.read, loaded.weigh, loaded.n_cells) == (model.read, model.weigh, model.n_cells)
    assert torch.equal(scores(loaded, [prompt] * 4, ANSWERS), scores(model, [prompt] * 4, ANSWERS))


def test_a_head_that_reads_whole_answers_starts_without_a_taste_for_length(small_causal, small_chat, ask):
    fresh = RewardModel(small_causal(), small_chat, read="answer", weigh="prompt", aspects={"a": 0.5, "b": 0.5})
    assert scores(fresh, [ask("Is the pool open?")] * 4, ANSWERS).eq(0).all()


def packed(n):
    from tutelage.model.attention import Packed

    return Packed([n])


def test_swapping_two_prompts_changes_the_scores_of_equal_answers(reward, ask):
    one, two = ask("Is the pool open?"), ask("Where is the kettle?")
    straight, swapped = scores(reward, [one, two], ["Yes."] * 2), scores(reward, [two, one], ["Yes."] * 2)
    torch.testing.assert_close(straight, swapped.flip(0), atol=1e-5, rtol=0)
    assert (straight - swapped).abs().min() > 1e-3


def test_the_head_starts_with_spread_one_over_root_of_width_plus_one(small_causal, small_chat):
    wide = RewardModel(
        small_causal(hidden_size=768, num_hidden_layers=1), small_chat, aspects=dict.fromkeys("abcdefgh", 1)
    )
    n = wide.head.weight.numel()
    assert 1 / math.sqrt(769) == pytest.approx(0.03606, abs=1e-5)
    assert wide.head.weight.std().item() == pytest.approx(0.03606, abs=4 * 0.03606 / math.sqrt(2 * n))
    assert abs(wide.head.weight.mean().item()) < 4 * 0.03606 / math.sqrt(n)
    assert wide.head.bias.eq(0).all()


def test_the_head_is_a_function_of_its_seed(small_causal, small_chat):
    one, same, other = (RewardModel(small_causal(), small_chat, seed=s).head.weight for s in (3, 3, 4))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_aspects_are_weighted_into_one_score(small_causal, small_chat):
    model = RewardModel(small_causal(), small_chat, aspects={"helpful": 1.0, "kind": -0.5})
    model.normalise(mean=0.5, std=2.0)
    # (3 - 0.5 * 2 - 0.5) / 2 = 0.75
    assert model.combine(torch.tensor([[3.0, 2.0]])).tolist() == [0.75]


def test_the_aspect_that_the_gate_finds_likelier_is_the_score(moved):
    model = moved(weigh="prompt")
    model.normalise(mean=0.5, std=2.0)
    # Aspect 0 by 2 > 1: (3 - 0.5) / 2; aspect 1 by -1 > -4: (7 - 0.5) / 2.
    assert model.combine(torch.tensor([[3.0, 7.0, 2.0, 1.0], [3.0, 7.0, -4.0, -1.0]])).tolist() == [1.25, 3.25]


def test_normalising_twice_is_normalising_once_to_the_last():
    raw = torch.tensor([[-5.0], [-6.5], [-7.1], [2.0]])
    model = RewardModel(_Width(), None)
    model.normalise(3.0, 0.5)  # of other answers, some rounds ago
    for _ in range(2):
        score = model.combine(raw)
        model.normalise(score.mean().item(), score.std(correction=0).item())
        assert abs(model.combine(raw).mean().item()) < 1e-6
        assert abs(model.combine(raw).std(correction=0).item() - 1) < 1e-6
    model.normalise(1.0, None)
    assert model.combine(raw).mean().item() == pytest.approx(-1.0, abs=1e-6)


class _Width(torch.nn.Module):
    width, device = 4, torch.device("cpu")


def save(model, folder, ask, texts=ANSWERS):
    prompt = ask("Is the pool open?")
    probes = [
        Probe(prompt, t, s) for t, s in zip(texts, scores(model, [prompt] * len(texts), texts).tolist(), strict=True)
    ]
    save_reward(folder, model, lineage={"parent": "sft-1"}, card={"accuracy": 0.7}, probes=probes)
    return prompt


def test_mean_0_and_spread_1_survive_the_disk(reward, ask, tmp_path):
    prompt = ask("Is the pool open?")
    raw = scores(reward, [prompt] * 4, ANSWERS)
    reward.normalise(raw.mean().item(), raw.std(correction=0).item())
    save(reward, tmp_path / "rm", ask)
    loaded, card = load_reward(tmp_path / "rm")
    assert card == {"accuracy": 0.7}
    again = scores(loaded, [prompt] * 4, ANSWERS)
    assert abs(again.mean().item()) < 1e-6
    assert abs(again.std(correction=0).item() - 1) < 1e-6
    assert torch.equal(again, scores(reward, [prompt] * 4, ANSWERS))
    assert loaded.log_tie.item() == reward.log_tie.item()


def test_a_folder_without_a_head_is_refused(reward, small_chat, ask, tmp_path):
    save_causal(tmp_path / "lm", reward.backbone, small_chat, {})
    with pytest.raises(ModelError, match=f"there is no {HEAD}, so this folder holds a language model"):
        load_reward(tmp_path / "lm")
    with pytest.raises(ModelError, match="no such reward model folder"):
        load_reward(tmp_path / "none")


def reseal(folder):
    """Makes the manifest true again, as somebody would who edits a folder on purpose."""
    listed = json.loads((folder / MANIFEST).read_text())
    for name in listed["files"]:
        listed["files"][name] = {"bytes": (folder / name).stat().st_size, "sha256": sha256_file(folder / name)}
    (folder / MANIFEST).write_text(json.dumps(listed))


@pytest.mark.parametrize("tensor", ["head.weight", "head.bias", "gain", "shift"])
def test_a_changed_head_is_found_by_the_manifest_and_then_by_the_probes(reward, ask, tmp_path, tensor):
    folder = tmp_path / "rm"
    save(reward, folder, ask)
    own = load_file(folder / HEAD)
    own[tensor] = own[tensor] + 0.1
    save_file(own, folder / HEAD)
    with pytest.raises(CorruptError, match=f"{HEAD} differs"):
        load_reward(folder)
    reseal(folder)
    with pytest.raises(ModelError, match="a probe that scored"):
        load_reward(folder)


def test_a_changed_template_is_found_by_the_probes(reward, ask, tmp_path):
    folder = tmp_path / "rm"
    save(reward, folder, ask)
    template = folder / "chat_template.jinja"
    template.write_text(template.read_text().replace("'<|end|>'", "' <|end|>'"))
    reseal(folder)
    with pytest.raises(ModelError, match="a probe that scored"):
        load_reward(folder)


def test_a_head_of_another_shape_or_none_is_refused(reward, ask, tmp_path):
    folder = tmp_path / "rm"
    save(reward, folder, ask)
    own = load_file(folder / HEAD)
    save_file({**own, "head.weight": torch.zeros(2, 32)}, folder / HEAD)
    reseal(folder)
    with pytest.raises(ModelError, match=r"head.weight': \(2, 32\)"):
        load_reward(folder)
    del own["head.weight"]
    save_file(own, folder / HEAD)
    reseal(folder)
    with pytest.raises(ModelError, match="but the backbone and the aspects need"):
        load_reward(folder)


def test_a_text_longer_than_the_window_is_refused_and_never_cut(reward, ask):
    with pytest.raises(DataError, match="more than the reward model's window of 96"):
        reward.row(ask("Is the pool open?"), "yes " * 100)


@pytest.fixture(params=["bert", "roberta"])
def encoder_folder(request, tmp_path):
    """A 2-layer encoder with a tokenizer of its family: WordPiece and [CLS], or BPE and <s>."""
    lines = ["Is the pool open today? Yes, until eight.", "user: Where is the kettle? On the blue shelf. No."] * 3
    is_bert = request.param == "bert"
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"] if is_bert else ["<s>", "<pad>", "</s>", "<unk>"]
    first, end, pad, unknown = ("[CLS]", "[SEP]", "[PAD]", "[UNK]") if is_bert else ("<s>", "</s>", "<pad>", "<unk>")
    if is_bert:
        backend = Tokenizer(models.WordPiece(unk_token=unknown))
        backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        trainer = trainers.WordPieceTrainer(vocab_size=120, special_tokens=special, show_progress=False)
    else:
        backend = Tokenizer(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(
            vocab_size=300, special_tokens=special, initial_alphabet=alphabet, show_progress=False
        )
    backend.train_from_iterator(lines, trainer)
    joint = f"{end} $B:1 {end}:1" if is_bert else f"{end} {end} $B {end}"
    backend.post_processor = processors.TemplateProcessing(
        single=f"{first} $A {end}",
        pair=f"{first} $A {joint}",
        special_tokens=[(t, backend.token_to_id(t)) for t in (first, end)],
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, cls_token=first, sep_token=end, pad_token=pad, unk_token=unknown
    )
    config = AutoConfig.for_model(
        request.param, vocab_size=320, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=66, pad_token_id=tokenizer.pad_token_id, hidden_dropout_prob=0.5,
        attention_probs_dropout_prob=0.5,
    )  # fmt: skip
    torch.manual_seed(0)
    folder = tmp_path / "encoder"
    encoder = AutoModel.from_config(config)
    for p in encoder.parameters():
        p.data.add_(torch.randn_like(p), alpha=0.25)
    encoder.save_pretrained(folder)
    tokenizer.save_pretrained(str(folder))
    return folder


def test_an_encoder_scores_whatever_pads_and_stands_beside(encoder_folder, ask):
    model = new_reward_model(str(encoder_folder), "encoder", aspects=None, seed=0)
    prompt = ask("Is the pool open?")
    ids, own = model.row(prompt, ANSWERS[0])
    assert own == [False] * (len(ids) - sum(own) - 1) + [True] * sum(own) + [False]  # the last is the separator
    spelled = model.backbone.tokenizer.decode([i for i, a in zip(ids, own, strict=True) if a])
    assert "".join(ANSWERS[0].split()) in "".join(spelled.replace("Ġ", " ").split())
    assert ids[0] == model.backbone.tokenizer.cls_token_id
    assert ids[-1] == model.backbone.tokenizer.sep_token_id
    together = scores(model, [prompt] * 4, ANSWERS)
    alone = torch.cat([scores(model, [prompt], [t]) for t in ANSWERS])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)
    assert len({round(s, 4) for s in alone.tolist()}) == 4
    swapped = scores(model, [ask("Where is the kettle?")], ANSWERS[:1])
    assert (swapped - alone[:1]).abs().item() > 1e-4


def test_an_encoder_learns_in_a_step_and_comes_back_from_disk(encoder_folder, ask, tmp_path):
    model = new_reward_model(str(encoder_folder), "encoder", aspects=None, seed=0)
    prompt = ask("Is the pool open?")
    batch = collate([model.row(prompt, t) for t in ANSWERS[:2]])
    optimiser = torch.optim.SGD(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(2):
        better, worse = model.combine(model.heads(*spread(batch)))
        loss = -torch.nn.functional.logsigmoid(better - worse)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[0] > losses[1]
    save(model, tmp_path / "rm", ask)
    loaded, _ = load_reward(tmp_path / "rm")
    assert torch.equal(scores(loaded, [prompt] * 4, ANSWERS), scores(model, [prompt] * 4, ANSWERS))


def test_an_encoder_refuses_what_its_positions_cannot_hold(encoder_folder, ask):
    model = new_reward_model(str(encoder_folder), "encoder", aspects=None, seed=0)
    long = next(t for n in range(200) if len(model.backbone.row(ask("a"), t := "yes " * n)[0]) > 64)
    with pytest.raises(DataError, match="window of 64"):
        model.row(ask("a"), long)
    fits = next(t for n in range(200, 0, -1) if len(model.backbone.row(ask("a"), t := "yes " * n)[0]) <= 64)
    assert scores(model, [ask("a")], [fits]).isfinite().all()


def test_a_folder_that_is_no_encoder_says_so(encoder_folder, tmp_path):
    (encoder_folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"no \.safetensors file"):
        new_reward_model(str(encoder_folder), "encoder", aspects=None, seed=0)
    with pytest.raises(ModelError, match="no such model folder"):
        new_reward_model(str(tmp_path / "none"), "encoder", aspects=None, seed=0)
