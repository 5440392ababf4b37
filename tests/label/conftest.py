"""A house to test in: the app over a store of its own, people of every role who are signed in, and tasks to answer.

Sessions are opened in the store, so that no test waits for a password to be hashed unless it is about passwords.
"""

import contextlib
import dataclasses
import http.server
import json
import shutil
import threading
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI
from starlette.testclient import TestClient

from tutelage.label.app import create_app
from tutelage.label.config import LabelConfig
from tutelage.label.limits import RateLimit
from tutelage.label.server import _listen
from tutelage.store.accounts import Account, create_account, get_account, open_session
from tutelage.store.db import Store, open_store
from tutelage.store.projects import (
    MemberRole,
    Project,
    ProjectSettings,
    TaskKind,
    add_member,
    change_member,
    change_settings,
    create_project,
    get_project,
)
from tutelage.store.tasks import NewTask, add_tasks
from tutelage.types import Completion, Message, Prompt

# Files that are tried on SQLite alone, each with the reason; all others that use the house are tried on both.
SQLITE_ONLY = {
    "test_access": "asks who may do what, and hardly what is stored: the matrix of all routes takes long",
    "test_hostile_text": "tries one text after the other in every field, for as long as all else together",
    "test_intake_fuzz": "tries whatever hypothesis thinks of on a store of the example's own",
    "test_limits": "counts requests in memory and measures bodies",
    "test_oidc": "speaks with a provider of identities",
}
CHROMIUM = next((p for n in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(n))), None)
ARGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
DAY = 86400.0
TEXTS = {"rank": 4, "compare": 2, "demonstrate": 0, "correct": 1, "critique": 1, "chat": 0}  # answers of a task


class Clock:
    """The store's clock, which stands still until it is moved."""

    def __init__(self) -> None:
        self.at = datetime(2026, 1, 5, 9, 0, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.at

    def forward(self, seconds: float) -> None:
        self.at += timedelta(seconds=seconds)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty store, brought up to date once: copying it is faster than the migrations."""
    path = tmp_path_factory.mktemp("migrated") / "label.db"
    open_store(path).close()
    return path


assert all(list(Path(__file__).parent.rglob(f"{name}.py")) for name in SQLITE_ONLY), "a name that is no file"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Whatever uses the house is tried on both databases, but in a browser and in the files of SQLITE_ONLY."""
    file = Path(metafunc.module.__file__ or "")
    if "label_store" in metafunc.fixturenames and file.stem not in SQLITE_ONLY and file.parent.name != "browser":
        both = ["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)]
        metafunc.parametrize("label_store", both, indirect=True)


def postgres_url(server: str, name: str) -> str:
    base, _, options = server.partition("?")
    return base.rsplit("/", 1)[0] + f"/{name}" + (f"?{options}" if options else "")


@contextlib.contextmanager
def postgres_database(server: str, template: str = "template1") -> Iterator[str]:
    """The name of a database of the server, made from a template; it is dropped in the end."""
    psycopg = pytest.importorskip("psycopg")
    name = f"tutelage_test_{uuid.uuid4().hex}"
    with psycopg.connect(server.replace("+psycopg", ""), autocommit=True) as conn:
        conn.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        yield name
        conn.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="session")
def migrated_postgres(postgres: str) -> Iterator[str]:
    """As `migrated`, in PostgreSQL: the name of a database to make others from."""
    with postgres_database(postgres) as name:
        open_store(postgres_url(postgres, name)).close()
        yield name


@pytest.fixture
def label_store(request: pytest.FixtureRequest, migrated: Path, tmp_path: Path, clock: Clock) -> Iterator[Store]:
    """An empty store by `clock`: SQLite, or PostgreSQL, see `pytest_generate_tests`."""
    if getattr(request, "param", "sqlite") == "sqlite":
        shutil.copy(migrated, tmp_path / "label.db")
        with open_store(tmp_path / "label.db", clock=clock) as store:
            yield store
        return
    server, template = request.getfixturevalue("postgres"), request.getfixturevalue("migrated_postgres")
    with postgres_database(server, template) as name, open_store(postgres_url(server, name), clock=clock) as store:
        yield store


@dataclasses.dataclass
class Person:
    """Somebody with an account, and her browser."""

    account: Account
    client: TestClient

    @property
    def name(self) -> str:
        """The pseudonym."""
        return self.account.pseudonym


class House:
    """The app with an owner and one project, and what a test needs to act in it."""

    def __init__(self, store: Store, config: LabelConfig, clock: Clock) -> None:
        self.store, self.config, self.clock = store, config, clock
        self.app: FastAPI = create_app(config, store)
        self.owner = self._signed_in(create_account(store, "owner@example.org", is_owner=True))
        self.project: Project = create_project(store, "House", settings=ProjectSettings(gold_share=0.0))
        self.n_people = 0

    # People.

    def nobody(self) -> TestClient:
        """A browser that is not signed in. A mistake of the app is raised in the test."""
        return TestClient(self.app, base_url=self.config.address, follow_redirects=False)

    def _signed_in(self, account: Account) -> Person:
        client = self.nobody()
        client.cookies.set("tutelage", open_session(self.store, account.id, seconds=30 * DAY))
        return Person(account, client)

    def stranger(self, email: str = "") -> Person:
        """Somebody with an account who is in no project."""
        self.n_people += 1
        account = create_account(self.store, email or f"person-{self.n_people}@example.org")
        return self._signed_in(account)

    def person(
        self, role: MemberRole = "labeller", project: Project | None = None, *, state: str = "active", email: str = ""
    ) -> Person:
        """A new member of a project."""
        found, of = self.stranger(email), project or self.project
        add_member(self.store, of.id, found.account.id, role)
        if state != "active":
            change_member(self.store, of.id, found.account.id, state=state)
        return Person(get_account(self.store, found.account.id), found.client)

    def another_project(self, name: str = "Elsewhere") -> Project:
        return create_project(self.store, name, settings=ProjectSettings(gold_share=0.0))

    def settings(self, **values: object) -> None:
        """Changes some settings of the project."""
        change_settings(self.store, self.project.id, self.project.settings.model_dump(mode="json") | values)
        self.project = get_project(self.store, self.project.slug)

    def without_limits(self) -> None:
        """From now on as many requests a second as a test likes."""
        endless = {"sign_ins": RateLimit(10**9, 1.0), "api_calls": RateLimit(10**9, 1.0)}
        self.app.state.label = dataclasses.replace(self.app.state.label, **endless)

    # Requests.

    def path(self, rest: str = "", project: Project | None = None) -> str:
        return f"/p/{(project or self.project).slug}/{rest}"

    def mark(self, client: TestClient) -> str:
        """The form mark of this browser's session."""
        session = client.cookies["tutelage"] if "tutelage" in client.cookies else ""
        return str(self.app.state.label.keys.form_mark(session)) if session else ""

    def post(self, client: TestClient, path: str, data: dict[str, Any] | None = None, **more: Any) -> Any:
        """Sends a form as a page of the app would."""
        sent = {"form_mark": self.mark(client), **(data or {})}
        return client.post(path, data=sent, headers={"sec-fetch-site": "same-origin"}, **more)

    def send(self, client: TestClient, path: str, body: object, method: str = "POST") -> Any:
        """Sends JSON as a script of the app would."""
        headers = {"sec-fetch-site": "same-origin", "x-form-mark": self.mark(client), "accept": "application/json"}
        return client.request(method, path, json=body, headers=headers)

    # Tasks.

    def task(
        self,
        kind: TaskKind = "rank",
        texts: list[str] | None = None,
        *,
        question: str = "Can I move my booking?",
        project: Project | None = None,
        **more: Any,
    ) -> NewTask:
        """Lays a task on the desk."""
        prompt = Prompt(messages=(Message(role="user", content=question),), source="round-1")
        written = [f"answer {i}" for i in range(TEXTS[kind])] if texts is None else texts
        completions = tuple(Completion(prompt_id=prompt.id, text=t, sample=i) for i, t in enumerate(written))
        made = NewTask(**{"kind": kind, "prompt": prompt, "completions": completions, "source": "round-1", **more})
        add_tasks(self.store, (project or self.project).id, [made])
        return made

    def next(self, person: Person, *have: str, kind: str = "") -> dict[str, Any] | None:
        """What the desk offers this person."""
        query = f"desk/next?have={','.join(have)}" + (f"&kind={kind}" if kind else "")
        answer = person.client.get(self.path(query))
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] | None = answer.json()["task"]
        return found

    def answer(self, person: Person, number: str, key: str, verb: str = "answer", **body: Any) -> Any:
        """Sends an answer (a ranking 1, 2, 3, 4 unless the body says more), a skip, or a revision."""
        said = {"tiers": [1, 2, 3, 4]} if verb in ("answer", "revise") and not body else body
        return self.send(person.client, self.path(f"desk/{number}/{verb}"), {"key": key, **said})


@pytest.fixture
def house(label_store: Store, tmp_path: Path, clock: Clock) -> House:
    return House(label_store, LabelConfig(store="label.db", data=tmp_path / "data"), clock)


class Server(uvicorn.Server):
    """A server in a thread of the test's process."""

    def install_signal_handlers(self) -> None:
        pass


@pytest.fixture
def server(house: House) -> Iterator[str]:
    """The address at which the house answers on a real socket."""
    with _listen(dataclasses.replace(house.config, port=0)) as listening:
        config = dataclasses.replace(house.config, port=listening.getsockname()[1])
        running = Server(uvicorn.Config(create_app(config, house.store), log_level="error", access_log=False))
        thread = threading.Thread(target=running.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        yield config.address
        running.should_exit = True
        thread.join(timeout=10)
    assert not thread.is_alive(), "the server did not stop"


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A headless Chromium for all tests of the session."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed here (Debian: apt-get install chromium)")
    with playwright.sync_playwright() as p:
        found = p.chromium.launch(executable_path=CHROMIUM, args=ARGS)
        yield found
        found.close()


class FakeModel:
    """A server on loopback that speaks as OpenAI's does. `say` makes each answer; it may be any bytes or status."""

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []  # body and headers of each call, in the order in which they came
        self.say: Any = lambda body, n: f"answer {n} of {body['model']}"
        self.port = 0

    @property
    def where(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"http://{self.where}/v1"

    def answer(self, path: str, body: bytes, headers: dict[str, str]) -> tuple[int, bytes, dict[str, str]]:
        """(status, bytes, headers) of the next call."""
        asked = json.loads(body) if body else {}
        self.calls.append({"path": path, "body": asked, "headers": headers})
        said = self.say(asked, len(self.calls))
        if isinstance(said, tuple):
            return said
        choice = {"index": 0, "message": {"role": "assistant", "content": said}, "finish_reason": "stop"}
        return 200, json.dumps({"id": "x", "model": asked["model"], "choices": [choice]}).encode(), {}


@pytest.fixture
def fake_model() -> Iterator[FakeModel]:
    """A model server of the test's own, until the test ends."""
    fake = FakeModel()
    lock = threading.Lock()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"] or 0))
            with lock:
                status, data, headers = fake.answer(self.path, body, dict(self.headers))
            self.send_response(status)
            for name, value in {"Content-Length": str(len(data)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            with contextlib.suppress(OSError):
                self.wfile.write(data)

        do_GET = do_POST

        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        fake.port = running.server_address[1]
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield fake
        running.shutdown()
        thread.join(timeout=10)
