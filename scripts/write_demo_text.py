"""Write the demo's prompts, demonstrations and word lists from the hand-written stock. Knows nothing of models.

`python scripts/write_demo_text.py` reads tutelage/assets/demo/stock.toml and writes its neighbours prompts.jsonl,
demonstrations.jsonl, domains.json and words.txt. The same stock and seed give the same bytes.
"""

import itertools
import json
import random
import re
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tutelage.seed import derive
from tutelage.simulate.words import FUNCTION_WORDS, words

DEMO = Path(__file__).parents[1] / "tutelage" / "assets" / "demo"
SEED = 20261114
N_PROMPTS = {"train": 1260, "eval": 540}
N_DEMONSTRATIONS = 700
USER_WORDS = (8, 25)  # words of the last user turn
MAX_ANSWER_WORDS = 28
MAX_JACCARD = 0.8  # of the 8-grams of characters of an eval prompt and any train prompt
N_EVAL_ONLY = {"exchanges": 2, "done": 1}  # the last lines of each domain's list
KIND_SHARE = {"request": 0.85, "question": 0.075, "thanks": 0.075}
# A question in an earlier exchange must not give away what the request leaves out.
TELLS = {"date": "day", "destination": "town city", "class": "class", "starting place": "place", "time": "hour evening"}

Slots = dict[str, str]
Messages = list[dict[str, str]]


@dataclass(frozen=True, slots=True)
class Talk:
    """One prompt and what is known of it. `reply` is the hand-written answer to a question; a request has none."""

    messages: Messages
    split: str
    domain: str
    kind: str  # request, question or thanks
    slots: Slots
    situation: dict[str, Any] | None = None
    reply: str = ""

    @property
    def text(self) -> str:
        return " ".join(m["content"] for m in self.messages)


def lines(block: str) -> list[str]:
    return [line.strip() for line in block.strip().splitlines() if line.strip()]


def capitalised(text: str) -> str:
    """A capital at the start of each sentence."""
    return re.sub(r"(^|[.?!] )([a-z])", lambda m: m[1] + m[2].upper(), text)


class Stock:
    """The phrases of stock.toml, and how its slots are filled."""

    def __init__(self, path: Path) -> None:
        self.data: dict[str, Any] = tomllib.loads(path.read_text())
        self.slots = {name: values.split(", ") for name, values in self.data["slots"].items()}
        self.needs: dict[str, Any] = self.data["needs"]
        skip = {"slots", "needs", "general", "vocabulary"}
        self.domains = {name: part for name, part in self.data.items() if name not in skip}
        self._check_questions()

    def general(self, name: str) -> list[str]:
        return lines(self.data["general"][name])

    def asks(self, need: str) -> list[str]:
        return list(self.needs[need]["words"].split(", "))

    def fill(self, phrase: str, rng: random.Random, known: Slots) -> tuple[str, Slots]:
        """The phrase with its slots filled, and all that is known afterwards. What is known already is used again."""
        slots = dict(known)
        for name in re.findall(r"{([\w ]+)}", phrase):
            slots.setdefault(name, rng.choice(self.slots[name]))
        return capitalised(phrase.format(**slots)), slots

    def _check_questions(self) -> None:
        for domain, part in self.domains.items():
            for situation in part["situation"]:
                need = situation["needs"]
                for question in lines(situation["questions"]) + lines(self.needs[need]["curt"]):
                    if not set(words(question)) & set(self.asks(need)):
                        raise SystemExit(f"{domain}: {question!r} holds no word of needs.{need!r}; add one there")


def grams(text: str) -> frozenset[str]:
    """The 8-grams of characters of the normalised text."""
    flat = " ".join(words(text))
    return frozenset(flat[i : i + 8] for i in range(max(1, len(flat) - 7)))


def jaccard(a: frozenset[str], b: frozenset[str]) -> float:
    return len(a & b) / len(a | b)


def of_split(stock: Stock, domain: str, name: str, split: str) -> list[tuple[str, str]]:
    """The two-sided lines of a domain that a split may use: eval its own, train the rest."""
    pairs = [(user, agent) for user, agent in (row.split(" | ") for row in lines(stock.domains[domain][name]))]
    n = N_EVAL_ONLY[name]
    return pairs[-n:] if split == "eval" else pairs[:-n]


def phrases(stock: Stock, name: str, split: str) -> list[str]:
    """General phrases of a split; the eval split adds its own."""
    return stock.general(name) + (stock.general(f"eval_{name}") if split == "eval" else [])


# --- prompts ---------------------------------------------------------------------------------------------------------


def a_request(stock: Stock, rng: random.Random, split: str, domain: str, situation: dict[str, Any]) -> Talk:
    """A request that leaves one detail out, one time in five after an earlier exchange of the same domain."""
    own = split == "eval" and rng.random() < 0.65  # phrasings that only the eval split has
    phrase = rng.choice(lines(situation["eval_requests" if own else "requests"]))
    slots: Slots = {}
    before: Messages = []
    first = rng.choice([*phrases(stock, "openers", split), *[""] * 16])
    tells = TELLS.get(situation["needs"], "").split()
    pairs = [p for p in of_split(stock, domain, "exchanges", split) if not any(f"{{{t}}}" in p[0] for t in tells)]
    if pairs and rng.random() < 0.21:
        user, agent = rng.choice(pairs)
        user, slots = stock.fill(user, rng, slots)
        agent, slots = stock.fill(agent, rng, slots)
        before = [{"role": "user", "content": user}, {"role": "assistant", "content": agent}]
        first = rng.choice(stock.general("leads"))
    body, slots = stock.fill(phrase, rng, slots)
    more = ""
    if "more" in situation and rng.random() < 0.4:
        more, slots = stock.fill(rng.choice(lines(situation["more"])), rng, slots)
    # Asked once is enough: "Is it possible? Can you help me?" is no English.
    closers = [c for c in phrases(stock, "closers", split) if "?" not in c or "?" not in body]
    last = rng.choice([*closers, *[""] * 3 * len(closers)])
    content = " ".join(part for part in (first, body, more, last) if part)
    return Talk([*before, {"role": "user", "content": content}], split, domain, "request", slots, situation)


def a_question(stock: Stock, rng: random.Random, split: str, domain: str, _: object = None) -> Talk:
    """A simple question that can be answered at once: nothing is missing."""
    user, agent = rng.choice(of_split(stock, domain, "exchanges", split))
    user, slots = stock.fill(user, rng, {})
    agent, slots = stock.fill(agent, rng, slots)
    first = rng.choice([*phrases(stock, "openers", split), *[""] * 8])
    content = f"{first} {user}".strip()
    return Talk([{"role": "user", "content": content}], split, domain, "question", slots, None, agent)


def a_thanks(stock: Stock, rng: random.Random, split: str, domain: str, _: object = None) -> Talk:
    """The wish has been granted and the user says thanks: nothing is missing."""
    user, agent = rng.choice(of_split(stock, domain, "done", split))
    user, slots = stock.fill(user, rng, {})
    agent, slots = stock.fill(agent, rng, slots)
    closing = rng.choice(phrases(stock, "closings", split))
    turns = (("user", user), ("assistant", agent), ("user", closing))
    return Talk([{"role": r, "content": c} for r, c in turns], split, domain, "thanks", slots)


MAKERS: dict[str, Callable[..., Talk]] = {"request": a_request, "question": a_question, "thanks": a_thanks}


def candidates(stock: Stock, split: str, kind: str) -> Iterator[Talk]:
    """Prompts of a kind without end, every domain and situation in turn."""
    rng = random.Random(derive(SEED, split, kind))
    cells = [(d, s) for d, part in stock.domains.items() for s in part["situation"]]
    for domain, situation in itertools.cycle(cells):
        yield MAKERS[kind](stock, rng, split, domain, situation)


def write_prompts(stock: Stock) -> list[Talk]:
    """Train first, then eval; an eval prompt that is near to a train prompt is drawn anew."""
    talks: list[Talk] = []
    seen: set[str] = set()
    train_grams: list[frozenset[str]] = []
    for split, n in N_PROMPTS.items():
        for kind, share in KIND_SHARE.items():
            wanted = round(n * share)
            for talk in itertools.islice(candidates(stock, split, kind), 60 * wanted):
                key, mine = " ".join(words(talk.text)), grams(talk.text)
                fits = USER_WORDS[0] <= len(words(talk.messages[-1]["content"])) <= USER_WORDS[1]
                if not fits or key in seen:
                    continue
                if split == "eval" and any(jaccard(mine, other) >= MAX_JACCARD for other in train_grams):
                    continue
                seen.add(key)
                talks.append(talk)
                wanted -= 1
                if wanted == 0:
                    break
            if wanted:
                raise SystemExit(f"{split}/{kind}: {wanted} prompts short; add phrases to stock.toml")
        if split == "train":
            train_grams = [grams(t.text) for t in talks]
    return talks


# --- demonstrations --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Agent:
    """An ordinary, somewhat uneven agent: knows the trade, not the brand voice."""

    stock: Stock
    rng: random.Random
    talk: Talk

    def pick(self, options: list[str]) -> str:
        """One of the phrases whose slots the prompt has filled."""
        can = [o for o in options if set(re.findall(r"{([\w ]+)}", o)) <= set(self.talk.slots)]
        return capitalised(self.rng.choice(can).format(**self.talk.slots))

    def say(self, name: str) -> str:
        return self.pick(self.stock.general(name))

    def polite(self) -> str:
        situation = self.talk.situation or {}
        return self.say("sorry" if "problem" in situation and self.rng.random() < 0.8 else "courteous")

    def question(self) -> str:
        assert self.talk.situation is not None, "only a request has something missing"
        text = self.pick(lines(self.talk.situation["questions"]))
        return text.replace("?", ", please?") if self.rng.random() < 0.08 else text

    def curt_question(self) -> str:
        assert self.talk.situation is not None, "only a request has something missing"
        return self.pick(lines(self.stock.needs[self.talk.situation["needs"]]["curt"]))

    def answer(self) -> str:
        if self.talk.situation is None:
            return self.talk.reply or self.say("plain_welcome")
        return self.pick(lines(self.talk.situation["answers"]))

    def curt(self) -> str:
        problem = self.talk.situation is not None and "problem" in self.talk.situation
        return self.say("curt_reply" if self.talk.kind == "question" else "curt_problem" if problem else "curt")

    def off(self) -> str:
        return self.pick(lines(self.stock.domains[self.talk.domain]["off"]))


def twice(agent: Agent) -> str:
    """Says it, and says it again."""
    text = agent.answer()
    return agent.rng.choice([f"{text} {text}", f"{text} As I said, {text[0].lower()}{text[1:]}"])


Style = tuple[float, Callable[[Agent], str]]  # weight, how it answers
REQUEST_STYLES: list[Style] = [
    (0.20, lambda a: a.question()),
    (0.06, lambda a: f"{a.answer()} {a.question()}"),
    (0.06, lambda a: f"{a.polite()} {a.question()}"),
    (0.01, lambda a: f"{a.polite()} {a.answer()} {a.question()}"),
    (0.07, lambda a: a.curt_question()),
    (0.15, lambda a: a.answer()),
    (0.11, lambda a: f"{a.polite()} {a.answer()}"),
    (0.02, lambda a: f"{a.answer()} {a.say('thanks')}"),
    (0.09, lambda a: a.curt()),
    (0.05, lambda a: a.say("checks")),
    (0.05, lambda a: f"{a.polite()} {a.say('checks')}"),
    (0.04, lambda a: a.off()),
    (0.03, lambda a: f"{a.polite()} {a.off()}"),
    (0.05, lambda a: f"{a.answer()} {a.say('rambles')}"),
    (0.01, twice),
]
QUESTION_STYLES: list[Style] = [
    (0.42, lambda a: a.answer()),
    (0.22, lambda a: f"{a.polite()} {a.answer()}"),
    (0.08, lambda a: a.say("checks")),
    (0.10, lambda a: a.curt()),
    (0.06, lambda a: f"{a.answer()} {a.say('needless')}"),
    (0.06, lambda a: f"{a.answer()} {a.say('rambles')}"),
    (0.04, lambda a: a.off()),
    (0.02, twice),
]
THANKS_STYLES: list[Style] = [
    (0.42, lambda a: a.say("plain_welcome")),
    (0.28, lambda a: a.say("welcome")),
    (0.15, lambda a: a.say("curt_welcome")),
    (0.10, lambda a: f"{a.say('plain_welcome')} {a.say('needless')}"),
    (0.05, lambda a: f"{a.say('plain_welcome')} {a.off()}"),
]
STYLES = {"request": REQUEST_STYLES, "question": QUESTION_STYLES, "thanks": THANKS_STYLES}


def write_demonstrations(stock: Stock, talks: list[Talk]) -> list[dict[str, Any]]:
    """One answer to each of N_DEMONSTRATIONS train prompts."""
    rng = random.Random(derive(SEED, "demonstrations"))
    chosen = rng.sample([t for t in talks if t.split == "train"], N_DEMONSTRATIONS)
    rows = []
    for talk in chosen:
        weights, ways = zip(*STYLES[talk.kind], strict=True)
        text = ""
        while not 0 < len(words(text)) <= MAX_ANSWER_WORDS:
            text = rng.choices(ways, weights)[0](Agent(stock, rng, talk))
        rows.append({"prompt": talk.messages, "completion": text})
    return rows


# --- files -----------------------------------------------------------------------------------------------------------


def prompt_row(stock: Stock, talk: Talk) -> dict[str, Any]:
    need = talk.situation["needs"] if talk.situation else None
    return {
        "prompt": talk.messages,
        "split": talk.split,
        "domain": talk.domain,
        "needs": need,
        "asks": stock.asks(need) if need else [],
    }


def vocabulary(stock: Stock) -> list[str]:
    """Every word of the stock, and the function words."""

    def texts(node: Any) -> Iterator[str]:
        if isinstance(node, str):
            yield re.sub(r"{[\w ]+}", " ", node)
        elif isinstance(node, dict):
            yield from itertools.chain.from_iterable(texts(v) for v in node.values())
        elif isinstance(node, list):
            yield from itertools.chain.from_iterable(texts(v) for v in node)

    known = {word for text in texts(stock.data) for word in words(text) if not word.isdigit()}
    return sorted(known | {"as", "said"} | FUNCTION_WORDS)


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def main() -> None:
    stock = Stock(DEMO / "stock.toml")
    talks = write_prompts(stock)
    write_rows(DEMO / "prompts.jsonl", [prompt_row(stock, t) for t in talks])
    write_rows(DEMO / "demonstrations.jsonl", write_demonstrations(stock, talks))
    domains = {name: part["words"].split(", ") for name, part in stock.domains.items()}
    (DEMO / "domains.json").write_text(json.dumps(domains, indent=1) + "\n")
    (DEMO / "words.txt").write_text("\n".join(vocabulary(stock)) + "\n")
    print(f"{len(talks)} prompts, {N_DEMONSTRATIONS} demonstrations, written to {DEMO}")


if __name__ == "__main__":
    main()
