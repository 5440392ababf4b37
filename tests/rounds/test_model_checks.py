"""Planted faults of a model: each is found by its own check, and a sound model passes all."""

import json

import pytest
import torch

from tutelage.rounds import model_checks as checks


def states(source):
    found, _ = checks.model_checks(str(source))
    return {c.name: c.state for c in found}


def test_a_sound_model_passes_every_check(small_run, small_folder):
    names = ["model", "manifest", "end token", "template", "sample", "same seed", "save and reload"]
    assert states(small_run / "sft") == dict.fromkeys(names, "ok")
    assert states(small_folder()) == dict.fromkeys(names, "ok")  # of no manifest of ours


def test_a_model_that_is_not_there_is_bad_and_ends_there():
    found, chat = checks.model_checks("/nowhere/at/all")
    assert [c.state for c in found] == ["bad"] and chat is None and "no such model folder" in found[0].what


def test_a_file_that_was_changed_is_bad(small_run):
    with (small_run / "sft" / "config.json").open("a") as f:
        f.write(" ")
    found, _ = checks.model_checks(str(small_run / "sft"))
    assert found[0].state == "bad" and "differs from its SHA-256" in found[0].what


def test_a_template_that_leaves_the_turn_open_is_a_warning(small_folder):
    folder = small_folder()
    (folder / "chat_template.jinja").write_text(
        "{% for m in messages %}{{ m.role + ': ' + m.content + '\\n' }}{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    found = states(folder)
    assert found["end token"] == "warn" and found["template"] == "ok"


def test_weights_that_are_no_numbers_are_bad(small_causal, small_chat):
    model = small_causal()
    with torch.no_grad():
        model.hf.get_output_embeddings().weight.fill_(float("nan"))
    assert [c.state for c in checks.sampling(model, small_chat)] == ["bad"]


def test_samples_that_differ_with_one_seed_are_bad(small_causal, small_chat, monkeypatch):
    sample, calls = checks._sample, []

    def drifting(model, chat):
        found = sample(model, chat)
        calls.append(found)
        return found.model_copy(update={"token_ids": (*found.token_ids, len(calls))})

    monkeypatch.setattr(checks, "_sample", drifting)
    assert {c.name: c.state for c in checks.sampling(small_causal(), small_chat)} == {
        "sample": "ok",
        "same seed": "bad",
    }


def test_weights_that_change_on_the_way_to_the_disk_are_bad(small_causal, small_chat, monkeypatch):
    load = checks.load_causal

    def nudged(source):
        model, chat = load(source)
        with torch.no_grad():
            model.hf.get_output_embeddings().weight.add_(1e-3)
        return model, chat

    assert checks.reload(small_causal(), small_chat).state == "ok"
    monkeypatch.setattr(checks, "load_causal", nudged)
    assert checks.reload(small_causal(), small_chat).state == "bad"


def test_a_model_too_large_for_the_temporary_folder_is_not_tried(small_causal, small_chat, monkeypatch):
    monkeypatch.setattr(checks.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 1000})())
    found = checks.reload(small_causal(), small_chat)
    assert found.state == "warn" and "not tried" in found.what


@pytest.mark.parametrize("name", ["tokenizer_config.json"])
def test_a_tokenizer_without_an_end_is_bad(small_folder, name):
    folder = small_folder()
    settings = json.loads((folder / name).read_text(encoding="utf-8"))
    (folder / name).write_text(json.dumps({k: v for k, v in settings.items() if k != "eos_token"}), encoding="utf-8")
    assert states(folder) == {"model": "bad"}
