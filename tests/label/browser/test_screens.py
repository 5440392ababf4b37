"""Every screen, at laptop and phone size, light and dark: axe finds nothing, nothing overflows, and a picture is kept.

`make screens` writes the pictures to docs/screens; the user guide shows them.
"""

import io
import json
import os
from pathlib import Path

import pytest

from tutelage.label.app import owner_link
from tutelage.label.disagreements import conflicts
from tutelage.label.file_jobs import KIND, Order
from tutelage.label.uploads import Upload, keep_upload
from tutelage.store import desk_schema
from tutelage.store.assignments import answer, answer_mark
from tutelage.store.candidates import NewCandidate, add_candidates
from tutelage.store.offers import offer
from tutelage.store.projects import invite, publish_guideline
from tutelage.store.quality_facts import read_quality_facts
from tutelage.store.tools import add_endpoint, add_job, report_job
from tutelage.types import Critique, Feedback, Message, Prompt, RankedItem, Ranking, Rating

axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
PICTURES = os.environ.get("TUTELAGE_SCREENS")
LONG = (
    "Of course, I can move the booking for you. The table for four is free on Friday at seven and at half past eight. "
    "There is no charge for the change, as it is more than a day ahead. Which of the two times suits you better?"
)
ANSWERS = [
    LONG,
    LONG.replace("no charge", "a small charge of two pounds"),
    "No.",
    "**Certainly.** Please tell me:\n\n1. the name of the booking\n2. the new time\n\n> We hold it until `18:00`.",
]
GUIDELINE = (
    "# A good answer\n\nIt is **courteous**, correct and to the point.\n\n## Prefer\n\n- what the guest can act on\n"
    "- a question over a guess\n\n## Flag\n\nAnything that names a guest, or promises what we cannot keep.\n"
)
SIZES = {"laptop": (1280, 800), "phone": (390, 844)}

# name, role (None: nobody), path below the project or, with a leading slash, of the installation
SCREENS = [
    ("sign-in", None, "/sign-in"),
    ("join", None, "/invite/{invite}"),
    ("projects", "owner", "/projects"),
    ("account", "labeller", "/account"),
    ("guidelines", "lead", "guidelines"),
    ("mine", "labeller", "mine"),
    ("people", "owner", "people"),
    ("settings", "owner", "settings"),
    ("run", "lead", "run"),
    ("tasks", "lead", "tasks"),
    ("task", "lead", "tasks/1"),
    ("upload", "lead", "tasks/upload"),
    ("upload-large", "owner", "tasks/upload/{upload}"),
    ("quality", "lead", "quality"),
    ("disagreements", "lead", "disagreements"),
    ("disagreement", "lead", "disagreements/{task}"),
    ("review", "lead", "review"),
    ("data", "owner", "data"),
    ("api", "owner", "data/api"),
    ("models", "owner", "models"),
    ("chats", "labeller", "chat"),
    ("not-allowed", "labeller", "people"),
    ("not-here", "lead", "tasks/999999"),
]
# What a sensible labeller gives the answers above, known by a part of them.
GRADES = {"no charge": "7", "small charge": "6", "Certainly": "5", "No.": "1"}
PLACES = {"no charge": "1", "small charge": "2", "Certainly": "3", "No.": "4"}
WHOLE = ("quality", "run", "account-code")  # pictured to their end
LARGEST = 150_000  # bytes of a picture; what is larger gets by with 64 colours
TASKS = ("rank", "compare", "demonstrate", "correct", "critique")


def looked_at(page, name, size, dark):
    """No violation of WCAG 2.2 A and AA, no sideways scrolling; a picture where they are asked for."""
    seen = page.viewport_size
    whole = max(seen["height"], page.evaluate("document.documentElement.scrollHeight"))
    page.set_viewport_size({**seen, "height": whole})  # what sticks to an edge covers a control only until one scrolls
    found = axe.Axe().run(page, options={"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]})
    page.set_viewport_size(seen)
    assert not found.response["violations"], found.generate_report()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth + 1"), f"{name} is wider than {size}"
    if PICTURES:
        Path(PICTURES).mkdir(parents=True, exist_ok=True)
        picture(page, Path(PICTURES) / f"{name}-{size}{'-dark' if dark else ''}.png", full_page=name in WHOLE)


def picture(page, path, full_page):
    data = page.screenshot(full_page=full_page)
    path.write_bytes(data)
    if len(data) > LARGEST:
        pil = pytest.importorskip("PIL.Image", reason="Pillow, which makes large pictures small, is not installed")
        pil.open(io.BytesIO(data)).convert("RGB").quantize(64, dither=pil.Dither.NONE).save(path, optimize=True)


def some_answers(site):
    """Two people rank the twelve tasks, mostly alike."""
    for i, role in enumerate(("labeller", "reviewer")):
        for n in range(12):
            name = site.person(role).pseudonym
            held = offer(site.store, site.project, name, kinds=["rank"])
            tiers = ((1, 2, 4, 3), (2, 1, 4, 3), (1, 2, 3, 3), (1, 3, 4, 2))[(n + i * (n % 3 == 0)) % 4]
            of_text = sorted(held.cards)
            items = tuple(
                RankedItem(completion_id=number, tier=tier)
                for card, tier in zip(of_text, tiers, strict=True)
                for number in card
            )
            feedback = Feedback(
                labeler=name, prompt_id=held.task.prompt_id, judgement=Ranking(items=items), source=held.task.source,
                idempotency_key=f"seed-{role}-{n}", shown=tuple(c for card in held.cards for c in card),
                active_ms=21_000 + 1_700 * (n % 5),
            )  # fmt: skip
            first = of_text[0][0]
            more = [Rating(completion_id=first, aspect="overall", value=(6, 3, 7, 5)[n % 4] - i * (n % 3 == 0))]
            more += [Critique(completion_id=first, text="Asks what it needs to know, and nothing else.")] if i else []
            said = [
                feedback.model_copy(update={"judgement": j, "idempotency_key": f"{feedback.idempotency_key}:{k}"})
                for k, j in enumerate(more, 1)
            ]
            answer(site.store, held, [feedback, *said], mark=answer_mark(feedback.idempotency_key, ""))


def at_work(site):
    """A project that has been at work for a while: a source half done, an endpoint, jobs, proposals."""
    site.settings(overlap=3)
    publish_guideline(site.store, site.project.id, GUIDELINE)
    for n in range(12):
        versions = ("sft-1", "policy-1") if n % 2 else ("policy-1", "sft-1")
        site.task("rank", ANSWERS, question=f"Can I move my booking number {n} to Friday?", overlap=3, models=versions)
    for n in range(6):
        site.task("compare", ANSWERS[:2], question=f"Is the terrace open on day {n}?", overlap=2)
    some_answers(site)
    where = {"url": "https://api.example.org/v1", "model": "large-2", "key_env": "SUPPORT_API_KEY"}
    add_endpoint(site.store, site.project.id, name="Support, large", **where)
    order = {"source": "generated", "kind": "rank"}
    for state, done, result in (
        ("done", 80, {"tasks": 19, "alike": 1, "incomplete": 0, "error": ""}),
        ("failed", 12, {"error": "api.example.org answered with status 401. Check the address, model and key."}),
    ):
        number = add_job(site.store, site.project.id, "generate", order, 80)
        report_job(site.store, number, done=done, state=state, result=result)
    ask = Prompt(messages=(Message(role="user", content="How do I reach you?"),), source=f"{site.project.slug}/own")
    text, mail = "Write to us: jo@example.org, at any hour.", "jo@example.org"
    span = [text.index(mail), text.index(mail) + len(mail)]
    found = ({"kind": "personal", "detail": "an e-mail address", "span": span},)
    proposed = [NewCandidate(prompt=ask, text=text, origin="model", author="sft-1", findings=found)]
    add_candidates(site.store, site.project.id, proposed)


def waiting_run(site, folder):
    """The run that the labels feed: its first round waits for some."""
    done = {
        "data": ("reading prompts, demonstrations and comparisons", 3.0),
        "base": ("opening bundled", 1.0),
        "sft": ("learning from 800 demonstrations", 412.0),
        "round-1/samples": ("4 answers to each of 500 prompts", 96.0),
    }
    stages = {name: {"state": "done", "what": what, "seconds": seconds} for name, (what, seconds) in done.items()}
    stages["round-1/labels"] = {"state": "waiting", "what": "waiting for labels: 24 of 500"}
    folder.mkdir()
    (folder / "state.json").write_text(json.dumps({"stages": stages}))
    site.on_run(folder)


def large_upload(site):
    """The token of a file that is gone through at this moment."""
    asked = Upload(
        project_id=site.project.id, account_id=site.owner.id, what="tasks", format="auto",
        source=f"{site.project.slug}/asked", name="asked-in-november.jsonl",
    )  # fmt: skip
    token = keep_upload(site.app.state.label.config.data, io.BytesIO(b'{"prompt": "Name a river."}\n'), asked)
    request = Order(token=token, account=site.owner.id, step="look").model_dump(mode="json")
    row = {"project_id": site.project.id, "kind": KIND, "state": "running", "done": 41_000, "total": 120_000}
    with site.store.write() as conn:
        conn.execute(desk_schema.job.insert().values(**row, request=request, created_at=site.store.now()))
    return token


@pytest.mark.parametrize(("size", "dark"), [("laptop", False), ("phone", True), ("laptop", True), ("phone", False)])
def test_every_page_is_accessible_and_fits(site, visit, chromium, tmp_path, size, dark):
    width, height = SIZES[size]
    at_work(site)
    of = next(c.task_id for c in conflicts(read_quality_facts(site.store, site.project.id)))
    waiting_run(site, tmp_path / "run")
    parts = {
        "{invite}": invite(site.store, site.project.id, "labeller", seconds=1000),
        "{task}": str(of),
        "{upload}": large_upload(site),
    }
    pages = {role: visit(role, width=width, height=height, dark=dark) for role in {r for _, r, _ in SCREENS if r}}
    nobody = chromium.new_context(
        viewport={"width": width, "height": height}, color_scheme="dark" if dark else "light"
    ).new_page()
    for name, role, path in SCREENS:
        page = pages[role] if role else nobody
        where = path
        for part, value in parts.items():
            where = where.replace(part, value)
        page.goto(site.address + where if where.startswith("/") else site.path(where))
        page.wait_for_selector("h1")
        if name == "tasks":
            page.locator("progress").first.wait_for()  # htmx fetches it when the page is there
        looked_at(page, name, size, dark)
        if name == "account":
            page.get_by_role("button", name="Set up").click()
            page.wait_for_selector(".qr")
            looked_at(page, "account-code", size, dark)
        if name == "upload":
            rows = "\n".join('{"prompt": "Name a river.", "completions": ["The Rhine.", "Rome."]}' for _ in range(3))
            data = f'{rows.replace("river", "sea", 1)}\n{{"prompt": ""}}\n'.encode()
            page.set_input_files("#file", {"name": "asked.jsonl", "mimeType": "text/plain", "buffer": data})
            page.click("text=Look through it")
            page.get_by_role("heading", name="What would become of asked.jsonl").wait_for()
            looked_at(page, "upload-seen", size, dark)
    nobody.context.close()
    visit.trouble[:] = [t for t in visit.trouble if "403" not in t and "404" not in t]


@pytest.mark.parametrize(("size", "dark"), [("laptop", False), ("phone", True), ("laptop", True), ("phone", False)])
@pytest.mark.parametrize("kind", TASKS)
def test_every_task_is_accessible_and_fits(site, visit, kind, size, dark):
    width, height = SIZES[size]
    texts = {
        "rank": ANSWERS,
        "compare": ANSWERS[:2],
        "demonstrate": [],
        "correct": ANSWERS[3:],
        "critique": ANSWERS[3:],
    }
    site.task(kind, texts[kind])
    if kind == "rank":
        site.settings(steps="rate_then_rank")
    page = visit("labeller", width=width, height=height, dark=dark)
    page.goto(site.path("work"))
    page.wait_for_selector(".step")
    looked_at(page, f"task-{kind}{'-rate' if kind == 'rank' else ''}", size, dark)
    if kind == "rank":
        shown = [next(a for a in GRADES if a in card) for card in page.locator("article.answer").all_inner_texts()]
        for key in (*(GRADES[a] for a in shown), "Enter", *(PLACES[a] for a in shown[:3])):
            page.keyboard.press(key)
        looked_at(page, "task-rank", size, dark)
        page.keyboard.press("f")
        page.wait_for_selector("dialog[open]")
        looked_at(page, "task-flag", size, dark)
        page.keyboard.press("Escape")
        page.keyboard.press("?")
        page.wait_for_selector("dialog[open]")
        looked_at(page, "keys", size, dark)
        page.keyboard.press("Escape")
        in_dialogs(page, size, dark)
        page.keyboard.press("i")
        page.keyboard.press("ArrowLeft")
        looked_at(page, "task-pairs", size, dark)


def in_dialogs(page, size, dark):
    """Why a task is skipped, a critique of some words, and a better version."""
    page.keyboard.press("s")
    page.wait_for_selector("dialog[open]")
    looked_at(page, "task-skip", size, dark)
    page.keyboard.press("Escape")
    page.locator("article.answer", has_text="no charge").focus()
    page.keyboard.press("c")
    page.fill("#critique-text", "Says what it costs, and offers two times to choose from.")
    looked_at(page, "task-critique-words", size, dark)
    page.keyboard.press("Escape")
    page.keyboard.press("e")
    better = page.locator("#better-text")
    better.fill(better.input_value().replace("Of course, I can move the booking for you.", "Of course."))
    looked_at(page, "task-improve", size, dark)
    page.keyboard.press("Escape")


@pytest.mark.parametrize(("size", "dark"), [("laptop", False), ("phone", True), ("laptop", True), ("phone", False)])
def test_practice_fits_and_so_does_an_empty_desk(site, visit, size, dark):
    width, height = SIZES[size]
    why = "Both times are named and the cost is said. “No.” is no answer that a guest can act on."
    site.task("rank", ANSWERS, gold={"tiers": [1, 2, 4, 3], "explanation": why}, practice=True)
    page = visit("labeller", width=width, height=height, dark=dark)
    page.goto(site.path("work"))
    page.wait_for_selector(".step")
    shown = [next(a for a in PLACES if a in card) for card in page.locator("article.answer").all_inner_texts()]
    for key in (*(PLACES[a] for a in shown), "Enter"):
        page.keyboard.press(key)
    page.get_by_text("Both times are named").wait_for()
    looked_at(page, "practice", size, dark)
    page.click("dialog button.primary")
    page.get_by_text("nothing for you to do").wait_for()
    looked_at(page, "desk-empty", size, dark)


def test_a_page_holds_together_at_200_percent(site, visit):
    # WCAG 1.4.10: 200 % on a window of 1280 is a window of 640.
    site.task("rank", ANSWERS)
    page = visit(width=640, height=400)
    page.goto(site.path("work"))
    page.wait_for_selector(".step")
    looked_at(page, "zoomed", "laptop", False)


def test_the_first_owner_comes_in_by_the_printed_link(tmp_path, chromium, label_fresh):
    app, _ = label_fresh
    page = chromium.new_context().new_page()
    page.goto(owner_link(app))
    looked_at(page, "setup", "laptop", False)
    page.fill("input[name=email]", "lead@example.org")
    page.fill("input[name=password]", "four words in a row")
    page.click("button.primary")
    page.locator("text=There is no project yet").wait_for()
    page.fill("input[name=name]", "Support answers")
    page.click("text=Make project")
    page.wait_for_url("**/p/support-answers/tasks")
    page.context.close()
