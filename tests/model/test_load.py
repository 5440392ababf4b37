"""Folders of the kinds that `transformers` writes open and compute what they did; folders that cannot serve say why."""

import json

import pytest
import torch
from transformers import AutoModel, AutoModelForCausalLM

from tutelage.errors import ModelError
from tutelage.model.attention import Packed
from tutelage.model.load import load_causal, load_tokenizer, new_llama

KINDS = ["llama", "mistral", "qwen2", "qwen3", "gpt2", "gpt_neox"]
DROPOUTS = {
    "llama": {"attention_dropout": 0.5},
    "gpt2": {"resid_pdrop": 0.5, "embd_pdrop": 0.5, "attn_pdrop": 0.5},
    "gpt_neox": {"attention_dropout": 0.5, "hidden_dropout": 0.5},
}


def edit(path, **changes):
    settings = json.loads(path.read_text())
    for key, value in changes.items():
        settings.pop(key, None)
        if value is not None:
            settings[key] = value
    path.write_text(json.dumps(settings))


def logits(model, token_T):
    packed = Packed([len(token_T)])
    return model.logits(token_T, packed.position_N, torch.arange(len(token_T)), packed)


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_a_loaded_folder_computes_what_transformers_computes(kind, small_folder):
    folder = small_folder(kind)
    model, chat = load_causal(str(folder))
    token_T = torch.arange(5, 25)
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    torch.testing.assert_close(logits(model, token_T), plain(token_T[None]).logits[0], atol=1e-5, rtol=1e-5)
    assert (model.vocabulary, model.width, chat.window, chat.end_id) == (336, 32, 96, 1)


@pytest.mark.parametrize("kind", DROPOUTS)
def test_every_dropout_is_zero_after_loading(kind, small_folder):
    model, _ = load_causal(str(small_folder(kind, **DROPOUTS[kind])))
    assert all(m.p == 0 for m in model.modules() if isinstance(m, torch.nn.Dropout))
    for module in model.modules():
        module.training = True  # even if somebody switched it on
    with torch.no_grad():
        assert torch.equal(logits(model, torch.arange(5, 15)), logits(model, torch.arange(5, 15)))


def test_half_precision_folders_are_opened_in_float32(small_hf, small_tokenizer, tmp_path):
    small_hf().bfloat16().save_pretrained(tmp_path)
    small_tokenizer.save_pretrained(str(tmp_path))
    model, _ = load_causal(str(tmp_path))
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_a_sliding_window_shorter_than_the_context_lowers_the_window(small_folder):
    assert load_causal(str(small_folder("mistral", sliding_window=24)))[1].window == 24
    assert load_causal(str(small_folder("mistral", sliding_window=512, name="long")))[1].window == 96
    used = {"sliding_window": 24, "max_window_layers": 0}
    assert load_causal(str(small_folder("qwen2", use_sliding_window=True, name="on", **used)))[1].window == 24
    assert load_causal(str(small_folder("qwen2", use_sliding_window=False, name="off", **used)))[1].window == 96


@torch.no_grad()
def test_within_a_sliding_window_the_logits_are_those_of_transformers(small_folder):
    folder = small_folder("mistral", sliding_window=24)
    model, _ = load_causal(str(folder))
    plain = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
    token_T = torch.arange(5, 29)
    torch.testing.assert_close(logits(model, token_T), plain(token_T[None]).logits[0], atol=1e-5, rtol=1e-5)


def remote_code(folder):
    edit(folder / "config.json", auto_map={"AutoModelForCausalLM": "evil.Model"})
    (folder / "evil.py").write_text("raise SystemExit('ran foreign code')")


def pickled(folder):
    weights = folder / "model.safetensors"
    torch.save({"x": torch.zeros(1)}, folder / "pytorch_model.bin")
    weights.unlink()


def cut_weights(folder):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])


def lost_weight(folder):
    from safetensors.torch import load_file, save_file

    state = load_file(folder / "model.safetensors")
    del state["model.layers.1.mlp.up_proj.weight"]
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


REFUSED = {
    "remote code": (remote_code, "'auto_map' asks to run code"),
    "pickled": (pickled, "no .safetensors file"),
    "no config": (lambda f: (f / "config.json").unlink(), "no config.json"),
    "broken config": (lambda f: (f / "config.json").write_text("{"), "not valid JSON"),
    "no end token": (lambda f: edit(f / "tokenizer_config.json", eos_token=None), "no end token"),
    "no tokenizer": (lambda f: [p.unlink() for p in f.glob("tokenizer*")], "tokenizer could not be read|no end token"),
    "unknown kind": (lambda f: edit(f / "config.json", model_type="martian"), "martian"),
    "cut weights": (cut_weights, "could not be opened"),
    "lost weight": (lost_weight, "weights are missing, 'model.layers.1.mlp.up_proj.weight'"),
    "other width": (lambda f: edit(f / "config.json", intermediate_size=64), "could not be opened"),
    "swallows the answer": (
        lambda f: (f / "chat_template.jinja").write_text("{{ messages[0].content }}"),
        "yields no trainable token",
    ),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_a_folder_that_cannot_serve_is_refused_with_its_name_and_the_reason(reason, small_folder):
    folder = small_folder()
    spoil, words = REFUSED[reason]
    spoil(folder)
    with pytest.raises(ModelError, match=words) as error:
        load_causal(str(folder))
    assert str(folder) in str(error.value)


def test_a_tokenizer_larger_than_the_vocabulary_is_refused(small_folder):
    with pytest.raises(ModelError, match="knows 320 tokens, but the model only 300"):
        load_causal(str(small_folder(vocab_size=300)))


def test_a_folder_that_is_not_there_is_not_looked_for_on_the_hub(tmp_path):
    with pytest.raises(ModelError, match="no such model folder"):
        load_causal(str(tmp_path / "none"))
    with pytest.raises(ModelError, match="no such model folder"):
        load_tokenizer("./none")


@pytest.mark.parametrize("kind", ["phi", "gemma"])
def test_other_kinds_are_checked_when_loaded_and_serve(kind, small_hf, small_tokenizer, tmp_path):
    small_hf(kind, **({"head_dim": 8, "num_key_value_heads": 1} if kind == "gemma" else {})).save_pretrained(tmp_path)
    small_tokenizer.save_pretrained(str(tmp_path))
    model, _ = load_causal(str(tmp_path))
    assert model.hf.config._attn_implementation == "tutelage"


STRANGE = {
    # ALiBi from an attention mask that we do not give.
    "bloom": ({"hidden_size": 32, "n_layer": 2, "n_head": 4}, "something else under packed attention"),
    # A state that runs on from row to row.
    "mamba": ({"hidden_size": 32, "num_hidden_layers": 2, "state_size": 4}, "something else under packed attention"),
    # Does not hand the layout on.
    "stablelm": ({}, "rows would mix"),
    # Soft caps.
    "gemma2": ({"head_dim": 8, "num_key_value_heads": 2}, "caps its attention"),
}


@pytest.mark.parametrize("kind", STRANGE)
@pytest.mark.filterwarnings("ignore")  # mamba asks for its kernels
def test_kinds_that_mix_neighbouring_rows_are_refused(kind, small_hf, small_tokenizer, tmp_path):
    settings, words = STRANGE[kind]
    small_hf(kind, **settings).save_pretrained(tmp_path)
    small_tokenizer.save_pretrained(str(tmp_path))
    with pytest.raises(ModelError, match=words):
        load_causal(str(tmp_path))


def test_a_folder_without_a_language_head_is_refused(small_hf, small_tokenizer, tmp_path):
    AutoModel.from_config(small_hf().config).save_pretrained(tmp_path)
    small_tokenizer.save_pretrained(str(tmp_path))
    with pytest.raises(ModelError, match=r"1 weights are missing, 'lm_head.weight'"):
        load_causal(str(tmp_path))


def test_a_new_llama_is_a_function_of_its_seed_and_its_head_is_its_embedding():
    shape = {"vocabulary": 320, "width": 32, "layers": 2, "heads": 4, "window": 64, "eos_id": 1}
    before = torch.random.get_rng_state()
    one, same, other = (new_llama(**shape, seed=s) for s in (0, 0, 1))
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), same.parameters(), strict=True))
    assert not torch.equal(one.hf.lm_head.weight, other.hf.lm_head.weight)
    assert one.hf.lm_head.weight is one.hf.model.embed_tokens.weight
    assert one.hf.config.intermediate_size == 88  # 2.75 x 32
