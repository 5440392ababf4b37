"""Commands on run directories: recipes that cannot be, directories in use, and what `status` and `doctor` say."""

import json

import pytest

from tutelage.publish import RunLock
from tutelage.rounds import doctor
from tutelage.rounds.findings import Check, Findings


@pytest.fixture
def recipe(tmp_path):
    """(text) -> a recipe file."""

    def make(text=""):
        path = tmp_path / "recipe.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return make


@pytest.mark.parametrize("command", ["run", "sft", "reward", "ppo", "rloo"])
def test_an_unknown_key_names_its_neighbour(refused, recipe, tmp_path, command):
    message = refused(command, recipe("[ppo]\nclip_hihg = 0.2\n"), "--out", tmp_path / "out")
    assert "unknown key 'ppo.clip_hihg'; did you mean 'ppo.clip" in message
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[run]\nrounds = 0\n", "run.rounds = 0"),
        ("[run]\nrounds = 'many'\n", "run.rounds = 'many'"),
        ("[sampling]\ntemperature = -1\n", "sampling.temperature = -1"),
        ("base = \n", "not valid TOML"),
    ],
)
def test_a_value_that_cannot_be_is_refused(refused, recipe, tmp_path, text, says):
    assert says in refused("run", recipe(text), "--out", tmp_path / "out")


def test_settings_on_the_command_line_are_held_to_the_same(refused, recipe, tmp_path):
    out = ["--out", tmp_path / "out"]
    assert "unknown key 'run.roundz'" in refused("run", recipe(), *out, "--set", "run.roundz=1")
    assert "run.rounds = 0" in refused("run", recipe(), *out, "--set", "run.rounds=0")
    assert "is not of the form a.b=c" in refused("run", recipe(), *out, "--set", "rounds")
    assert "unknown key 'roundz'" in refused("quickstart", *out, "--set", "roundz=1")


def test_a_recipe_that_is_not_there_is_refused(refused, tmp_path):
    out = ["--out", tmp_path / "out"]
    assert "no such recipe" in refused("run", tmp_path / "none.toml", *out)
    assert "cannot be read as a recipe" in refused("run", tmp_path, *out)
    assert "no such recipe" in refused("pretrain", tmp_path / "none.toml", *out)


def test_data_that_are_not_there_are_refused(refused, recipe, tmp_path):
    text = f"[data]\nprompts = ['{tmp_path / 'none.jsonl'}']\n"
    assert "there is no such file" in refused("sft", recipe(text), "--out", tmp_path / "out")


def test_profile_is_a_setting_and_makes_no_other_recipe(refused, recipe, tmp_path):
    text, out = f"[data]\nprompts = ['{tmp_path / 'none.jsonl'}']\n", tmp_path / "out"
    assert "there is no such file" in refused("run", recipe(text), "--out", out, "--profile")
    assert "profile = true" in (out / "config.toml").read_text(encoding="utf-8")
    assert "there is no such file" in refused("run", recipe(text), "--out", out)
    assert "other settings (run.rounds: 2 there, 3 now)" in refused(
        "run", recipe(text), "--out", out, "--profile", "--set", "run.rounds=3"
    )


def test_comparisons_that_cannot_be_are_refused(refused, recipe, write, tmp_path):
    one_sided = write("one.jsonl", {"prompt": "a", "chosen": "b"})
    text = f"[data]\ncomparisons = ['{one_sided}']\n"
    assert "one-sided comparison" in refused("sft", recipe(text), "--out", tmp_path / "out")


def test_a_base_model_that_could_never_stop_is_refused(refused, recipe, small_folder, tmp_path):
    folder = small_folder()
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({k: v for k, v in settings.items() if k != "eos_token"}), encoding="utf-8")
    assert "no end token" in refused("sft", recipe(f"base = '{folder}'\n"), "--out", tmp_path / "out")


def test_a_folder_with_other_things_is_no_run_directory(refused, recipe, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("")
    assert "it is not a run directory" in refused("run", recipe(), "--out", tmp_path / "out")


def test_a_directory_in_use_ends_with_3(tutelage, recipe, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    with RunLock(out):
        ended = tutelage("run", recipe(), "--out", out)
    assert (ended.code, ended.out) == (3, "")
    assert ended.err.startswith(f"error: {out} is in use by process") and "Traceback" not in ended.err


def test_status_is_of_run_directories_alone(tutelage, refused, small_run, tmp_path):
    assert "not a run directory" in refused("status", tmp_path)
    stages = {"sft": {"state": "done", "what": "learning", "seconds": 3.0}}
    (small_run / "state.json").write_text(json.dumps({"stages": stages}), encoding="utf-8")
    assert tutelage("status", small_run, "--json").json == {"stages": stages}
    assert tutelage("status", small_run).out == "done     sft: learning  3 s\n"


def test_doctor_ends_with_1_when_something_must_be_mended(tutelage, monkeypatch):
    well, ill = Check("disk", "ok", "9 GB"), Check("model", "bad", "none", "get one")
    monkeypatch.setattr(doctor, "examine", lambda recipe: Findings((well,)))
    assert tutelage("doctor", "--json").json["is_well"] and tutelage("doctor").code == 0
    monkeypatch.setattr(doctor, "examine", lambda recipe: Findings((well, ill)))
    ended = tutelage("doctor", "--json")
    assert ended.code == 1 and not ended.json["is_well"]
    assert "bad   model: none\n      -> get one\n" in tutelage("doctor").out
