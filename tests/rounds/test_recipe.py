"""Settings of a recipe that cannot be, or that fight each other, are refused with what to do."""

import pytest

from tutelage.config import load
from tutelage.errors import ConfigError
from tutelage.rounds.recipe import Recipe


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["reward_stage.members=0"], "reward_stage.members = 0"),
        (["reward_stage.pretrain_epochs=0"], "would read none of pretrain_on"),
        (["reward_stage.held_out_share=0"], "over-optimisation cannot be seen"),
        (["reward_stage.adapt_epochs=-1"], "reward_stage.adapt_epochs = -1"),
        (["reward_stage.adapt_epochs=1", "reward_stage.kind=encoder"], "predicts no next token"),
        (["reward_stage.ngram_cells=-1"], "reward_stage.ngram_cells = -1"),
        (["reward_stage.ngram_cells=512"], "reward.head_prior = 0 fits none"),
        (["reward_stage.heads=sources", "reward_stage.aspects={kind=1.0}"], "Leave out one of the two"),
        (["reward.ngram_prior=0"], "reward.ngram_prior = 0"),
        (["lora.rank=4", "shared_critic=true"], "the shared trunk would be frozen"),
        (["reward_stage.labelers=reliability", "reward.likelihood=plackett_luce"], "weighs pairs"),
        (["ppo.ptx_coef=-1"], "ppo.ptx_coef = -1"),
    ],
)
def test_settings_that_cannot_be(tmp_path, settings, message):
    (tmp_path / "recipe.toml").write_text("")
    with pytest.raises(ConfigError, match=message):
        load(Recipe, tmp_path / "recipe.toml", settings)


def test_n_grams_go_with_fitted_heads(tmp_path):
    (tmp_path / "recipe.toml").write_text("")
    found = load(Recipe, tmp_path / "recipe.toml", ["reward_stage.ngram_cells=512", "reward.head_prior=0.7"])
    assert found.reward_stage.ngram_cells == 512
