"""The doctor on whole recipes: a sound one is well, and whatever is planted is found without a crash."""

import json

import pytest

from tutelage.model import load
from tutelage.rounds import doctor

DEMOS = [{"prompt": f"Is room {i} free?", "completion": f"Yes, room {i} is."} for i in range(40)]
PROMPTS = [{"prompt": f"Is pool {i} open?"} for i in range(40)]


@pytest.fixture
def recipe(tmp_path, small_folder):
    """(demonstrations, prompts, more="") -> a recipe on a small model."""
    base = small_folder()

    def make(demos=DEMOS, prompts=PROMPTS, more=""):
        for name, rows in (("demos", demos), ("prompts", prompts)):
            text = "".join(json.dumps(row) + "\n" for row in rows)
            (tmp_path / f"{name}.jsonl").write_text(text, encoding="utf-8")
        data = f"demonstrations = ['{tmp_path}/demos.jsonl']\nprompts = ['{tmp_path}/prompts.jsonl']\n"
        path = tmp_path / "recipe.toml"
        path.write_text(f"base = '{base}'\n[data]\nvalid_fraction = 0.3\n{data}{more}", encoding="utf-8")
        return path

    return make


def found(recipe):
    """Name -> check, of everything behind the machine's."""
    checks = {c.name: c for c in doctor.examine(recipe).checks}
    return dict(list(checks.items())[9:])


def test_a_sound_recipe_is_well_and_shows_what_would_be_learned(recipe):
    checks = found(recipe())
    assert [c for c in checks.values() if c.state != "ok"] == []
    assert {"recipe", "model", "same seed", "save and reload", "split"} <= set(checks)
    learned = checks["supervised tokens"].what
    assert "% of the tokens are learned" in learned and learned.count("«Yes, room ") == 3
    assert "would be left out" in checks["prompt lengths"].what


def test_without_a_bundled_model_it_says_so_and_goes_on(monkeypatch, tmp_path):
    monkeypatch.setattr(load, "BUNDLED", tmp_path / "none")
    result = doctor.examine(None)
    assert not result.is_well and result.checks[-1].name == "model" and "no such model folder" in result.text()


def test_the_bundled_model_is_examined_without_a_recipe(monkeypatch, small_folder):
    monkeypatch.setattr(load, "BUNDLED", small_folder(name="bundled"))
    assert doctor.examine(None).is_well


def test_a_recipe_that_cannot_be_is_a_finding(recipe):
    check = found(recipe(more="[ppo]\nclip_hihg = 1\n"))["recipe"]
    assert check.state == "bad" and "did you mean" in check.what
    assert found(recipe().with_name("none.toml"))["recipe"].state == "bad"


@pytest.mark.parametrize(
    ("rows", "says"),
    [([], "is empty"), ([{"prompt": "a", "chosen": "b"}], "one-sided"), ([{"prompt": ""}], "no row can be used")],
)
def test_a_file_that_cannot_be_read_is_found_before_the_rest_is(recipe, rows, says):
    checks = found(recipe(prompts=rows))
    [bad] = [c for c in checks.values() if c.state == "bad"]
    assert bad.name.startswith("prompts: ") and says in bad.what and "split" not in checks


def test_a_few_bad_rows_are_a_warning_with_their_reasons(recipe):
    checks = found(recipe(prompts=[*PROMPTS, {"prompt": ""}]))
    [warned] = [c for c in checks.values() if c.state == "warn"]
    assert "40 of the first 41 rows" in warned.what and "empty text (1)" in warned.what
    assert checks["split"].state == "ok"


def test_a_part_of_the_split_without_prompts_is_found(recipe):
    assert "the material holds no" in found(recipe(prompts=PROMPTS[:1]))["material"].what


def test_demonstrations_longer_than_the_window_are_found(recipe):
    long = [{"prompt": f"Is room {i} free?", "completion": "kettle " * 100} for i in range(40)]
    assert found(recipe(demos=long))["supervised tokens"].state == "bad"
    some = found(recipe(demos=[*DEMOS, *long]))["supervised tokens"]
    assert some.state == "warn" and "longer than the window of 96" in some.what


def test_prompts_without_room_for_an_answer_are_found(recipe):
    assert found(recipe(more="[sampling]\nmax_new_tokens = 94\n"))["prompt lengths"].state == "bad"
    long = [{"prompt": f"Is pool {i} open? " + "kettle " * 60} for i in range(40)]
    some = found(recipe(prompts=[*PROMPTS, *long]))["prompt lengths"]
    assert some.state == "warn" and "would be left out" in some.what
