"""Seeds by name: the same for ever, different for different names."""

from tutelage.seed import derive


def test_the_value_is_the_one_of_finished_runs():
    # SHA-256 of "0\x1fppo\x1f2" begins with the 8 bytes below; the lowest bit is dropped.
    assert derive(0, "ppo", 2) == 0x95051C37B39A64EA >> 1


def test_every_seed_is_a_63_bit_number_and_no_two_names_share_one():
    names = [(seed, stage, i) for seed in range(3) for stage in ("sft", "ppo") for i in range(500)]
    seeds = {derive(*name) for name in names}
    assert len(seeds) == len(names)
    assert all(0 <= s < 2**63 for s in seeds)
    assert max(seeds) > 2**62  # all bits are in use


def test_names_do_not_run_together():
    assert derive(0, "a", "b") != derive(0, "ab")
    assert derive(0, "a", 11) != derive(0, "a1", 1)
    assert derive(1, 1) != derive(11)
