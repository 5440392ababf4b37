"""From weights back to people."""

import pytest

from tutelage.errors import StoreError
from tutelage.store.feedback import record, record_many
from tutelage.store.lineage import Share, add_model_version, model_versions, trace
from tutelage.store.snapshot import freeze
from tutelage.types import ModelVersion, Skip


def version(name: str, **more: object) -> ModelVersion:
    return ModelVersion(**{"id": name, "stage": "sft", "weights_sha": f"sha-{name}", **more})


def test_a_version_names_the_people_behind_it(desk, tmp_path):
    record_many(desk.store, [desk.ranking(f"a{i}", 1, 2) for i in range(3)])
    record(desk.store, desk.ranking("s", 1, 2, i_prompt=1, labeler="sim"))
    record(desk.store, desk.feedback("skip", Skip(reason="x"), labeler="sim"))
    first = freeze(desk.store, tmp_path / "1", sources=["s0"])
    record(desk.store, desk.ranking("again", 2, 1, supersedes=1))
    second = freeze(desk.store, tmp_path / "2")
    add_model_version(desk.store, version("base", stage="base"))
    add_model_version(desk.store, version("reward", parent="base", snapshot=first.hash))
    add_model_version(desk.store, version("sft", parent="base", snapshot=second.hash))
    add_model_version(
        desk.store, version("ppo", stage="ppo", parent="sft", reward_model="sha-reward", snapshot="elsewhere")
    )
    lineage = trace(desk.store, "ppo")
    assert [s.version.id for s in lineage.steps] == ["ppo", "sft", "reward", "base"]
    ppo, sft, reward, base = lineage.steps
    assert (ppo.is_snapshot_known, base.is_snapshot_known) == (False, False)
    assert reward.shares == (Share("ann", "human", 3),)  # as it stood at the first freeze, of source s0
    assert sft.shares == (
        Share("ann", "human", 3),
        Share("sim", "simulated", 1),
    )  # replaced ones count once, skips never
    assert lineage.labelers == ("ann", "sim")


def test_an_id_stands_for_one_set_of_weights(store):
    add_model_version(store, version("a"))
    add_model_version(store, version("a"))
    add_model_version(store, version("b", stage="ppo", parent="a"))
    assert model_versions(store) == [version("a"), version("b", stage="ppo", parent="a")]
    assert model_versions(store, "ppo") == [version("b", stage="ppo", parent="a")]
    with pytest.raises(StoreError, match="other particulars"):
        add_model_version(store, version("a", weights_sha="other"))


def test_a_missing_parent_or_version_is_named(store):
    with pytest.raises(StoreError, match="'gone'"):
        add_model_version(store, version("a", parent="gone"))
    with pytest.raises(StoreError, match="'gone'"):
        trace(store, "gone")
