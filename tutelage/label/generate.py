"""Live generation: prompts go to one or several endpoints, and what they answer becomes tasks for people.

A job in the background. Whatever is stored stays: a job that is taken up again asks only for what is missing.
"""

import queue
import threading
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tutelage.errors import DataError, StoreError
from tutelage.label.access import App
from tutelage.label.endpoints import PREFIX, Said, Sampling, ask, written
from tutelage.label.outgoing import NoAnswer
from tutelage.label.worker import Cut, work
from tutelage.store.completions import add_completions, completions_of
from tutelage.store.projects import Project
from tutelage.store.prompts import add_prompts, get_prompts
from tutelage.store.tasks import NewTask, add_tasks
from tutelage.store.tools import Endpoint, Job, add_job, endpoints, report_job
from tutelage.types import Completion, Fact, Message, Prompt, digest

CALLS = 4  # at once
TRIES = 5
PAUSE_S = 1.0  # before the second try; doubled each time
LONGEST_PAUSE_S = 60.0
GIVE_UP = 5  # calls in a row that an endpoint refuses: then the job ends
MOST_PROMPTS = 2000
LONGEST = 20_000  # characters of a prompt


class Order(Fact):
    """What is to be generated, as the job keeps it. `nonce` makes the seeds: the same order again is another draw."""

    prompts: tuple[str, ...]  # ids
    endpoints: tuple[int, ...]
    n: int  # completions of each prompt, over all endpoints
    temperature: float
    max_tokens: int
    kind: str
    source: str
    overlap: int
    nonce: str


@dataclass(frozen=True, slots=True)
class Slot:
    """One completion that is wanted."""

    prompt: Prompt
    endpoint: Endpoint
    seed: int
    i_sample: int


def lines_as_prompts(text: str, source: str) -> list[Prompt]:
    """One prompt a line, each once; empty lines are none."""
    lines = list(dict.fromkeys(line.strip() for line in text.replace("\x00", "").splitlines() if line.strip()))
    for i, line in enumerate(lines, start=1):
        if len(line) > LONGEST:
            raise DataError(f"prompt {i} has {len(line)} characters, more than {LONGEST}. Shorten it.")
    return [Prompt(messages=(Message(role="user", content=line),), source=source) for line in lines]


def order(
    app: App,
    project: Project,
    prompts: Sequence[Prompt],
    *,
    endpoint_ids: Sequence[int],
    n: int,
    sampling: Sampling,
    kind: str,
    source: str,
    nonce: str,
) -> int:
    """Checks what is asked for and puts the job into the queue; returns its number."""
    known = {e.id for e in endpoints(app.store, project.id)}
    if not endpoint_ids or not set(endpoint_ids) <= known:
        raise DataError("choose one or more of this project's endpoints.")
    if not 1 <= len(prompts) <= MOST_PROMPTS:
        raise DataError(f"{len(prompts)} prompts: give 1 to {MOST_PROMPTS}.")
    if kind == "compare" and n != 2:
        raise DataError(f"a comparison is between 2 answers, not {n}. Set 2, or choose a ranking.")
    if not 2 <= n <= 9:
        raise DataError(f"{n} answers to a prompt: give 2 to 9.")
    if len(set(endpoint_ids)) > n:
        raise DataError(f"{len(set(endpoint_ids))} endpoints cannot share {n} answers. Choose fewer, or ask for more.")
    add_prompts(app.store, prompts)
    wanted = Order(
        prompts=tuple(p.id for p in prompts),
        endpoints=tuple(dict.fromkeys(endpoint_ids)),
        n=n,
        temperature=sampling.temperature,
        max_tokens=sampling.max_tokens,
        kind=kind,
        source=source,
        overlap=project.settings.overlap,
        nonce=nonce,
    )
    return add_job(app.store, project.id, "generate", wanted.model_dump(mode="json"), len(prompts) * n)


def slots(prompts: Sequence[Prompt], chosen: Sequence[Endpoint], wanted: Order) -> list[Slot]:
    """Every completion that is wanted. The endpoints take turns, and begin with another at each prompt."""
    made = []
    for i, prompt in enumerate(prompts):
        for k in range(wanted.n):
            endpoint = chosen[(i + k) % len(chosen)]
            seed = int(digest("generate", wanted.nonce, prompt.id, endpoint.id, k)[:7], 16)
            made.append(Slot(prompt, endpoint, seed, k))
    return made


@work("generate")
def generate(app: App, job: Job) -> dict[str, Any]:
    """Asks for what is missing, stores each answer as it comes, and lays the tasks on the desk."""
    wanted = Order.model_validate(job.request)
    by_id = {e.id: e for e in endpoints(app.store, job.project_id)}
    if gone := [n for n in wanted.endpoints if n not in by_id]:
        raise DataError(f"endpoint {gone[0]} was removed meanwhile. Order again with another.")
    prompts = get_prompts(app.store, wanted.prompts)
    sampling = Sampling(temperature=wanted.temperature, max_tokens=wanted.max_tokens)
    plan = slots(prompts, [by_id[n] for n in wanted.endpoints], wanted)
    have = _kept(app, prompts, plan)
    missing = [s for s in plan if (s.prompt.id, s.seed) not in have]
    report_job(app.store, job.id, done=len(have), total=len(plan))
    failed: Counter[str] = Counter()
    in_a_row: Counter[int] = Counter()
    for slot, outcome in _answers(app, missing, sampling):
        if isinstance(outcome, DataError):
            failed[str(outcome)] += 1
            in_a_row[slot.endpoint.id] += 1
            if in_a_row[slot.endpoint.id] >= GIVE_UP:
                raise DataError(f"{outcome} {len(have)} answers are kept; run it again to go on from there.")
            continue
        in_a_row[slot.endpoint.id] = 0
        made = written(app, slot.prompt, outcome, sampling, slot.seed, slot.i_sample)
        add_completions(app.store, [made])
        have[slot.prompt.id, slot.seed] = made
        report_job(app.store, job.id, done=len(have))
    return _lay_out(app, job, wanted, plan, have, failed)


def _kept(app: App, prompts: Sequence[Prompt], plan: Sequence[Slot]) -> dict[tuple[str, int], Completion]:
    """What an earlier run of the same job has stored, by prompt and seed."""
    seeds = {(s.prompt.id, s.seed) for s in plan}
    return {
        (prompt.id, c.seed): c
        for prompt in prompts
        for c in completions_of(app.store, prompt.id)
        if c.seed is not None and (prompt.id, c.seed) in seeds and (c.model_version or "").startswith(PREFIX)
    }


def _lay_out(
    app: App,
    job: Job,
    wanted: Order,
    plan: Sequence[Slot],
    have: dict[tuple[str, int], Completion],
    failed: Counter[str],
) -> dict[str, Any]:
    """The tasks of the prompts whose answers are all there, and what became of the others."""
    groups: dict[str, list[Slot]] = {}
    for slot in plan:
        groups.setdefault(slot.prompt.id, []).append(slot)
    tasks, incomplete, alike = [], 0, 0
    for group in groups.values():
        found = [have[s.prompt.id, s.seed] for s in group if (s.prompt.id, s.seed) in have]
        if len(found) < len(group):
            incomplete += 1
            continue
        task = NewTask(
            kind="compare" if wanted.kind == "compare" else "rank",
            prompt=group[0].prompt,
            completions=tuple(found),
            source=wanted.source,
            overlap=wanted.overlap,
        )
        try:
            task.check()
        except StoreError:  # all the same text: there is nothing to rank
            alike += 1
            continue
        tasks.append(task)
    added = add_tasks(app.store, job.project_id, tasks)
    return {
        "tasks": added.new + added.known, "incomplete": incomplete, "alike": alike,
        "error": failed.most_common(1)[0][0] if failed else "",
    }  # fmt: skip


def _answers(app: App, missing: Sequence[Slot], sampling: Sampling) -> Iterator[tuple[Slot, Said | DataError]]:
    """Calls some at a time, in threads that touch no store, and gives each outcome as it comes.

    Never more than CALLS are under way or not yet looked at, so a server that refuses is not asked on.
    """
    todo, came = deque(missing), queue.Queue[tuple[Slot, Said | Exception]]()
    over, ahead = threading.Event(), threading.Semaphore(CALLS)

    def caller() -> None:
        while not over.is_set() and not app.stopping.is_set():
            if not ahead.acquire(timeout=0.2):
                continue
            try:
                slot = todo.popleft()
            except IndexError:
                return
            try:
                came.put((slot, _ask_patiently(app, slot, sampling, over)))
            except Exception as e:  # the top of a thread: the job raises it again, and fails aloud
                came.put((slot, e))

    for i in range(min(CALLS, len(missing))):
        threading.Thread(target=caller, name=f"tutelage-call-{i}", daemon=True).start()
    try:
        left = len(missing)
        while left:
            if app.stopping.is_set():
                raise Cut
            try:
                slot, outcome = came.get(timeout=0.2)
            except queue.Empty:
                continue
            if not isinstance(outcome, Said | DataError):
                raise outcome
            left -= 1
            yield slot, outcome
            ahead.release()  # not before: after a refusal nobody asks on while it is being looked at
    finally:
        over.set()


def _ask_patiently(app: App, slot: Slot, sampling: Sampling, over: threading.Event) -> Said | DataError:
    """Asks again when the server is busy or away; the error when it stays so."""
    pause, n = PAUSE_S, 0
    while True:
        n += 1
        try:
            return ask(app, slot.endpoint, slot.prompt.messages, sampling, slot.seed)
        except NoAnswer as e:
            may_pass = e.status in (0, 429) or e.status >= 500
            if not may_pass or n == TRIES or over.is_set() or app.stopping.is_set():
                return e
            wait = min(LONGEST_PAUSE_S, max(pause, e.after_s or 0.0))
        except DataError as e:
            return e
        pause *= 2
        if over.wait(wait):
            return DataError("the job ended meanwhile.")
