"""Hostile text in a real Chromium: what fires on a naive page is planted wherever others read it, and nothing fires.

A payload counts only when it fires on the control page, which puts it into the markup as it is and has no policy.
§ stands for the call that reports it, ¤ for its number.
"""

import html
import http.server
import threading
from collections.abc import Iterator

import pytest
from markdown_it import MarkdownIt

from tutelage.store.accounts import create_account
from tutelage.store.candidates import NewCandidate, add_candidates
from tutelage.store.projects import add_member, create_project, invite, publish_guideline
from tutelage.store.tasks import NewTask, add_tasks
from tutelage.store.tools import add_endpoint, add_job, change_chat, open_chat, report_job
from tutelage.types import Completion, Message, Prompt

CONTEXTS = {  # how a naive page would put a text into its markup
    "text": "<div>{}</div>",
    "value": '<input value="{}">',
    "single": "<input value='{}'>",
    "bare": "<input value={}>",
    "textarea": "<textarea>{}</textarea>",
    "title": "<title>{}</title>",
    "link": '<a href="{}">x</a>',
    "string": '<script>var text = "{}";</script>',
    "template": "<script>var text = `{}`;</script>",
    "island": '<script type="application/json">{}</script>',
    "comment": "<!-- {} -->",
    "style": "<style>{}</style>",
    "markdown": "{}",
}
PAYLOADS = {
    "text": r"""
<script>§</script>
<SCRIPT>§</SCRIPT >
<script type=module>§</script>
<script src="data:text/javascript,§"></script>
<script src=x onerror=§></script>
<<script>§//<</script>
<img src=x onerror=§>
<img src=x onerror="§">
<img src=x onerror='§'>
<IMG SRC=x ONERROR=§>
<img/src="x"/onerror=§>
<img src=x onerror=§//
<img src=x onerror = §>
<img srcset=x onerror=§>
<img src=x onerror=&#102;&#105;&#114;&#101;&lpar;¤&rpar;>
<img src=x onerror=window['fi'+'re'](¤)>
<img src=x onerror=eval('fi'+'re(¤)')>
<img src=x onerror=setTimeout('§')>
<img src=x onerror=Function('§')()>
<img src=x onerror=top.document.querySelector('*')&&§>
<picture><source srcset=x><img src=x onerror=§></picture>
<svg onload=§>
<svg/onload=§>
<svg><script>§</script></svg>
<svg><script href="data:text/javascript,§"></script></svg>
<svg><animate onbegin=§ attributeName=x dur=1s>
<svg><set onbegin=§ attributeName=x dur=1s>
<svg><foreignObject><img src=x onerror=§></foreignObject></svg>
<svg><a xlink:href="javascript:§"><text x=0 y=20>x</text></a></svg>
<svg><style><img src=x onerror=§></style></svg>
<math><mtext><img src=x onerror=§></mtext></math>
<math><annotation-xml encoding="text/html"><img src=x onerror=§></annotation-xml></math>
<body onload=§>
<body onpageshow=§>
<iframe onload=§></iframe>
<iframe srcdoc="<script>parent.§</script>"></iframe>
<iframe src="javascript:parent.§"></iframe>
<details open ontoggle=§>x
<video src=x onerror=§></video>
<video><source src=x onerror=§></video>
<audio src=x onerror=§></audio>
<object data=x onerror=§></object>
<input type=image src=x onerror=§>
<link rel=stylesheet href=x onerror=§>
<style onload=§></style>
<style>@keyframes k{}</style><b style="animation:k 1s" onanimationstart=§>x</b>
<input autofocus onfocus=§>
<select onfocus=§></select>
<button onclick=§>x</button>
<p onclick=§>x</p>
<div onmouseover=§>x</div>
<div onpointerenter=§>x</div>
<b tabindex=1 onfocus=§>x</b>
<a href="javascript:§">x</a>
<a href="&#106;avascript:§">x</a>
<a href="java&#9;script:§">x</a>
<a href="&#1;javascript:§">x</a>
<a href=" JaVaScRiPt:§">x</a>
<form action="javascript:§"><button>x</button></form>
<form><button formaction="javascript:§">x</button></form>
<map><area href="javascript:§" id=area></map>
<table><td background=x><img src=x onerror=§></td></table>
<noscript><p title="</noscript><img src=x onerror=§>">
<xmp></xmp><img src=x onerror=§>
--><img src=x onerror=§>
""",
    "value": """
"><script>§</script>
"><img src=x onerror=§>
" onfocus=§ x="
" onmouseover=§ x="
"><svg onload=§>
""",
    "single": "'><img src=x onerror=§>\n' onclick=§ x='",
    "bare": "x onfocus=§\nx onclick=§",
    "textarea": "</textarea><script>§</script>\n</textarea><img src=x onerror=§>",
    "title": "</title><script>§</script>\n</title><svg onload=§>",
    "link": 'javascript:§\nJAVASCRIPT:§\njavascript://x%0a§\n" onclick=§ x="',
    "string": '";§;//\n"-§-"\n</script><script>§</script>',
    "template": "${§}\n`;§;//",
    "island": "</script><script>§</script>\n</ScRiPt><svg onload=§>",
    "comment": "--><script>§</script>\n--!><img src=x onerror=§>",
    "style": "</style><img src=x onerror=§>",
    "markdown": "[x](javascript:§)\n[x](<JavaScript:§>)\n<javascript:§>\n![x](x)<img src=x onerror=§>",
}
ALL = [(where, p) for where, some in PAYLOADS.items() for p in some.strip("\n").splitlines()]
TEXTS = [p.replace("§", "fire(¤)").replace("¤", str(i)) for i, (_, p) in enumerate(ALL)]
LEAST = 60

# Does what a reader does: points at, focuses and clicks whatever has a handler or a script for an address.
PROVOKE = """
() => {
  let n = 0;
  for (const e of document.querySelectorAll("*")) {
    const handlers = [...e.attributes].filter((a) => a.name.startsWith("on"));
    const runs = ["href", "xlink:href", "action", "formaction", "src"].some(
      (a) => /^[\\s\\u0001]*j\\s*a\\s*v\\s*a\\s*s\\s*c\\s*r\\s*i\\s*p\\s*t\\s*:/i.test(e.getAttribute(a) ?? ""));
    if (!handlers.length && !runs) continue;
    n += 1;
    for (const a of handlers) {
      const name = a.name.slice(2);
      if (["click", "focus", "mouseover", "pointerenter"].includes(name)) e.dispatchEvent(new Event(name));
    }
    const click = () => e.dispatchEvent(new MouseEvent("click", { bubbles: true, cancelable: true }));
    if (runs) e.tagName === "FORM" ? e.requestSubmit() : click();
  }
  return n;
}
"""
STRANGE = """
() => [...document.querySelectorAll(
  "script:not([src^='/static/']):not([type='application/json']), iframe, object, embed, base, [style], [srcdoc]"
)].map((e) => e.outerHTML)
"""


@pytest.fixture(scope="module")
def naive() -> Iterator[str]:
    """The address of a page that shows each text without a thought, each in a frame of its own."""
    loose = MarkdownIt("commonmark", {"html": True})
    loose.validateLink = lambda address: True
    frames = []
    for i, (where, _) in enumerate(ALL):
        text = loose.render(TEXTS[i]) if where == "markdown" else TEXTS[i]
        inner = "<script>fire = (i) => top.fired.push(i)</script>" + CONTEXTS[where].replace("{}", text)
        frames.append(f'<iframe srcdoc="{html.escape(inner)}"></iframe>')
    page = f"<!doctype html><script>fired = []; fire = (i) => fired.push(i)</script>{''.join(frames)}".encode()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200 if self.path == "/" else 404)
            self.send_header("content-type", "text/html; charset=utf-8")
            self.end_headers()
            self.wfile.write(page if self.path == "/" else b"")

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as served:
        threading.Thread(target=served.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{served.server_port}/"
        served.shutdown()


@pytest.fixture(scope="module")
def firing(browser, naive) -> list[int]:
    """Which payloads fire on the naive page."""
    page = browser.new_page()
    page.goto(naive, wait_until="load")
    for frame in page.frames[1:]:
        if not frame.is_detached() and frame.parent_frame == page.main_frame:
            frame.evaluate(PROVOKE)
    page.wait_for_function(f"new Set(fired).size >= {LEAST}", timeout=15_000)
    page.wait_for_timeout(700)  # the slower ones: frames in frames, animations
    found = sorted(set(page.evaluate("fired")))
    page.close()
    return found


def test_the_naive_page_fires_enough_of_them(firing):
    silent = [ALL[i] for i in range(len(ALL)) if i not in firing]
    assert len(firing) >= LEAST, silent
    print(f"\n{len(firing)} of {len(ALL)} payloads fire on the naive page; silent: {silent}")


# Planting.


def plant(house, some: list[str]) -> dict[str, str]:
    """Puts the texts into every field that somebody else sees. Returns what fills the addresses of pages."""
    everything = "\n\n".join(some)
    store, project = house.store, house.project
    house.settings(
        aspects=[{"key": f"a{i}", "label": t[:80]} for i, t in enumerate(some[:12])],
        flags=[{"key": f"f{i}", "label": t[:80]} for i, t in enumerate(some)], overlap=2, steps="rate_then_rank",
    )  # fmt: skip
    for i, text in enumerate(some):
        create_project(store, text, slug=f"p-{i}")
        publish_guideline(store, project.id, text if i < len(some) - 1 else everything)
    for i, text in enumerate(some[:30]):
        account = create_account(store, f"{text}{i}@x.example")
        add_member(store, project.id, account.id, "labeller")
    prompt = Prompt(messages=(Message(role="system", content=everything), Message(role="user", content=everything)))
    lay_tasks(house, some, prompt)
    found = tuple({"kind": "harsh", "detail": t, "span": [3 * i, 3 * i + 2]} for i, t in enumerate(some))
    proposed = NewCandidate(prompt=prompt, text=everything, origin="import", author=some[0], findings=found)
    add_candidates(store, project.id, [proposed])
    for i, text in enumerate(some):
        add_endpoint(store, project.id, name=text, url=f"https://x/{i}/{text}", model=text, key_env=text)
    number = add_job(store, project.id, "generate", {"source": everything, "kind": "rank"}, total=2)
    report_job(store, number, state="failed", result={"error": everything})
    chat = open_chat(store, project.id, house.owner.name, everything, (1,))
    turns = [{"role": "user", "text": everything, "key": "k"},
             {"role": "assistant", "chosen": 0, "answers": [{"text": everything, "completion": "c"}]}]  # fmt: skip
    change_chat(store, chat, turns=turns)
    for text in some[:20]:
        house.post(house.owner.client, house.path("tokens"), {"name": text[:80], "scope": "read", "days": "1"})
    return {
        "slug": project.slug,
        "number": "1",
        "token": invite(store, project.id, "labeller", seconds=60),
        "chat": chat.id,
    }


def lay_tasks(house, some: list[str], prompt: Prompt) -> None:
    """Tasks of nine answers each, judged by two people who do not agree and who write as hostile as they can."""
    everything, people = "\n\n".join(some), [house.person(), house.person("reviewer")]
    tasks = []
    for at in range(0, len(some), 9):
        texts = [*some[at : at + 9], everything][:9]
        answers = tuple(
            Completion(prompt_id=prompt.id, text=t, model_version=f"{t}{i}", sample=i) for i, t in enumerate(texts)
        )
        tasks.append(NewTask(kind="rank", prompt=prompt, completions=answers, source=f"house/{texts[0]}", overlap=9))
    one = Completion(prompt_id=prompt.id, text=everything, model_version="m")
    for kind, given in (("demonstrate", ()), ("correct", (one,)), ("critique", (one,)), ("chat", ())):
        tasks.append(NewTask(kind=kind, prompt=prompt, completions=given, source=f"house/{kind}", overlap=9))
    add_tasks(house.store, house.project.id, tasks)
    for n, who in enumerate(people):
        while (task := house.next(who)) is not None:
            place = list(range(1, len(task["cards"]) + 1))
            key = f"key-{n}-{task['id']}"
            if task["kind"] == "rank":
                body = {
                    "tiers": place[:: 1 - 2 * n], "critiques": [{"card": 0, "text": everything}],
                    "flags": [{"card": 0, "category": f"f{i}", "note": t} for i, t in enumerate(some[:40])],
                    "corrections": [{"card": 1, "text": everything + " better"}],
                }  # fmt: skip
                assert house.answer(who, task["id"], key, **body).status_code == 200
            elif task["kind"] == "demonstrate":
                assert house.answer(who, task["id"], key, text=everything).status_code == 200
            else:
                assert (
                    house.answer(who, task["id"], key, "skip", reason="other", note=everything[:500]).status_code == 200
                )


# Looking.


class Watched:
    """A browser page that notices whatever fires, and whatever the policy had to stop."""

    def __init__(self, browser, house, server, who):
        self.context, self.server, self.trouble, self.seen = browser.new_context(), server, [], 0
        session = [{"name": "tutelage", "value": who.client.cookies["tutelage"], "url": server}]
        self.context.add_cookies(session)
        self.context.add_init_script("window.fired = []; window.fire = (i) => window.fired.push(i)")
        self.page = self.context.new_page()
        self.page.on("dialog", lambda d: (self.trouble.append(f"dialog: {d.message}"), d.dismiss()))
        self.page.on("console", self._said)
        self.page.on("pageerror", lambda e: self.trouble.append(f"error: {e}"))

    def _said(self, message):
        if "Content Security Policy" in message.text or "TrustedHTML" in message.text:
            self.trouble.append(f"{self.page.url}: {message.text[:300]}")

    def look(self, path: str, wait: str = "body") -> None:
        answer = self.page.goto(self.server + path, wait_until="load")
        if "text/html" not in answer.headers.get("content-type", ""):
            return
        assert answer.status < 500, f"{path}: {answer.status}"
        self.page.wait_for_selector(wait, state="attached")
        self.check(path)

    def check(self, path: str) -> None:
        provoked, strange = self.page.evaluate(PROVOKE), self.page.evaluate(STRANGE)
        fired = self.page.evaluate("window.fired")
        self.seen += self.page.content().count("fire(") > 0
        assert (fired, provoked, strange, self.trouble) == ([], 0, [], []), path


def test_nothing_fires_on_any_page(firing, browser, house, server):
    some = [TEXTS[i] for i in firing]
    filled = plant(house, some)
    lead, labeller = house.person("lead"), house.person()
    watched = Watched(browser, house, server, house.owner)
    pages = [p for (method, p), needs in house.app.state.needs.items() if method == "GET" and "/oidc" not in p and
             not any(n.startswith("token:") for n in needs)]  # fmt: skip
    for path in pages:
        own = filled | ({"number": filled["chat"]} if "/chat/" in path else {})
        watched.look(path.format(**own))
    for i in range(len(some)):
        if i % 5 == 0:
            watched.look(f"{house.path('guidelines')}?version={i + 1}")
            watched.look(f"{house.path('tasks')}/{1 + i // 9}")
    assert watched.seen >= 15, "the payloads were hardly on any page"
    desk_shows_them(Watched(browser, house, server, labeller), house)
    for rest in ("tasks", "people", "settings", "quality", "models"):
        Watched(browser, house, server, lead).look(house.path(rest))


def desk_shows_them(watched: Watched, house) -> None:
    """Every task of the desk, with its flags, its help, and an answer written into it."""
    kinds = set()
    watched.look(house.path("work"), "#actions:not([hidden])")
    for _ in range(16):
        page = watched.page
        page.wait_for_selector("#task .step, #task textarea, #task article")
        kinds.add(page.inner_text("#task")[:12])
        watched.check("work")
        if page.query_selector("article.answer"):
            page.keyboard.press("d")
            page.keyboard.press("f")
            page.wait_for_selector("dialog[open]")
            watched.check("flags")
            page.keyboard.press("Escape")
        page.evaluate("document.querySelector('#task').lastElementChild.id = 'before'")
        page.click("#skip")
        page.wait_for_selector("dialog[open]")
        page.click("dialog[open] button.primary")
        page.wait_for_selector("#before", state="detached")  # the next task is on screen, or the desk is empty
        page.locator("#status", has_text="Saved").wait_for()
        if page.query_selector("#actions[hidden]"):
            break
    assert watched.seen >= 8 and len(kinds) >= 3, (watched.seen, kinds)


def test_what_is_wrong_is_told_without_firing(firing, browser, house, server):
    watched = Watched(browser, house, server, house.owner)
    for i in firing:
        text = TEXTS[i]
        for answer in (
            house.post(house.owner.client, "/account/theme", {"theme": text}),
            house.post(house.owner.client, "/projects", {"name": text * 9}),
            house.owner.client.get(house.path("tasks"), params={"kind": text}),
            house.owner.client.get("/p/" + text.replace("/", "%2F")),
        ):
            assert answer.status_code >= 400 or answer.status_code == 303
            if "text/html" in answer.headers.get("content-type", ""):
                assert "<" not in text or text not in answer.text
    page = watched.page
    watched.look("/sign-in")
    page.fill("input[name=email]", '"><img src=x onerror=fire(1)>@x.example')
    page.evaluate("document.querySelector('form[action=\"/sign-in\"]').noValidate = true")
    page.fill("input[name=password]", "x")
    page.click("form[action='/sign-in'] button")
    page.wait_for_selector("[role=alert]")
    watched.check("a refused sign-in")
