"""Many labelers at once over real HTTP, and a server that is killed (-9) again and again: is any answer lost?

    python benchmarks/label_load.py [--minutes 1] [--people 50] [--kill-every 30]
    python benchmarks/label_load.py --steady [--rate 60]    # no kills: how fast is an answer taken?

Starts `tutelage label` on loopback as a process of its own, and people as threads of this one. Each takes tasks, ranks
them and sends the answer until it is acknowledged, always under the same key. What was acknowledged is written down
here and compared with the store in the end. Prints one JSON line; ends with 1 when an answer was lost or doubled, or a
task was given to too many.
"""

import argparse
import contextlib
import http.client
import json
import os
import random
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tutelage.label.keys import Keys
from tutelage.store.accounts import create_account, open_session
from tutelage.store.assignments import answers_of
from tutelage.store.chain import verify_chain
from tutelage.store.db import Store, open_store
from tutelage.store.feedback import events
from tutelage.store.projects import ProjectSettings, add_member, create_project, get_project
from tutelage.store.tasks import NewTask, add_tasks, list_tasks
from tutelage.types import Completion, Message, Prompt, Ranking

SLUG = "load"
PATIENCE_S = 60.0  # that an answer is sent again before it counts as never acknowledged
GUESS_PER_S = 150  # answers: more tasks than that are not needed


@dataclass(frozen=True)
class Told:
    """One acknowledged answer."""

    labeler: str
    assignment: str
    tiers: tuple[int, ...]
    seq: int


@dataclass
class Notes:
    """What the people wrote down. Each thread adds under the lock."""

    told: dict[str, Told] = field(default_factory=dict)  # by key
    submit_s: list[float] = field(default_factory=list)  # since they were due, of answers taken at the first attempt
    next_s: list[float] = field(default_factory=list)  # until the next task came
    errors: Counter[str] = field(default_factory=Counter)
    away: int = 0  # requests that met no server, or one that was going down
    empty: int = 0  # times that nothing was on the desk
    lock: threading.Lock = field(default_factory=threading.Lock)


class Server:
    """The app as a process that can be killed."""

    def __init__(self, where: str, data: Path, port: int) -> None:
        self._command = [sys.executable, "-m", "tutelage", "label", "--store", where, "--data", str(data)]
        self._command += ["--port", str(port)]
        self._port, self.kills, self.start_s = port, 0, list[float]()
        self.start()

    def start(self) -> None:
        began = time.monotonic()
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        until = time.monotonic() + 60
        while time.monotonic() < until:
            if self._process.poll() is not None:
                raise SystemExit(f"the server ended with {self._process.returncode}: {self._process.communicate()[1]}")
            with contextlib.suppress(OSError, http.client.HTTPException):
                connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=5)
                connection.request("GET", "/health")
                if connection.getresponse().status == 200:
                    threading.Thread(target=self._process.communicate, daemon=True).start()
                    self.start_s.append(time.monotonic() - began)
                    return
            time.sleep(0.02)
        raise SystemExit("the server did not start within a minute")

    def cpu_s(self) -> float:
        """Processor time that the process which runs now has used."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def kill(self) -> None:
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        self.kills += 1

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(timeout=30)


class Person(threading.Thread):
    """Keeps a task ready and sends its ranking when it is due, until she is told to stop; what she has begun to send,
    she sends to the end.

    The times at which answers are due are drawn beforehand, whatever the server does, and how long an answer took
    counts from there: a server that falls behind is not asked less, nor judged by the moment at which it was asked.
    """

    def __init__(self, i: int, name: str, token: str, mark: str, port: int, wait_s: float, notes: Notes) -> None:
        super().__init__(daemon=True)
        self._draw, self._pseudonym, self._port, self._wait_s = random.Random(i), name, port, wait_s
        self._headers = {
            "Cookie": f"tutelage={token}", "X-Form-Mark": mark, "Sec-Fetch-Site": "same-origin",
            "Accept": "application/json", "Content-Type": "application/json",
        }  # fmt: skip
        self._notes, self._connection = notes, None
        self.stopped = threading.Event()

    def run(self) -> None:
        self.stopped.wait(self._draw.uniform(0.0, self._wait_s))  # people do not all come in the same instant
        due = time.monotonic()
        while not self.stopped.is_set():
            task = self._take()
            due = due + self._draw.expovariate(1 / self._wait_s) if self._wait_s else time.monotonic()
            if task is None or self.stopped.wait(max(0.0, due - time.monotonic())):
                return
            self._rank(task, due)

    def _take(self) -> dict[str, Any] | None:
        """The next task; None when she was told to stop before there was one."""
        while not self.stopped.is_set():
            began = time.monotonic()
            found = self._ask("GET", f"/p/{SLUG}/desk/next", None)
            if found is None or found[0] != 200:
                self._stumble(found)
            elif found[1]["task"] is None:
                with self._notes.lock:
                    self._notes.empty += 1
                self.stopped.wait(0.5)
            else:
                with self._notes.lock:
                    self._notes.next_s.append(time.monotonic() - began)
                task: dict[str, Any] = found[1]["task"]
                return task
        return None

    def _rank(self, task: dict[str, Any], due: float) -> None:
        tiers = list(range(1, len(task["cards"]) + 1))
        self._draw.shuffle(tiers)
        key = f"{self._draw.getrandbits(96):024x}"
        body = json.dumps({"key": key, "tiers": tiers, "active_ms": 1000}).encode()
        until, attempts = time.monotonic() + PATIENCE_S, 0
        while time.monotonic() < until:
            attempts += 1
            found = self._ask("POST", f"/p/{SLUG}/desk/{task['id']}/answer", body)
            if found is not None and found[0] == 200:
                with self._notes.lock:
                    told = Told(self._pseudonym, task["id"], tuple(tiers), found[1]["committed"])
                    self._notes.told[key] = told
                    if attempts == 1:
                        self._notes.submit_s.append(time.monotonic() - due)
                return
            self._stumble(found)
            if found is not None and found[0] < 500:
                return  # a refusal is final; it is counted as an error
        with self._notes.lock:
            self._notes.errors["never acknowledged"] += 1

    def _stumble(self, found: tuple[int, Any] | None) -> None:
        with self._notes.lock:
            if found is None or found[0] == 503:
                self._notes.away += 1
            else:
                self._notes.errors[f"{found[0]}: {str(found[1])[:200]}"] += 1
        time.sleep(0.05 + 0.1 * self._draw.random())

    def _ask(self, method: str, path: str, body: bytes | None) -> tuple[int, Any] | None:
        """Status and JSON; None when the connection was refused or broke."""
        try:
            if self._connection is None:
                self._connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=30)
            self._connection.request(method, path, body, self._headers)
            answer = self._connection.getresponse()
            return answer.status, json.loads(answer.read())
        except (OSError, http.client.HTTPException, ValueError):
            if self._connection is not None:
                self._connection.close()
            self._connection = None
            return None


def fill(store: Store, args: argparse.Namespace) -> list[tuple[str, str]]:
    """A project with tasks enough, and people; returns pseudonym and session of each."""
    project = create_project(store, "load", settings=ProjectSettings(gold_share=0.0, mix={"rank": 1}))
    people = []
    for i in range(args.people):
        account = create_account(store, f"person-{i}@example.org")
        add_member(store, project.id, account.id, "labeller")
        people.append((account.pseudonym, open_session(store, account.id, seconds=86_400)))
    guess = args.rate if args.steady and args.rate else GUESS_PER_S
    n = args.tasks or int(guess * args.minutes * 60 / args.overlap) + args.people
    made = []
    for i in range(n):
        prompt = Prompt(messages=(Message(role="user", content=f"Question {i}?"),))
        texts = [f"Answer {k} to question {i}. " + "It goes on for a while. " * 8 for k in range(args.cards)]
        completions = tuple(Completion(prompt_id=prompt.id, text=t, sample=k) for k, t in enumerate(texts))
        made.append(NewTask(kind="rank", prompt=prompt, completions=completions, source="load", overlap=args.overlap))
    add_tasks(store, project.id, made)
    return people


def compare(store: Store, notes: Notes) -> dict[str, int]:
    """What the store holds against what was acknowledged."""
    project = get_project(store, SLUG)
    stored = list(events(store, kinds=["ranking"]))
    by_key = {e.feedback.idempotency_key: e for e in stored}
    answered = [h for h in answers_of(store, project.id) if h.state == "answered"]
    held = {h.id: h for h in answered}
    lost = changed = 0
    for key, told in notes.told.items():
        event = by_key[key] if key in by_key else None
        if event is None or event.seq != told.seq or told.assignment not in held:
            lost += 1
            continue
        j, cards = event.feedback.judgement, held[told.assignment].cards
        assert isinstance(j, Ranking), "only rankings were asked for"
        tier_of = {i.completion_id: i.tier for i in j.items}
        changed += event.feedback.labeler != told.labeler or tuple(tier_of[c[0]] for c in cards) != told.tiers
    twice = Counter((e.feedback.labeler, e.feedback.prompt_id) for e in stored)
    by_task, before, over, tasks = Counter(h.task.id for h in answered), None, 0, 0
    while page := list_tasks(store, project.id, before=before, limit=1000):
        before, tasks = page[-1][0].id, tasks + len(page)
        over += sum(by_task[t.id] > t.overlap or t.slots < 0 or by_task[t.id] + t.slots > t.overlap for t, _ in page)
    return {
        "lost": lost,
        "changed": changed,
        "doubled": sum(n - 1 for n in twice.values()) + abs(len(stored) - len(answered)),
        "over_assigned": over,
        "tasks": tasks,
        "stored": len(stored),
        "stored_unacknowledged": len(set(by_key) - set(notes.told)),
        "chain": verify_chain(store).seq,
    }


def work(server: Server, crowd: list[Person], args: argparse.Namespace) -> tuple[float, float]:
    """Lets the people work and kills the server between. Returns the seconds in which it was up, and the processor time
    that the last server used meanwhile.
    """
    used = server.cpu_s()
    for one in crowd:
        one.start()
    end, down = time.monotonic() + args.minutes * 60, 0.0
    began = time.monotonic()
    while (left := end - time.monotonic()) > 0:
        time.sleep(left if args.steady else min(args.kill_every, left))
        if not args.steady and time.monotonic() < end - 1:
            fell = time.monotonic()
            server.kill()
            server.start()
            down, used = down + time.monotonic() - fell, server.cpu_s()
    for one in crowd:
        one.stopped.set()
    took = time.monotonic() - began - down
    for one in crowd:
        one.join(timeout=PATIENCE_S + 30)
    return took, server.cpu_s() - used


def in_ms(seconds: list[float]) -> dict[str, float]:
    ordered = sorted(seconds) or [0.0]
    at = {"p50": 0.5, "p95": 0.95, "p99": 0.99, "max": 1.0}
    return {name: round(1000 * ordered[int(q * (len(ordered) - 1))], 1) for name, q in at.items()}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--people", type=int, default=50)
    parser.add_argument("--kill-every", type=float, default=30.0, help="seconds")
    parser.add_argument("--steady", action="store_true", help="no kills")
    parser.add_argument("--rate", type=float, default=0.0, help="answers a second of all together; 0 = all they can")
    parser.add_argument("--tasks", type=int, default=0, help="0 = as many as can be needed")
    parser.add_argument("--overlap", type=int, default=3)
    parser.add_argument("--cards", type=int, default=4)
    parser.add_argument("--store", default="", help="an empty PostgreSQL database by URL; SQLite in a folder if empty")
    return parser.parse_args()


def main() -> None:
    args, notes, load = arguments(), Notes(), os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        where, data = args.store or str(Path(folder) / "load.db"), Path(folder) / "data"
        with open_store(where) as store:
            people = fill(store, args)
        keys = Keys(data)
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            port = s.getsockname()[1]
        server = Server(where, data, port)
        wait_s = args.people / args.rate if args.rate else 0.0
        crowd = [Person(i, n, t, keys.form_mark(t), port, wait_s, notes) for i, (n, t) in enumerate(people)]
        up_s, cpu_s = work(server, crowd, args)
        server.stop()
        mine = resource.getrusage(resource.RUSAGE_SELF)
        with open_store(where) as store:
            found = compare(store, notes)
    result = {
        "benchmark": "label_load", "store": "postgresql" if args.store else "sqlite", "people": args.people,
        "minutes": args.minutes, "kills": server.kills, "acknowledged": len(notes.told), **found,
        "met_no_server": notes.away, "errors": dict(notes.errors), "empty_desks": notes.empty,
        "rate_asked": args.rate or None, "answers_per_s": round(len(notes.told) / up_s, 1),
        "submit_ms": in_ms(notes.submit_s), "next_ms": in_ms(notes.next_s),
        "start_s_max": round(max(server.start_s), 2),
        "client_cpu_s": round(mine.ru_utime + mine.ru_stime, 1), "cores": os.cpu_count(), "load_before": round(load, 1),
    }  # fmt: skip
    if args.steady:
        result["server_cpu_ms_an_answer"] = round(1000 * cpu_s / max(1, len(notes.told)), 2)
    print(json.dumps(result))
    sys.exit(bool(found["lost"] or found["changed"] or found["doubled"] or found["over_assigned"] or notes.errors))


if __name__ == "__main__":
    main()
