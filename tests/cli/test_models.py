"""`sample`, `score`, `eval` and `chat`: what they print, for people and for programs, and what they refuse."""

import json

import pytest

PROMPTS = [{"prompt": "Is the pool open?"}, {"prompt": "Where is the kettle?"}]
SHORT = ["--max-new-tokens", "6"]


@pytest.fixture
def prompts(write):
    return write("prompts.jsonl", *PROMPTS)


@pytest.fixture
def without_end(small_folder):
    """A model whose tokenizer has no end token."""
    folder = small_folder(name="endless")
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({k: v for k, v in settings.items() if k != "eos_token"}), encoding="utf-8")
    return folder


def test_sample_prints_one_json_object_and_nothing_else(tutelage, small_folder, prompts):
    ended = tutelage("sample", "--model", small_folder(), "--prompts", prompts, "-n", 2, *SHORT, "--json")
    assert ended.code == 0 and ended.json["n"] == 4 and ended.json["prompts"] == 2
    assert [r["prompt"][0]["content"] for r in ended.json["samples"]] == [p["prompt"] for p in PROMPTS for _ in "ab"]
    assert "answers 2/2" in ended.err  # ours alone: no bars of transformers
    assert "Loading weights" not in ended.err


def test_the_same_seed_gives_the_same_samples_and_another_seed_others(tutelage, small_folder):
    model = small_folder()

    def drawn(seed):
        found = tutelage("sample", "--model", model, "--prompt", "Hello", *SHORT, "--seed", seed, "--json").json
        return found["samples"][0]["completion"]

    assert drawn(1) == drawn(1) != drawn(2)


def test_sample_shows_people_the_prompt_and_the_answer(tutelage, small_folder):
    ended = tutelage("sample", "--model", small_folder(), "--prompt", "Hello", *SHORT)
    assert ended.out.startswith("> Hello\n") and "mean_tokens" in ended.out


def test_samples_go_to_a_file_that_score_reads(tutelage, small_folder, small_reward_folder, prompts, tmp_path):
    out, scored = tmp_path / "samples.jsonl", tmp_path / "scored.jsonl"
    told = tutelage("sample", "--model", small_folder(), "--prompts", prompts, *SHORT, "--out", out, "--json").json
    assert "samples" not in told and told["out"] == str(out)
    rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    ended = tutelage("score", "--model", small_reward_folder(), "--data", out, "--out", scored, "--json")
    assert ended.json["n"] + sum(ended.json["refused"].values()) == len(rows) == 2
    written = [json.loads(line) for line in scored.read_text(encoding="utf-8").splitlines()]
    assert all(isinstance(row["score"], float) for row in written)


def test_score_adds_a_score_to_every_text_of_pairs(tutelage, small_reward_folder, pairs):
    ended = tutelage("score", "--model", small_reward_folder(), "--data", pairs, "--json")
    assert ended.json["n"] == 4
    assert [c["text"] for c in ended.json["rows"][0]["completions"]] == ["Yes, until eight.", "No."]
    shown = tutelage("score", "--model", small_reward_folder(1), "--data", pairs).out
    assert "Yes, until eight." in shown and "mean:" in shown


def test_eval_reward_keeps_the_contract(tutelage, small_reward_folder, pairs):
    ended = tutelage("eval", "reward", "--model", small_reward_folder(), "--data", pairs, "--json")
    keys = {"n", "n_ties", "accuracy", "accuracy_low", "accuracy_high", "ece", "longer_wins_accuracy"}
    assert keys | {"too_long"} <= set(ended.json)
    assert ended.json["n"] == 2 and set(ended.json["by_source"]) == {"a", "b"}
    assert all(set(part) == keys for part in ended.json["by_source"].values())
    assert "by source, a: n 1" in tutelage("eval", "reward", "--model", small_reward_folder(1), "--data", pairs).out


def test_eval_reward_takes_an_ensemble(tutelage, small_reward_folder, pairs):
    two = ["--model", small_reward_folder(0), "--model", small_reward_folder(1)]
    ended = tutelage("eval", "reward", *two, "--data", pairs, "--combine", "worst", "--json")
    assert len(ended.json["models"]) == 2 and ended.json["combine"] == "worst"


def test_eval_policy_says_who_wins_and_what_the_answers_are_like(tutelage, small_run, small_reward_folder, prompts):
    judge, model = small_reward_folder(), ["--model", small_run / "sft", "--against", small_run / "base"]
    ended = tutelage("eval", "policy", *model, "--prompts", prompts, "--judge", judge, *SHORT, "--json")
    assert {"rate", "low", "high", "length_controlled", "n", "too_long"} <= set(ended.json) and ended.json["n"] == 2
    assert "unique" in ended.json["model"] and ended.json["against"]["name"] == str(small_run / "base")
    shown = tutelage("eval", "policy", *model, "--prompts", prompts, "--judge", judge, *SHORT).out
    assert shown.startswith("rate: ")


def test_chat_reads_a_pipe_and_answers_each_line_until_quit(tutelage, small_folder):
    folder = small_folder()
    ended = tutelage("chat", folder, *SHORT, stdin="Hello\n\n/reset\nHello\n/quit\nHello\n")
    before, *answers = ended.out.split(f"{folder}: ")
    assert ended.code == 0 and "begun anew" in ended.err
    assert before == "" and len(answers) == 2 and answers[0] == answers[1]  # the same words to the same seed


def test_chat_shows_two_stages_of_a_run(tutelage, small_run):
    ended = tutelage("chat", small_run, "--stage", "sft", "--against", "base", *SHORT, stdin="Hello")
    assert ended.out.startswith("sft: ") and "\nbase: " in ended.out


def test_chat_strips_what_would_steer_the_terminal(tutelage, small_folder, monkeypatch):
    from tutelage.rounds import talk

    monkeypatch.setattr(talk.Conversation, "answer", lambda self, text: talk.Reply("\x1b[2Jhi\nthere", True, 2))
    ended = tutelage("chat", small_folder(), stdin="Hello\n")
    assert ended.out.endswith("model: [2Jhi\nthere\n") and "first 2 messages" in ended.err


def test_chat_from_a_pipe_stops_at_words_that_do_not_fit(refused, tutelage, small_folder):
    ended = tutelage("chat", small_folder(), *SHORT, stdin="kettle " * 200 + "\nHello\n")
    assert ended.code == 2 and "window of 96" in ended.err and not ended.out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--prompt", "a", "--prompts", "b.jsonl"], "Give one of them"),
        ([], "Give one of them"),
        (["--prompt", " "], "the prompt is empty"),
        (["--prompt", "kettle " * 200], "Use shorter prompts"),
        (["--prompt", "a", "-n", "0"], "at least one answer"),
        (["--prompt", "a", "--temperature", "-1"], "sampling.temperature = -1"),
        (["--prompt", "a", "--max-new-tokens", "0"], "sampling.max_new_tokens = 0"),
        (["--prompt", "a", "--max-new-tokens", "8", "--out", "rows.csv"], "Name the file .jsonl"),
        (["--prompts", "none.jsonl"], "there is no such file"),
    ],
)
def test_sample_refuses_what_cannot_be(refused, small_folder, arguments, says):
    assert says in refused("sample", "--model", small_folder(), *arguments)


def test_a_model_that_could_never_stop_is_refused(refused, without_end):
    assert "no end token" in refused("sample", "--model", without_end, "--prompt", "a")


def test_a_folder_that_is_no_model_is_refused(refused, tmp_path):
    assert "not a model folder" in refused("chat", tmp_path)
    assert "no such model folder" in refused("chat", tmp_path / "none")


def test_a_model_without_a_reward_head_is_refused(refused, small_folder, pairs, prompts):
    folder = small_folder()
    assert "without a reward head" in refused("score", "--model", folder, "--data", pairs)
    assert "without a reward head" in refused("eval", "reward", "--model", folder, "--data", pairs)
    policy = ["--model", folder, "--against", folder, "--prompts", prompts]
    assert "without a reward head" in refused("eval", "policy", *policy, "--judge", folder)


@pytest.mark.parametrize("command", [["score"], ["eval", "reward"]])
@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([], "is empty"),
        ([{"prompt": "a", "chosen": "b"}], "one-sided comparison"),
        ([{"prompt": "a", "completions": [{"text": "b", "tier": 1}, {"text": "c", "tier": 3}]}], "a gap in the tiers"),
        ([{"prompt": "a"}], "there is nothing to"),
        ([{"prompt": "a " * 200, "chosen": "b", "rejected": "c"}], "longer than the reward model's window"),
    ],
)
def test_data_that_cannot_be_judged_is_refused(refused, small_reward_folder, write, command, rows, says):
    data = write("bad.jsonl", *rows)
    assert says in refused(*command, "--model", small_reward_folder(), "--data", data)
