"""A chat and the page of models in a real browser: by keyboard, by pointer, and what Trusted Types let through."""

import dataclasses
import os
from pathlib import Path

import pytest

from tutelage.label.endpoints import keep_endpoint
from tutelage.store import desk_schema
from tutelage.store.accounts import open_session
from tutelage.store.feedback import current
from tutelage.store.tasks import list_tasks
from tutelage.store.tools import chats, report_job

PICTURES = os.environ.get("TUTELAGE_SCREENS")
ANSWER = (
    "Of course. The table is free on **Friday** at seven.\n\n1. Tell me the name\n2. Tell me the time\n\n"
    "```\nbooking --move friday\n```"
)


@pytest.fixture
def place(house, fake_model, request):
    """place(role, …) opens a page of that role on a real socket; the test fails when its console had an error."""
    house.config = dataclasses.replace(house.config, private_endpoints=(fake_model.where,))
    address, browser = request.getfixturevalue("server"), request.getfixturevalue("browser")
    for name in ("One", "Two"):
        keep_endpoint(
            dataclasses.replace(house.app.state.label, config=house.config), house.project.id,
            name=name, url=fake_model.url, model=name, key="", key_env="",
        )  # fmt: skip
    fake_model.say = lambda body, n: ANSWER if body["model"] == "One" else f"No. That is answer {n}."
    contexts, trouble, people = [], [], {"owner": house.owner}

    def opened(role="labeller", path="chat", *, width=1280, height=800, dark=False):
        person = people[role] if role in people else people.setdefault(role, house.person(role))
        context = browser.new_context(
            viewport={"width": width, "height": height}, color_scheme="dark" if dark else "light"
        )
        contexts.append(context)
        token = open_session(house.store, person.account.id, seconds=3600)
        context.add_cookies([{"name": "tutelage", "value": token, "url": address}])
        page = context.new_page()
        page.set_default_timeout(15_000)
        page.on("pageerror", lambda e: trouble.append(f"page error: {e}"))
        page.on("console", lambda m: trouble.append(f"console: {m.text}") if m.type == "error" else None)
        page.goto(f"{address}{house.path(path)}")
        page.person = person
        return page

    opened.trouble, opened.expected = trouble, None
    yield opened
    for context in contexts:
        context.close()
    left = [t for t in trouble if opened.expected is None or opened.expected not in t]
    assert not left, left


def job(house, state, done, result=None):
    """A job that the app's own worker never takes: it is at work, or over."""
    request = {"source": "house/generated", "kind": "rank"}
    row = {"project_id": house.project.id, "kind": "generate", "state": state, "done": done, "total": 8}
    with house.store.write() as conn:
        made = conn.execute(
            desk_schema.job.insert().values(**row, request=request, result=result, created_at=house.store.now())
        )
    return made.inserted_primary_key[0]


def begin(page, goal="Make it promise a refund", two=False):
    page.get_by_label("Your goal, in your own words").fill(goal)
    if two:
        page.get_by_label("Two side by side; you choose which goes on").check()
    page.get_by_role("button", name="Begin").click()
    page.wait_for_selector("#text:focus")  # the script is at work


def say(page, text):
    """By keyboard alone; the message field has the focus."""
    page.keyboard.type(text)
    page.keyboard.press("Control+Enter")


def test_a_red_team_chat_goes_by_keyboard_alone(house, place):
    page = place()
    begin(page, two=True)
    say(page, "Can I have my money back?")
    page.wait_for_selector(".choices")
    page.keyboard.press("ArrowRight")
    page.wait_for_selector(".answer.better")
    say(page, "Are you sure?")
    page.wait_for_selector(".choices")
    page.keyboard.press("ArrowDown")
    page.locator(".answer.better").nth(1).wait_for()
    page.keyboard.press("Escape")
    page.keyboard.press("-")
    page.get_by_role("checkbox", name="Wrong").wait_for()
    page.keyboard.press("Space")
    page.keyboard.press("Enter")
    page.wait_for_selector("[aria-pressed=true]")
    page.keyboard.press("b")
    page.locator("#b-text").fill("It gives in.")
    page.keyboard.press("Control+Enter")
    page.wait_for_selector(".answer.broken")
    page.keyboard.press("m")
    page.get_by_text("a regression test", exact=True).wait_for()
    page.keyboard.press("f")
    page.keyboard.press("4")
    page.get_by_text("Finished. Goal reached: nearly").wait_for()
    kinds = [e.feedback.judgement.kind for e in current(house.store)]
    assert kinds == ["ranking", "ranking", "thumb", "flag", "critique", "rating"]
    assert list_tasks(house.store, house.project.id)[0][0].kind == "correct"


def test_the_same_goes_by_pointer_on_a_phone_and_survives_a_reload(house, place):
    page = place(width=390, height=844)
    begin(page, two=True)
    page.locator("#text").fill("Can I have my money back?")
    page.get_by_role("button", name="Send").click()
    page.get_by_role("button", name="A is better").click()
    page.wait_for_selector(".answer.better")
    page.reload()
    page.locator(".answer.better").get_by_role("button", name="Good").click()
    page.get_by_label("Clear").check()
    page.get_by_role("button", name="Thumb up").click()
    page.wait_for_selector("[aria-pressed=true]")
    page.get_by_role("button", name="Finish").click()
    page.get_by_role("button", name="half").click()
    page.get_by_text("Goal reached: half").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth + 1")
    assert chats(house.store, house.project.id, page.person.name)[0].success == 3


def test_a_message_that_got_no_answer_is_sent_again_by_one_button(house, place, fake_model):
    page = place()
    begin(page)
    said, fake_model.say = fake_model.say, lambda body, n: (503, b"", {})
    say(page, "Hello")
    place.expected = "Failed to load resource"
    page.locator("#notice").get_by_text("A model did not answer").wait_for()
    page.reload()
    fake_model.say = said
    page.get_by_role("button", name="Try again").click()
    page.wait_for_selector(".answer")
    assert page.locator(".mine").count() == 1
    assert [t["role"] for t in chats(house.store, house.project.id, page.person.name)[0].turns] == ["user", "assistant"]


def test_a_goal_that_is_left_to_somebody_else_says_why(house, place):
    house.task("chat", question="Make it swear")
    page = place()
    page.get_by_role("button", name="Take a goal").click()
    page.get_by_role("button", name="Leave this goal").click()
    page.get_by_label("Distressing").check()
    page.get_by_label("Note (if you like)").fill("It names a person.")
    page.get_by_role("button", name="Leave it").click()
    page.get_by_text("You gave this goal back").wait_for()
    [event] = current(house.store)
    assert event.feedback.judgement.reason == "distressing: It names a person." and event.feedback.active_ms > 0


def test_hostile_answers_stay_words(house, place, fake_model):
    hostile = (
        "<img src=x onerror=document.title='fired'>\n\n[x](javascript:alert(1))\n\n</script><script>fired=1</script>"
    )
    fake_model.say = lambda body, n: hostile
    page = place()
    begin(page, goal="<script>document.title='fired'</script>")
    say(page, hostile)
    page.wait_for_selector(".answer")
    page.reload()
    page.wait_for_selector(".answer")
    assert page.locator("#talk img, #talk script, #talk a").count() == 0
    assert page.title() != "fired" and page.evaluate("typeof fired") == "undefined"


SINKS = [
    "document.body.innerHTML = '<b>x</b>'", "document.body.innerHTML = ''",
    "document.body.insertAdjacentHTML('beforeend', '<b>x</b>')", "document.body.outerHTML = '<b>x</b>'",
    "new DOMParser().parseFromString('<b>x</b>', 'text/html')", "Document.parseHTMLUnsafe('<b>x</b>')",
    "document.write('<b>x</b>')", "document.createElement('iframe').srcdoc = '<b>x</b>'",
    "document.createElement('script').text = 'x'", "document.createElement('script').src = '/x.js'",
    "trustedTypes.createPolicy('another', {createHTML: (x) => x})",
    "document.body.innerHTML = wrapped + '<img src=x>'", "document.body.innerHTML = wrapped",
]  # fmt: skip


# While an answer is on its way into the page, something else tries to come in with it.
WITHIN = """() => {
  outcomes = [];
  document.addEventListener("htmx:beforeSwap", (event) => {
    const answer = event.detail.xhr.responseText;
    if (outcomes.length) return;
    for (const more of [answer, answer + "<img src=x>", "<img src=x>" + answer]) {
      try { document.createElement("div").innerHTML = more; outcomes.push("passed"); }
      catch (e) { outcomes.push(e.name); }
    }
  });
}"""


@pytest.mark.parametrize("path", ["models", "chat"])
def test_html_enters_a_page_as_the_servers_answer_to_htmx_or_not_at_all(house, place, path):
    number = job(house, "running", 3)
    page = place("lead", path)
    place.expected = "Trusted"  # the browser says aloud what it stops
    page.evaluate("wrapped = ''")
    if path == "models":
        page.get_by_text("3 of 8").last.wait_for()
        report_job(house.store, number, done=5)
        page.get_by_text("5 of 8").last.wait_for()  # htmx has put a new answer of the server into the page
        page.evaluate(WITHIN)
        report_job(
            house.store, number, state="done", done=8, result={"tasks": 2, "alike": 0, "incomplete": 0, "error": ""}
        )
        page.get_by_text("2 tasks on the desk").wait_for()
        assert page.evaluate("outcomes") == ["TypeError"] * 3  # an answer passes once, alone and as it came
    for sink in SINKS:
        outcome = page.evaluate(f"(() => {{ try {{ {sink}; return 'passed'; }} catch (e) {{ return e.name; }} }})()")
        assert outcome == "TypeError", sink


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize(("size", "width", "height"), [("laptop", 1280, 800), ("phone", 390, 844)])
def test_axe_finds_nothing_and_nothing_is_too_wide(house, place, size, width, height, dark):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    standards = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]

    def looked_at(page, name):
        found = axe.Axe().run(page, options={"runOnly": standards})
        assert not found.response["violations"], found.generate_report()
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth + 1"), f"{name} is wider than {size}"
        if PICTURES:
            Path(PICTURES).mkdir(parents=True, exist_ok=True)
            page.screenshot(path=f"{PICTURES}/{name}-{size}{'-dark' if dark else ''}.png", full_page=True)

    look = {"width": width, "height": height, "dark": dark}
    house.task("chat", question="Make it swear")
    for state, done, result in (
        ("done", 8, {"tasks": 2, "alike": 1, "incomplete": 0, "error": ""}),
        ("failed", 3, {"error": "api.example.org answered with status 401. Check the address, model and key."}),
        ("running", 5, None),
    ):
        job(house, state, done, result)
    looked_at(place("owner", "models", **look), "models")
    page = place("labeller", **look)
    looked_at(page, "chats")
    begin(page, two=True)
    page.locator("#text").fill("Can I have my money back? I booked for Friday and nobody was there.")
    page.get_by_role("button", name="Send").click()
    page.wait_for_selector(".choices")
    looked_at(page, "chat-choice")
    page.get_by_role("button", name="A is better").click()
    page.wait_for_selector(".answer.better")
    page.locator(".answer.better").get_by_role("button", name="It broke here").click()
    looked_at(page, "chat-broke")
    page.locator("#b-text").fill("It promises what nobody can give.")
    page.get_by_role("button", name="Mark it").click()
    page.wait_for_selector(".answer.broken")
    page.get_by_role("button", name="Finish").click()
    looked_at(page, "chat")
