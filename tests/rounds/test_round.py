"""A whole round on a tiny model: SFT, simulated labels, reward model, PPO, evaluation, gate, report.

And again after a kill.
"""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tutelage import config
from tutelage.errors import ConfigError, RunInUseError, WaitingForLabels
from tutelage.model.load import load_causal
from tutelage.model.reward_model import load_reward
from tutelage.publish import RunLock
from tutelage.rounds.recipe import Recipe
from tutelage.rounds.round import run_recipe
from tutelage.store.db import open_store
from tutelage.store.lineage import trace

ROOT = Path(__file__).parents[2]
TINY = ROOT / "benchmarks" / "tiny.toml"


def _kill_resume():
    spec = importlib.util.spec_from_file_location("kill_resume", ROOT / "benchmarks" / "kill_resume.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _recipe(tiny_base, *settings):
    return config.load(Recipe, TINY, [f"base={tiny_base}", *settings])


@pytest.fixture(scope="module")
def finished(tiny_base, tmp_path_factory):
    """One unbroken run and its summary."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    return folder, run_recipe(_recipe(tiny_base), folder)


def test_a_round_publishes_every_stage_and_a_summary(finished):
    folder, summary = finished
    of_round = ("samples", "labels", "reward-0", "reward-held-out", "ppo", "evaluation")
    for stage in ("base", "sft", *(f"round-1/{s}" for s in of_round)):
        assert (folder / stage / "manifest.json").is_file(), stage
    assert (folder / "report.html").is_file()
    assert json.loads((folder / "summary.json").read_text())["best"] == summary["best"]
    assert summary["labelers"]["simulated"] == 6 and summary["labelers"]["human"] == 0
    assert not (folder / "work").exists() or not any(p.is_file() for p in (folder / "work").rglob("*"))


def test_kl_at_the_first_update_is_zero_and_is_never_negative_beyond_its_error(finished):
    rows = [json.loads(line) for line in (finished[0] / "round-1" / "ppo" / "metrics.jsonl").read_text().splitlines()]
    updates = [r for r in rows if "kl" in r]
    assert abs(updates[0]["kl"]) < 1e-3
    assert all(r["kl"] > -3 * r["kl_se"] - 1e-6 for r in updates)


def test_the_policy_names_the_labellers_behind_it(finished):
    folder, summary = finished
    with open_store(folder / "store.db") as store:
        lineage = trace(store, summary["policies"]["round 1"])
    assert lineage.steps[0].version.stage == "ppo"
    assert lineage.labelers and all(name.startswith("sim-") or name == "import" or name for name in lineage.labelers)
    assert any(share.kind == "simulated" for step in lineage.steps for share in step.shares)


def test_every_model_of_the_run_opens_with_plain_transformers(finished):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = finished[0] / "round-1" / "ppo"
    plain = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ours, chat = load_causal(str(folder))
    ids = chat.prompt_ids([*_messages("Hello, I need a table.")])
    turns = [{"role": "user", "content": "Hello, I need a table."}]
    assert tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=False) == ids
    token_N = torch.tensor(ids)
    mask = torch.ones(1, len(ids), dtype=torch.bool)
    mask[0, 0] = False
    with torch.no_grad():
        expected = plain(token_N[None]).logits[0, :-1].log_softmax(-1).gather(1, token_N[1:, None]).squeeze(1)
        found = ours.logp(token_N[None], torch.tensor([len(ids)]), mask)[0][0, 1:]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def _messages(text):
    from tutelage.types import Message

    return [Message(role="user", content=text)]


def test_running_a_finished_run_again_changes_nothing(finished, tiny_base):
    folder, summary = finished
    before = _kill_resume().weights(folder)
    again = run_recipe(_recipe(tiny_base), folder)
    assert _kill_resume().weights(folder) == before
    assert again["policies"] == summary["policies"]


def test_a_run_that_was_killed_ends_with_the_same_bytes(finished, tiny_base, tmp_path):
    tool = _kill_resume()
    expected = tool.weights(finished[0])
    seconds = finished[1]["seconds"]
    for k, share in enumerate((0.35, 0.8)):
        tool.kill_once(TINY, str(tiny_base), tmp_path / f"killed-{k}", 4 + share * seconds)
        assert tool.weights(tmp_path / f"killed-{k}") == expected


def test_other_settings_are_refused_and_named(finished, tiny_base):
    with pytest.raises(ConfigError, match=r"ppo\.updates: 6 there, 7 now"):
        run_recipe(_recipe(tiny_base, "ppo.updates=7"), finished[0])


def test_a_second_process_is_refused_with_code_3(finished, tiny_base):
    with RunLock(finished[0]):
        with pytest.raises(RunInUseError):
            run_recipe(_recipe(tiny_base), finished[0])
        command = [sys.executable, "-m", "tutelage", "run", str(TINY), "--out", str(finished[0])]
        done = subprocess.run([*command, "--set", f"base={tiny_base}"], capture_output=True, text=True)
    assert done.returncode == 3
    assert "is in use by process" in done.stderr and "Traceback" not in done.stderr


def test_rloo_runs_the_same_round(tiny_base, tmp_path):
    of_rloo = ("rloo.updates=2", "rloo.prompts_per_update=4", "rloo.eval_every=2")
    recipe = _recipe(tiny_base, "run.algorithm=rloo", *of_rloo, "sft.epochs=1")
    assert run_recipe(recipe, tmp_path / "run", until="rl")["until"] == "rl"
    assert (tmp_path / "run" / "round-1" / "rloo" / "manifest.json").is_file()


@pytest.mark.parametrize("setting", ["lora.rank=4", "shared_critic=true", "ppo.ptx_coef=0.5", "ema_decay=0.9"])
def test_ppo_runs_with(setting, tiny_base, tmp_path):
    recipe = _recipe(tiny_base, setting, "ppo.updates=2", "ppo.eval_every=2", "sft.epochs=1", "collect.prompts=40")
    run_recipe(recipe, tmp_path / "run", until="rl")
    metrics = tmp_path / "run" / "round-1" / "ppo" / "metrics.jsonl"
    rows = [json.loads(line) for line in metrics.read_text().splitlines()]
    assert abs(next(r["kl"] for r in rows if "kl" in r)) < 1e-3


def test_reward_models_of_few_comparisons_read_others_first_and_whole_answers(tiny_base, tmp_path):
    rows = [{"prompt": f"Question {i}", "chosen": "Of course, which day?", "rejected": f"No {i}"} for i in range(200)]
    (tmp_path / "others.jsonl").write_text("\n".join(map(json.dumps, rows)))
    settings = (
        f'reward_stage.pretrain_on=["{tmp_path}/others.jsonl"]', "reward_stage.read=answer", "reward_stage.insist=true",
        "reward_stage.heads=sources", "reward.head_prior=0.7", "reward.epochs=0", "reward_stage.ngram_cells=512",
    )  # fmt: skip
    run_recipe(_recipe(tiny_base, *settings), tmp_path / "run")
    folder = tmp_path / "run"
    first, facts = load_reward(folder / "preference-pretraining")
    assert (first.read, first.weigh, list(first.aspects)) == ("answer", "fixed", ["overall"])
    assert facts["accuracy"] > 0.9  # any pass over these comparisons finds what they have in common
    member = load_reward(folder / "round-1" / "reward-0")[0]
    assert (member.read, member.weigh, list(member.aspects)) == ("answer", "prompt", ["round-1"])
    assert member.n_cells == 512 and member.ngram_weight.abs().max() > 1e-3
    learned, base = first.backbone.state_dict(), load_causal(str(folder / "sft"))[0].state_dict()
    taken = member.backbone.state_dict()
    assert all(torch.equal(taken[k], learned[k]) for k in learned)  # the heads were fitted on it as it is
    assert not all(torch.equal(learned[k], base[k]) for k in learned)
    assert (folder / "report.html").is_file()


def test_reward_models_read_the_conversations_that_were_compared_first(tiny_base, tmp_path):
    settings = ("reward_stage.adapt_epochs=1", "reward.head_prior=0.7", "reward.epochs=0", "reward_stage.insist=true")
    run_recipe(_recipe(tiny_base, *settings), tmp_path / "run", until="reward")
    member = load_reward(tmp_path / "run" / "round-1" / "reward-0")[0]
    learned, base = member.backbone.state_dict(), load_causal(str(tmp_path / "run" / "sft"))[0].state_dict()
    assert not all(torch.equal(learned[k], base[k]) for k in learned)


def test_a_run_waits_for_people_and_says_how_many(tiny_base, tmp_path):
    recipe = _recipe(tiny_base, "collect.labels=people", "collect.needed=50", "sft.epochs=1")
    with pytest.raises(WaitingForLabels, match="waiting for labels: 0 of 50"):
        run_recipe(recipe, tmp_path / "run")
    state = json.loads((tmp_path / "run" / "state.json").read_text())
    assert state["stages"]["round-1/labels"]["what"] == "waiting for labels: 0 of 50"


def test_not_a_number_in_the_loss_ends_with_code_2_and_publishes_nothing(tiny_base, tmp_path):
    out = tmp_path / "run"
    settings = [f"base={tiny_base}", "sft_optim.lr=1e30", "sft_optim.warmup_steps=0"]
    command = [sys.executable, "-m", "tutelage", "sft", str(TINY), "--out", str(out)]
    done = subprocess.run([*command, *(a for s in settings for a in ("--set", s))], capture_output=True, text=True)
    assert done.returncode == 2
    assert "not finite" in done.stderr and "Traceback" not in done.stderr
    assert not (out / "sft").exists()


def test_a_full_disk_ends_with_code_2_and_the_run_goes_on_when_there_is_room(finished, tiny_base, tmp_path):
    # A limit on file size stands for the full disk: the store outgrows it while the material is read.
    out = tmp_path / "run"
    command = f"ulimit -f 100; exec {sys.executable} -m tutelage sft {TINY} --out {out} --set base={tiny_base}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert "disk" in done.stderr.lower() and "Traceback" not in done.stderr
    assert not (out / "base").exists()
    run_recipe(_recipe(tiny_base), out, until="sft")
    assert (out / "sft" / "model.safetensors").read_bytes() == (finished[0] / "sft" / "model.safetensors").read_bytes()
