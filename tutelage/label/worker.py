"""Background jobs: a thread that takes them from the store one at a time. A killed server takes them up again."""

import threading
import traceback
from collections.abc import Callable

from tutelage.errors import TutelageError
from tutelage.label.access import App
from tutelage.log import say
from tutelage.store.tools import Job, report_job, take_job, take_up_again

Work = Callable[[App, Job], dict[str, object]]
WORKS: dict[str, Work] = {}  # by kind of job; each file of `label` that has one registers it


class Cut(Exception):
    """The server stops, and a job with it: the next server takes the job up again where it was."""


def work(kind: str) -> Callable[[Work], Work]:
    """Registers what a kind of job does. It must be safe to run again after it was cut off anywhere."""

    def registered(function: Work) -> Work:
        WORKS[kind] = function
        return function

    return registered


class Worker:
    """One thread; `stop` lets the step in hand end."""

    def __init__(self, app: App, every_s: float = 0.5) -> None:
        self._app, self._every_s = app, every_s
        self._stop = app.stopping
        self._thread = threading.Thread(target=self._run, name="tutelage-jobs", daemon=True)

    def start(self) -> None:
        self._stop.clear()
        take_up_again(self._app.store)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(timeout=10)

    def _run(self) -> None:
        while not self._stop.is_set():
            job = take_job(self._app.store)
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
