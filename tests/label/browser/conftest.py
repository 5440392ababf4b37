"""The app on a real socket and a real browser before it. Skipped with a reason where no Chromium is installed."""

import contextlib
import dataclasses
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import uvicorn
from fastapi import FastAPI

from tutelage.label.app import create_app
from tutelage.label.config import LabelConfig
from tutelage.store.accounts import Account, create_account, get_account, open_session
from tutelage.store.db import Store, open_store
from tutelage.store.projects import (
    Project,
    ProjectSettings,
    add_member,
    change_settings,
    create_project,
    get_project,
    projects,
    publish_guideline,
)
from tutelage.store.tasks import NewTask, add_tasks
from tutelage.types import Completion, Message, Prompt


@pytest.fixture(scope="session")
def chromium(browser):
    """The one Chromium of the session: a second Playwright cannot start beside it."""
    return browser


@dataclass
class Site:
    """A running app over its store, with an owner and one project."""

    store: Store
    address: str
    owner: Account
    project: Project
    config: LabelConfig
    app: FastAPI
    people: dict[str, Account] = field(default_factory=dict)

    def person(self, role: str) -> Account:
        """A member of this role, made when first asked for."""
        if role == "owner":
            return self.owner
        if role not in self.people:
            account = create_account(self.store, f"{role}@example.org")
            add_member(self.store, self.project.id, account.id, role)  # type: ignore[arg-type]
            self.people[role] = get_account(self.store, account.id)
        return self.people[role]

    def path(self, rest: str) -> str:
        return f"{self.address}/p/{self.project.slug}/{rest}"

    def settings(self, **values: object) -> None:
        change_settings(self.store, self.project.id, self.project.settings.model_dump(mode="json") | values)
        self.project = get_project(self.store, self.project.slug)

    def on_run(self, folder: Path) -> None:
        """From now on the app is that of a run's directory."""
        label = self.app.state.label
        self.app.state.label = dataclasses.replace(label, config=dataclasses.replace(label.config, run=folder))

    def task(
        self,
        kind: str,
        texts: list[str],
        *,
        question: str = "Can I move my booking?",
        models: tuple[str | None, ...] = (None,),
        **more: object,
    ) -> None:
        """Lays a task on the desk; `models` wrote its answers in turn."""
        prompt = Prompt(messages=(Message(role="user", content=question),), source="round-1")
        completions = tuple(
            Completion(prompt_id=prompt.id, text=t, sample=i, model_version=models[i % len(models)])
            for i, t in enumerate(texts)
        )
        wanted = {"source": "round-1", **more}
        add_tasks(self.store, self.project.id, [NewTask(kind=kind, prompt=prompt, completions=completions, **wanted)])  # type: ignore[arg-type]


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


class Server(uvicorn.Server):
    """A server in a thread of the test's process."""

    def install_signal_handlers(self) -> None:
        pass


@contextlib.contextmanager
def listening(store: Store, config: LabelConfig) -> Iterator[FastAPI]:
    """The app over this store, on a socket, until the block ends."""
    app = create_app(config, store)
    server = Server(uvicorn.Config(app, port=config.port, log_level="error", access_log=False))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield app
    server.should_exit = True
    thread.join(timeout=10)


@pytest.fixture
def label_fresh(tmp_path: Path):
    """(app, address) of an installation that nobody owns yet."""
    with open_store(tmp_path / "fresh.db") as store:
        config = LabelConfig(store=str(tmp_path / "fresh.db"), data=tmp_path / "fresh", port=free_port())
        with listening(store, config) as app:
            yield app.state.label, config.address


@pytest.fixture
def label_run(tmp_path: Path):
    """label_run(folder) opens the app on a run directory whose store is there; it ends with the test."""
    with contextlib.ExitStack() as stack:

        def opened(folder: Path) -> Site:
            store = stack.enter_context(open_store(folder / "store.db"))
            where = str(folder / "store.db")
            config = LabelConfig(store=where, data=tmp_path / "data", port=free_port(), run=folder)
            app = stack.enter_context(listening(store, config))
            owner = create_account(store, "owner@example.org", is_owner=True)
            return Site(store, config.address, owner, projects(store)[0], config, app)

        yield opened


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with open_store(tmp_path / "store.db") as store:
        config = LabelConfig(store=str(tmp_path / "store.db"), data=tmp_path / "data", port=free_port())
        with listening(store, config) as app:
            owner = create_account(store, "owner@example.org", is_owner=True)
            project = create_project(store, "Brand voice", settings=ProjectSettings(gold_share=0.0))
            publish_guideline(store, project.id, "# A good answer\n\nIt is **courteous** and to the point.")
            yield Site(store, config.address, owner, project, config, app)


@pytest.fixture
def visit(chromium, request):
    """visit("labeller", width=…, dark=…) is a page of that role; the test fails when its console had an error.

    at  the site, where it is not the fixture's
    """
    contexts, trouble = [], []

    def opened(role="labeller", *, at=None, width=1280, height=800, dark=False, touch=False):
        context = chromium.new_context(
            viewport={"width": width, "height": height}, color_scheme="dark" if dark else "light", has_touch=touch
        )
        contexts.append(context)
        site = at or request.getfixturevalue("site")
        token = open_session(site.store, site.person(role).id, seconds=3600)
        context.add_cookies([{"name": "tutelage", "value": token, "url": site.address}])
        page = context.new_page()
        page.set_default_timeout(10_000)
        page.on("pageerror", lambda e: trouble.append(f"page error: {e}"))
        page.on("console", lambda m: trouble.append(f"console: {m.text}") if m.type == "error" else None)
        return page

    opened.trouble = trouble
    yield opened
    for context in contexts:
        context.close()
    assert not trouble, trouble
