"""A whole round with people: a run waits for labels, the browser ranks, the run goes on by itself to a new policy."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tutelage.formats.rows import read_rows
from tutelage.model.chat import Chat
from tutelage.model.checkpoint import save_causal
from tutelage.model.load import new_llama
from tutelage.model.tokenizer import train_bpe
from tutelage.store.db import open_store
from tutelage.store.lineage import trace
from tutelage.store.projects import projects

ROOT = Path(__file__).parents[3]
N = 24  # rankings that the round needs


@pytest.fixture
def tiny_base(tmp_path):
    """A two-layer model that has read nothing, with a tokenizer of the demo's words."""
    rows = read_rows(ROOT / "tutelage" / "assets" / "demo" / "demonstrations.jsonl")
    chat = Chat(train_bpe([row["completion"] for _, row in rows], 600), window=160)
    model = new_llama(vocabulary=600, width=32, layers=2, heads=2, window=160, eos_id=chat.end_id, seed=1)
    save_causal(tmp_path / "tiny", model, chat, {"stage": "base"})
    return tmp_path / "tiny"


def until(what, seconds=120.0):
    """Looks until it is true; the bound is for a broken run only."""
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "the run did not get that far"
        time.sleep(0.2)


def test_people_rank_in_the_browser_and_the_waiting_run_trains_on_it(tiny_base, tmp_path, label_run, visit):
    out = tmp_path / "run"
    settings = [f"base={tiny_base}", "collect.labels=people", f"collect.prompts={N}", "evaluation.prompts=12"]
    command = [sys.executable, "-m", "tutelage", "run", str(ROOT / "benchmarks" / "tiny.toml"), "--out", str(out)]
    log = (tmp_path / "log").open("w+")
    run = subprocess.Popen([*command, "--wait", *(x for s in settings for x in ("--set", s))], stderr=log, stdout=log)
    try:
        until(lambda: (out / "state.json").exists() and "waiting for labels" in (out / "state.json").read_text())
        site = label_run(out)
        page = visit("owner", at=site)
        page.goto(site.path("run"))
        page.get_by_role("heading", name="Waiting for labels: 0 of").wait_for()
        page.goto(site.path("work"))
        page.wait_for_selector(".step")
        while page.locator("article.answer").count():
            k = page.locator("article.answer").count()
            for i in range(k):
                page.keyboard.press(str(i + 1))
            page.keyboard.press("Enter")
            page.wait_for_timeout(50)
        page.locator("#status", has_text="Saved").wait_for()
        until(lambda: run.poll() is not None)
        assert run.returncode == 0, (tmp_path / "log").read_text()
    finally:
        run.kill()
        log.close()
    assert json.loads((out / "round-1" / "labels" / "labels.json").read_text())["simulated"] is False
    summary = json.loads((out / "summary.json").read_text())
    assert summary["labelers"]["human"] == 1
    with open_store(out / "store.db") as store:
        lineage = trace(store, summary["policies"]["round 1"])
        assert site.owner.pseudonym in lineage.labelers
        assert [p.slug for p in projects(store)] == ["run"]
