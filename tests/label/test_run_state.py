"""Reading where a run stands, without its code."""

import json

from tutelage.label.run_state import StageLine, stages, waiting_for


def test_a_folder_without_a_run_has_no_stages(tmp_path):
    assert stages(tmp_path) == []


def test_stages_come_in_the_order_in_which_they_began(tmp_path):
    entries = {
        "sft": {"state": "done", "what": "SFT on 700 demonstrations", "seconds": 41.5},
        "round-1/labels": {"state": "waiting", "what": "waiting for labels: 120 of 500"},
    }
    (tmp_path / "state.json").write_text(json.dumps({"stages": entries}))
    lines = stages(tmp_path)
    assert lines == [
        StageLine("sft", "done", "SFT on 700 demonstrations", 41.5),
        StageLine("round-1/labels", "waiting", "waiting for labels: 120 of 500", None),
    ]
    assert waiting_for(lines) == (120, 500)


def test_a_run_that_waits_for_nobody_says_so():
    assert waiting_for([StageLine("sft", "done", "SFT", 1.0), StageLine("round-1/ppo", "running", "PPO", None)]) is None
