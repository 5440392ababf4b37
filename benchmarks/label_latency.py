"""From the key that submits a ranking to the next task on screen, in a real browser: 9 answers of 400 words each.

    python benchmarks/label_latency.py [--tasks 200] [--words 400] [--cards 9]

Starts the app on loopback in this process and a headless Chromium beside it. The time runs from the key's own event
to the frame after the next task was drawn. Prints one JSON line.
"""

import argparse
import json
import random
import shutil
import socket
import statistics
import tempfile
import threading
import time
from pathlib import Path

import uvicorn
from playwright.sync_api import sync_playwright

from tutelage.label.app import create_app
from tutelage.label.config import LabelConfig
from tutelage.store.accounts import create_account, open_session
from tutelage.store.db import Store, open_store
from tutelage.store.projects import ProjectSettings, create_project
from tutelage.store.tasks import NewTask, add_tasks
from tutelage.types import Completion, Message, Prompt

WATCH = """
window.took = []; window.drawn = [];
addEventListener('keydown', (e) => {
  if (e.key === 'Enter') window.pressed = e.timeStamp;
  else requestAnimationFrame(() => window.drawn.push(performance.now() - e.timeStamp));
}, true);
document.addEventListener('desk:shown', () => {
  if (window.pressed === undefined) return;
  const from = window.pressed;
  requestAnimationFrame(() => requestAnimationFrame(() => window.took.push(performance.now() - from)));
});
"""


def fill(store: Store, args: argparse.Namespace) -> str:
    """Tasks of long answers and an owner to answer them; returns the session's token."""
    draw = random.Random(0)
    words = [f"{'aeiou'[i % 5]}{chr(98 + i % 20)}word{i}" for i in range(500)]
    owner = create_account(store, "owner@example.org", is_owner=True)
    project = create_project(store, "bench", settings=ProjectSettings(gold_share=0.0))
    tasks = []
    for i in range(args.tasks + 5):
        prompt = Prompt(messages=(Message(role="user", content=f"Question {i}?"),))
        texts = [" ".join(draw.choice(words) for _ in range(args.words)) for _ in range(args.cards)]
        completions = tuple(Completion(prompt_id=prompt.id, text=t, sample=k) for k, t in enumerate(texts))
        tasks.append(NewTask(kind="rank", prompt=prompt, completions=completions, source="bench"))
    add_tasks(store, project.id, tasks)
    return open_session(store, owner.id, seconds=7200)


def measure(address: str, token: str, args: argparse.Namespace) -> dict[str, list[float]]:
    """Milliseconds of each submission, and of each digit until its frame."""
    chromium = next(p for n in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(n)))
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-background-networking"])
        context = browser.new_context(viewport={"width": 1280, "height": 800})
        context.add_cookies([{"name": "tutelage", "value": token, "url": address}])
        page = context.new_page()
        page.add_init_script(WATCH)
        page.goto(f"{address}/p/bench/work")
        page.wait_for_selector(".step")
        for n in range(args.tasks):
            for k in range(args.cards):
                page.keyboard.press(str(k + 1))
            page.wait_for_timeout(args.think_ms)
            page.keyboard.press("Enter")
            while page.evaluate("window.took.length") <= n:
                time.sleep(0.005)
        found: dict[str, list[float]] = page.evaluate("({submit: window.took, digit: window.drawn})")
        browser.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--tasks", type=int, default=200)
    parser.add_argument("--words", type=int, default=400)
    parser.add_argument("--cards", type=int, default=9)
    parser.add_argument("--think-ms", type=int, default=300, help="between the last place and the submission")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, socket.socket() as s, open_store(Path(folder) / "s.db") as store:
        s.bind(("127.0.0.1", 0))
        config = LabelConfig(store=str(Path(folder) / "s.db"), data=Path(folder) / "data", port=s.getsockname()[1])
        s.listen()
        server = uvicorn.Server(uvicorn.Config(create_app(config, store), log_level="error"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [s]}, daemon=True)
        thread.start()
        found = measure(config.address, fill(store, args), args)
        server.should_exit = True
        thread.join(timeout=10)
    figures = {}
    for name, times in found.items():
        ordered = sorted(times)
        figures[name] = {
            "n": len(ordered),
            "median_ms": round(statistics.median(ordered), 1),
            "p95_ms": round(ordered[int(0.95 * (len(ordered) - 1))], 1),
            "max_ms": round(ordered[-1], 1),
        }
    print(json.dumps({"benchmark": "label_latency", "cards": args.cards, "words": args.words, **figures}))


if __name__ == "__main__":
    main()
