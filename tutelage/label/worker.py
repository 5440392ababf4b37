"""Background jobs, taken from the store one after the other. A killed server takes them up again.

Two threads: what needs nobody outside, a file say, does not stand in line behind what waits for a model for hours.
"""

import threading
import traceback
from collections.abc import Callable

from tutelage.errors import TutelageError
from tutelage.label.access import App
from tutelage.log import say
from tutelage.store.tools import Job, report_job, take_job, take_up_again

Work = Callable[[App, Job], dict[str, object]]
WORKS: dict[str, Work] = {}  # by kind of job; each file of `label` that has one registers it
LOCAL: set[str] = set()  # kinds that need nobody outside


class Cut(Exception):
    """The server stops, and a job with it: the next server takes the job up again where it was."""


def work(kind: str, *, is_local: bool = False) -> Callable[[Work], Work]:
    """Registers what a kind of job does. It must be safe to run again after it was cut off anywhere."""

    def registered(function: Work) -> Work:
        WORKS[kind] = function
        if is_local:
            LOCAL.add(kind)
        return function

    return registered


class Worker:
    """The threads; `stop` lets the steps in hand end."""

    def __init__(self, app: App, every_s: float = 0.5) -> None:
        self._app, self._every_s = app, every_s
        self._stop = app.stopping
        self._threads = [
            threading.Thread(target=self._run, args=(is_local,), name="tutelage-jobs", daemon=True)
            for is_local in (True, False)
        ]

    def start(self) -> None:
        self._stop.clear()
        take_up_again(self._app.store)
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(timeout=10)

    def _run(self, is_local: bool) -> None:
        store = self._app.store
        while not self._stop.is_set():
            job = take_job(store, only=LOCAL) if is_local else take_job(store, but=LOCAL)
            if job is None:
                self._stop.wait(self._every_s)
                continue
            try:
                report_job(self._app.store, job.id, state="done", result=WORKS[job.kind](self._app, job))
            except Cut:
                return
            except TutelageError as e:
                report_job(self._app.store, job.id, state="failed", result={"error": str(e)})
            except Exception as e:  # the top of a worker: this job fails, the next one runs, and the log says why
                say(f"job {job.id} ({job.kind}) failed:\n{traceback.format_exc()}")
                report_job(
                    self._app.store, job.id, state="failed", result={"error": f"{type(e).__name__}, see the log"}
                )
