"""Every screen, at laptop and phone size, light and dark: axe finds nothing, nothing overflows, and a picture is kept.

`make screens` writes the pictures to docs/screens; the user guide shows them.
"""

import os
from pathlib import Path

import pytest

from tutelage.label.app import owner_link
from tutelage.store.assignments import answer, answer_mark
from tutelage.store.offers import offer
from tutelage.store.projects import invite
from tutelage.types import Feedback, RankedItem, Ranking

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
    ("quality", "lead", "quality"),
    ("disagreements", "lead", "disagreements"),
    ("review", "lead", "review"),
    ("data", "owner", "data"),
    ("models", "owner", "models"),
    ("chat", "labeller", "chat"),
    ("not-allowed", "labeller", "people"),
]
TASKS = ("rank", "compare", "demonstrate", "correct", "critique")


def looked_at(page, name, size, dark):
    """No violation of WCAG 2.2 A and AA, no sideways scrolling; a picture where they are asked for."""
    found = axe.Axe().run(page, options={"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]})
    assert not found.response["violations"], found.generate_report()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth + 1"), f"{name} is wider than {size}"
    if PICTURES:
        Path(PICTURES).mkdir(parents=True, exist_ok=True)
        page.screenshot(path=f"{PICTURES}/{name}-{size}{'-dark' if dark else ''}.png")


def some_answers(site):
    """Two people rank two tasks, not alike."""
    for i, role in enumerate(("labeller", "reviewer")):
        for n in range(2):
            name = site.person(role).pseudonym
            held = offer(site.store, site.project, name, kinds=["rank"])
            tiers = range(1, len(held.cards) + 1) if i else range(len(held.cards), 0, -1)
            of_text = sorted(held.cards)
            items = tuple(
                RankedItem(completion_id=number, tier=tier)
                for card, tier in zip(of_text, tiers, strict=True)
                for number in card
            )
            feedback = Feedback(
                labeler=name, prompt_id=held.task.prompt_id, judgement=Ranking(items=items), source=held.task.source,
                idempotency_key=f"seed-{role}-{n}", shown=tuple(c for card in held.cards for c in card),
                active_ms=21_000,
            )  # fmt: skip
            answer(site.store, held, [feedback], mark=answer_mark(feedback.idempotency_key, ""))


@pytest.mark.parametrize(("size", "dark"), [("laptop", False), ("phone", True), ("laptop", True), ("phone", False)])
def test_every_page_is_accessible_and_fits(site, visit, chromium, size, dark):
    width, height = SIZES[size]
    site.settings(overlap=3)
    for n in range(3):
        site.task("rank", ANSWERS, question=f"Can I move my booking number {n} to Friday?", overlap=3)
    some_answers(site)
    token = invite(site.store, site.project.id, "labeller", seconds=1000)
    pages = {role: visit(role, width=width, height=height, dark=dark) for role in {r for _, r, _ in SCREENS if r}}
    nobody = chromium.new_context(
        viewport={"width": width, "height": height}, color_scheme="dark" if dark else "light"
    ).new_page()
    for name, role, path in SCREENS:
        page = pages[role] if role else nobody
        where = path.replace("{invite}", token)
        page.goto(site.address + where if where.startswith("/") else site.path(where))
        page.wait_for_selector("h1")
        looked_at(page, name, size, dark)
    nobody.context.close()
    visit.trouble[:] = [t for t in visit.trouble if "403" not in t]


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
        for key in ("7", "6", "2", "5", "Enter", "1", "2", "4"):
            page.keyboard.press(key)
        looked_at(page, "task-rank", size, dark)
        page.keyboard.press("f")
        page.wait_for_selector("dialog[open]")
        looked_at(page, "task-flag", size, dark)
        page.keyboard.press("Escape")
        page.keyboard.press("?")
        page.wait_for_selector("dialog[open]")
        looked_at(page, "keys", size, dark)


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
