"""What is saved is what is loaded, by us and by anybody's `transformers`; a training state survives damage."""

import json
import os

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from tutelage.errors import CorruptError, DiskError, ModelError
from tutelage.model.attention import NAME, Packed
from tutelage.model.checkpoint import latest_state, read_lineage, save_causal, save_state, weights_sha
from tutelage.model.load import load_causal
from tutelage.publish import MANIFEST, verify

TOKENS = torch.arange(5, 25)


@torch.no_grad()
def logits(model):
    packed = Packed([len(TOKENS)])
    return model.logits(TOKENS, packed.position_N, torch.arange(len(TOKENS)), packed)


@torch.no_grad()
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", ["llama", "gpt2", "gpt_neox"])
def test_a_saved_model_is_the_same_for_plain_transformers_and_for_us(kind, tied, small_causal, small_chat, tmp_path):
    model = small_causal(kind, tie_word_embeddings=tied)
    save_causal(tmp_path / "model", model, small_chat, {})
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert plain.config._attn_implementation == "sdpa"
    torch.testing.assert_close(plain(TOKENS[None]).logits[0], logits(model), atol=1e-5, rtol=1e-5)
    again, chat = load_causal(str(tmp_path / "model"))
    assert torch.equal(logits(again), logits(model))
    assert chat.template_hash == small_chat.template_hash
    assert (
        AutoTokenizer.from_pretrained(tmp_path / "model")("Hi")["input_ids"] == small_chat.tokenizer("Hi")["input_ids"]
    )
    for loaded in (plain, again.hf):
        assert (loaded.get_input_embeddings().weight is loaded.get_output_embeddings().weight) == tied


def test_saving_leaves_the_model_as_it_was_even_when_it_fails(small_causal, small_chat, tmp_path, monkeypatch):
    model = small_causal()
    before, settings = logits(model), (NAME, model.hf.config.dtype)

    def fail(*_, **__):
        raise RuntimeError("half way")

    save_causal(tmp_path / "good", model, small_chat, {}, dtype=torch.bfloat16)
    monkeypatch.setattr(model.hf, "save_pretrained", fail)
    with pytest.raises(RuntimeError, match="half way"):
        save_causal(tmp_path / "bad", model, small_chat, {}, dtype=torch.bfloat16)
    assert not (tmp_path / "bad").exists()
    assert (model.hf.config._attn_implementation, model.hf.config.dtype) == settings
    assert torch.equal(logits(model), before)


def test_half_precision_folders_hold_one_copy_of_tied_weights(small_causal, small_chat, tmp_path):
    model = small_causal(tie_word_embeddings=True)
    save_causal(tmp_path / "model", model, small_chat, {}, dtype=torch.bfloat16)
    state = load_file(tmp_path / "model" / "model.safetensors")
    assert {v.dtype for v in state.values()} == {torch.bfloat16}
    assert len([k for k, v in state.items() if v.shape == (336, 32)]) == 1
    assert json.loads((tmp_path / "model" / "config.json").read_text())["dtype"] == "bfloat16"
    again, _ = load_causal(str(tmp_path / "model"))
    assert again.hf.lm_head.weight is again.hf.model.embed_tokens.weight
    assert torch.equal(again.hf.lm_head.weight, model.hf.lm_head.weight.bfloat16().float())


def test_no_pickle_is_written(small_causal, small_chat, tmp_path):
    save_causal(tmp_path / "model", small_causal(), small_chat, {})
    names = set(verify(tmp_path / "model"))
    assert {"config.json", "model.safetensors", "tokenizer.json", "lineage.json"} <= names
    assert {n.rsplit(".", 1)[1] for n in names} <= {"json", "safetensors", "jinja", "txt"}


def test_lineage_comes_back_with_the_hashes_of_the_renderer(small_causal, small_chat, tmp_path):
    save_causal(tmp_path / "model", small_causal(), small_chat, {"parent": "sft-1", "steps": 3})
    assert read_lineage(tmp_path / "model") == {
        "parent": "sft-1",
        "steps": 3,
        "template": small_chat.template_hash,
        "tokenizer": small_chat.tokenizer_hash,
    }
    with pytest.raises(ModelError, match=r"no lineage.json"):
        read_lineage(tmp_path)


def test_the_identity_of_weights_changes_with_one_bit_a_name_a_shape_or_a_type(small_causal):
    state = small_causal().hf.state_dict()
    first = weights_sha(state)
    assert first == weights_sha(dict(reversed(state.items())))
    name = "model.layers.1.mlp.up_proj.weight"
    one_bit = state[name].clone()
    one_bit.view(torch.int32)[3, 4] ^= 1
    assert weights_sha({**state, name: one_bit}) != first
    assert weights_sha({**state, name: state[name].T.contiguous().T}) == first  # the strides are no part of it
    assert weights_sha({**state, name: state[name].reshape(32, 48)}) != first
    assert weights_sha({"a": torch.zeros(2)}) != weights_sha({"b": torch.zeros(2)})
    assert weights_sha({"a": torch.zeros(2)}) != weights_sha({"a": torch.zeros(2, dtype=torch.int32)})


def write_states(folder, steps, **kw):
    for step in steps:
        save_state(folder, step, {"w": torch.full((4,), float(step)), "n": torch.tensor(step)}, {"kl": 0.1}, **kw)


def test_the_newest_state_comes_back_and_older_ones_are_dropped(tmp_path):
    assert latest_state(tmp_path / "none") is None
    write_states(tmp_path, [10, 20, 100])
    tensors, facts = latest_state(tmp_path)
    assert facts == {"step": 100, "kl": 0.1}
    assert tensors["w"].tolist() == [100.0] * 4
    assert tensors["n"].item() == 100
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-0000020", "step-0000100"]


def flip(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))


DAMAGE = {
    "flipped": lambda s: flip(s / "tensors.safetensors"),
    "cut": lambda s: os.truncate(s / "facts.json", 3),
    "missing": lambda s: (s / "facts.json").unlink(),
    "no manifest": lambda s: (s / MANIFEST).unlink(),
    "cut manifest": lambda s: os.truncate(s / MANIFEST, 20),
    "never renamed": lambda s: s.rename(s.with_name(s.name + ".partial")),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_newest_state_falls_back_to_the_older_and_training_can_pass_it_again(tmp_path, damage):
    write_states(tmp_path, [10, 20])
    DAMAGE[damage](tmp_path / "step-0000020")
    assert latest_state(tmp_path)[1]["step"] == 10
    write_states(tmp_path, [20])
    assert latest_state(tmp_path)[1]["step"] == 20
    write_states(tmp_path, [30, 40])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-0000030", "step-0000040"]


def test_a_model_folder_is_never_replaced(small_causal, small_chat, tmp_path):
    save_causal(tmp_path / "model", small_causal(), small_chat, {})
    with pytest.raises(CorruptError, match="already there"):
        save_causal(tmp_path / "model", small_causal(), small_chat, {})


def test_a_full_disk_is_one_clear_error_and_leaves_nothing(small_disk, small_causal, small_chat):
    # Both are larger than the 64 KiB of the disk, and it is safetensors that meets its end.
    with pytest.raises(DiskError, match=r"step-0000003 was not written: .* Free space"):
        save_state(small_disk, 3, {"w": torch.zeros(100_000)}, {})
    with pytest.raises(DiskError, match=r"model was not written: .* Free space"):
        save_causal(small_disk / "model", small_causal(), small_chat, {})
    assert list(small_disk.iterdir()) == []
