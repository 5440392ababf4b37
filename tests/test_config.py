"""Recipes: what is wrong is named, what is right comes back as it was."""

from dataclasses import dataclass, field

import pytest

from tutelage.config import build, load, to_table, to_toml
from tutelage.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    path: str
    epochs: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PPO:
    steps: int = 10
    kl_coef: float = 0.05
    adaptive: bool = False
    clip: tuple[float, float] = (0.2, 0.2)

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ConfigError(f"ppo.steps = {self.steps}, but nothing would be trained. Set it to 1 or more.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    name: str
    seed: int = 0
    ppo: PPO = field(default_factory=PPO)
    critic: PPO | None = None
    sources: tuple[Source, ...] = ()
    extra: list[Source] | None = None
    aspects: dict[str, float] = field(default_factory=dict)
    tags: list[str] = field(default_factory=list)


RECIPE = """
name = "demo"
[ppo]
steps = 3
[[sources]]
path = "a.jsonl"
[[sources]]
path = "b.jsonl"
epochs = 0.5
"""


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "demo.toml"
    path.write_text(RECIPE)
    return path


def test_tables_become_nested_settings(recipe):
    assert load(Recipe, recipe) == Recipe(
        name="demo", ppo=PPO(steps=3), sources=(Source(path="a.jsonl"), Source(path="b.jsonl", epochs=0.5))
    )


@pytest.mark.parametrize(
    ("text", "where", "value"),
    [
        ("ppo.steps=7", lambda r: r.ppo.steps, 7),
        ("ppo.kl_coef=1e-3", lambda r: r.ppo.kl_coef, 1e-3),
        ("ppo.kl_coef=1", lambda r: r.ppo.kl_coef, 1.0),
        ("ppo.adaptive=true", lambda r: r.ppo.adaptive, True),
        ("ppo.clip=[0.1, 0.3]", lambda r: r.ppo.clip, (0.1, 0.3)),
        ("name=runs/round-1", lambda r: r.name, "runs/round-1"),
        ("name=true story", lambda r: r.name, "true story"),
        ('name="7"', lambda r: r.name, "7"),
        ("name=a=b", lambda r: r.name, "a=b"),
        ("critic.steps=2", lambda r: r.critic.steps, 2),
        ("tags=['x', 'y']", lambda r: r.tags, ["x", "y"]),
        ("aspects.helpful=0.5", lambda r: r.aspects, {"helpful": 0.5}),
    ],
)
def test_an_override_lies_on_top_of_the_file(recipe, text, where, value):
    got = where(load(Recipe, recipe, [text]))
    assert (got, type(got)) == (value, type(value))


def test_the_last_override_wins(recipe):
    assert load(Recipe, recipe, ["seed=1", "seed=2"]).seed == 2


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("sed=1", "unknown key 'sed'; did you mean 'seed'?"),
        ("ppo.kl_coeff=1", "unknown key 'ppo.kl_coeff'; did you mean 'ppo.kl_coef'?"),
        ("critic.stesp=1", "unknown key 'critic.stesp'; did you mean 'critic.steps'?"),
        ("sources=[{path='a', epoch=2}]", "unknown key 'sources[0].epoch'; did you mean 'sources[0].epochs'?"),
        ("extra=[{path='a'}, {path='a', epoch=2}]", "unknown key 'extra[1].epoch'; did you mean 'extra[1].epochs'?"),
        ("seed=many", "seed = 'many', but input should be a valid integer"),
        ("seed=1.5", "seed = 1.5, but input should be a valid integer"),
        ("ppo.adaptive=often", "ppo.adaptive = 'often', but input should be a valid boolean"),
        ("ppo=3", "ppo = 3, but input should be a dictionary"),
        ("name=7", "name = 7, but input should be a valid string"),
        ("sources=[{epochs=1.0}]", "'sources.0.path' is missing"),
        ("ppo.steps=0", "ppo.steps = 0, but nothing would be trained. Set it to 1 or more."),
        ("seed.x=1", "'seed' is a value, not a table"),
        ("seed", "is not of the form a.b=c"),
        ("=1", "is not of the form a.b=c"),
    ],
)
def test_a_wrong_override_is_told_in_one_line(tmp_path, text, words):
    path = tmp_path / "demo.toml"
    path.write_text("seed = 0\n" + RECIPE.strip())
    with pytest.raises(ConfigError) as error:
        load(Recipe, path, [text])
    assert words in str(error.value)
    assert "\n" not in str(error.value)
    assert "pydantic" not in str(error.value)


def test_a_post_init_error_comes_through_once_with_the_file(recipe):
    with pytest.raises(ConfigError) as error:
        load(Recipe, recipe, ["ppo.steps=0"])
    assert str(error.value) == f"{recipe}: ppo.steps = 0, but nothing would be trained. Set it to 1 or more."


def test_several_wrong_values_are_told_one_a_line():
    with pytest.raises(ConfigError) as error:
        build(Recipe, {"seed": "x", "ppo": {"kl_coef": "y"}}, "here")
    assert [line.split(" =")[0] for line in str(error.value).splitlines()] == [
        "here: 'name' is missing. Add it to the recipe.",
        "here: seed",
        "here: ppo.kl_coef",
    ]


def test_a_key_under_settings_that_have_none_is_refused():
    @dataclass(frozen=True)
    class Empty:
        pass

    with pytest.raises(ConfigError, match="unknown key 'x'; there is nothing to set here"):
        build(Empty, {"x": 1}, "here")


def test_a_missing_and_a_broken_recipe_are_named(tmp_path):
    with pytest.raises(ConfigError, match="no such recipe"):
        load(Recipe, tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("seed = = 1")
    with pytest.raises(ConfigError, match="not valid TOML"):
        load(Recipe, tmp_path / "bad.toml")


def test_settings_written_and_read_again_are_equal(tmp_path):
    settings = Recipe(
        name='a "quoted" ünicode \\ name\n',
        seed=2**62,
        ppo=PPO(kl_coef=1e-7, adaptive=True, clip=(0.1, 0.28)),
        critic=PPO(steps=2),
        sources=(Source(path="a"), Source(path="b", epochs=0.1)),
        aspects={"helpful.very": 1.0, "kind": 0.25},
        tags=["x"],
    )
    path = tmp_path / "again.toml"
    path.write_text(to_toml(settings), encoding="utf-8")
    assert load(Recipe, path) == settings
    assert "extra" not in to_table(settings)
