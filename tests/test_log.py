"""Metrics survive a kill: rows to come are dropped, a cut line is no row."""

import json

import pytest

from tutelage.errors import ConfigError
from tutelage.log import MetricsLog, Progress, read_metrics


def write(path, steps, **kw):
    log = MetricsLog(path, **kw)
    for step in steps:
        log.write(step, {"loss": step / 2})
    return log


def test_a_resumed_run_writes_each_step_once(tmp_path):
    path = tmp_path / "run" / "metrics.jsonl"
    write(path, range(5))
    write(path, range(3, 6), resume_at=3)
    assert [row["step"] for row in read_metrics(path)] == [0, 1, 2, 3, 4, 5]
    assert list(path.parent.iterdir()) == [path]


def test_a_fresh_run_begins_an_empty_file(tmp_path):
    path = tmp_path / "metrics.jsonl"
    write(path, range(3))
    MetricsLog(path)
    assert read_metrics(path) == []


def test_a_line_that_a_kill_cut_short_is_no_row_and_does_not_spoil_the_next(tmp_path):
    path = tmp_path / "metrics.jsonl"
    write(path, range(3))
    path.write_bytes(path.read_bytes()[:-4])
    assert [row["step"] for row in read_metrics(path)] == [0, 1]
    write(path, [2], resume_at=3)
    assert read_metrics(path) == [{"step": 0, "loss": 0.0}, {"step": 1, "loss": 0.5}, {"step": 2, "loss": 1.0}]


def test_a_row_is_one_line_of_json_whatever_its_names_hold(tmp_path):
    path = tmp_path / "metrics.jsonl"
    MetricsLog(path).write(0, {"win\u2028rate": 0.5, "größe": 1.0})
    assert read_metrics(path) == [{"step": 0, "win\u2028rate": 0.5, "größe": 1.0}]
    assert json.loads(path.read_text(encoding="utf-8")) == read_metrics(path)[0]


def test_tensorboard_that_is_not_installed_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "tensorboard.summary", None)
    with pytest.raises(ConfigError, match="pip install tensorboard"):
        MetricsLog(tmp_path / "metrics.jsonl", tensorboard=True)


def test_the_progress_line_tells_rate_and_time_left():
    progress = Progress("sft", 10)
    progress.done, progress.tokens = 4, 800
    # 4 of 10 steps in 8 s: 6 more take 12 s; 800 tokens in 8 s are 100 a second.
    assert progress.line(8.0, {"loss": 1.23456}) == "  sft 4/10  100 tokens/s  12 s left  loss 1.23"
    progress.done = 10
    assert progress.line(20.0, {}) == "  sft 10/10  40 tokens/s  20 s"


def test_progress_writes_its_last_line_into_a_pipe(capsys):
    progress = Progress("sft", 3, every_s=1e9)
    for _ in range(3):
        progress.advance(loss=0.5)
    assert capsys.readouterr().err.count("sft 3/3") == 1
