"""The labeller's desk: the page, and what it fetches and sends. The page itself is one ES module (static/desk.js)."""

import json
from typing import Annotated, Any

from fastapi import Body, Depends, Query, Response
from pydantic import Field, field_validator

from tutelage.label import markup
from tutelage.label.access import MEMBERS, Caller, Refused, Routes, caller
from tutelage.label.answers import KEY, Answer, Skipped, judgements, skip
from tutelage.label.checks import score_check
from tutelage.label.render import page
from tutelage.store import assignments
from tutelage.store.accounts import change_account
from tutelage.store.assignments import Held
from tutelage.store.completions import get_completions
from tutelage.store.offers import offer
from tutelage.store.projects import TASK_KINDS, TaskKind, guideline
from tutelage.store.sheets import in_hand, sheet
from tutelage.types import Fact

routes = Routes()
Who = Annotated[Caller, Depends(caller)]
Number = Annotated[str, Field(pattern=r"^[0-9a-f]{24}$")]
HERE = tuple(kind for kind in TASK_KINDS if kind != "chat")  # a chat has a page of its own
NOT_HERS = "This task is not in your hands."
NEAR = 0.4  # of the three-word runs of two cards: above, their differences are marked


class Draft(Fact):
    """Unfinished work as the page keeps it: a small JSON object that only the page reads."""

    body: dict[str, Any]

    @field_validator("body")
    @classmethod
    def _can_be_kept_and_sent(cls, body: dict[str, Any]) -> dict[str, Any]:
        json.dumps(body, ensure_ascii=False, allow_nan=False).encode()  # a ValueError for half a character, too
        return body


@routes.on("GET", "/p/{slug}/work", MEMBERS)
def work(who: Who) -> Response:
    settings = who.project.settings
    facts = {
        "base": who.path("desk"),
        "mark": who.form_mark,
        "labeler": who.labeler,
        "settings": settings.model_dump(
            mode="json",
            include={"aspects", "flags", "steps", "blur_sensitive", "break_minutes", "review_demonstrations"},
        ),
        "lease_s": settings.lease_minutes * 60,
        "keys": who.account.preferences["keys"] if "keys" in who.account.preferences else {},
    }
    newest = guideline(who.store, who.project.id)
    return page(who, "desk.html", here="work", facts=facts, guideline=newest)


@routes.on("GET", "/p/{slug}/desk/next", MEMBERS, is_quick=True)
def next_task(
    who: Who,
    have: Annotated[str, Query(max_length=200, pattern=r"^[0-9a-f,]*$")] = "",
    kind: Annotated[TaskKind | None, Query()] = None,
) -> dict[str, Any]:
    """The next task, leased to this person; `{"task": null}` when there is none for her now."""
    holding = [h for h in have.split(",") if h]
    held = offer(who.store, who.project, who.labeler, have=holding, kinds=[kind] if kind else HERE)
    return {"task": shown(who, held) if held else None}


@routes.on("GET", "/p/{slug}/desk/{number}", MEMBERS, is_quick=True)
def one_task(who: Who, number: Number) -> dict[str, Any]:
    """A task in one's hands, or one's own answer, to be looked at again."""
    held = own(who, number)
    told = shown(who, held)
    if held.state == "answered":
        told["answer"] = said(who, held)
    return {"task": told}


@routes.on("POST", "/p/{slug}/desk/{number}/answer", MEMBERS, is_quick=True)
def answer(who: Who, number: Number, given: Answer) -> dict[str, Any]:
    """Stores an answer; the reply means that it is committed. Sent again with the same key, it changes nothing."""
    mine = in_hand(who.store, who.project.id, who.labeler, number)
    if mine is None:
        raise Refused(404, NOT_HERS)
    held, mark = mine.held, assignments.answer_mark(given.key, given.model_dump_json())
    made = judgements(given, held, who.project, mine.texts, mine.guideline)
    score, told = score_check(held, made.tiers)
    stored = assignments.answer(who.store, held, made.feedbacks, mark=mark, written=made.written, score=score)
    return {"committed": stored[0].seq, "practice": told}


@routes.on("POST", "/p/{slug}/desk/{number}/skip", MEMBERS, is_quick=True)
def skip_task(who: Who, number: Number, given: Skipped) -> dict[str, Any]:
    """Gives a task back with a reason; somebody else gets it."""
    held = own(who, number)
    mark = assignments.answer_mark(given.key, given.model_dump_json())
    stored = assignments.answer(who.store, held, [skip(given, held)], mark=mark, state="skipped")
    return {"committed": stored[0].seq}


@routes.on("PUT", "/p/{slug}/desk/{number}/draft", MEMBERS, is_quick=True)
def draft(who: Who, number: Number, given: Draft) -> dict[str, bool]:
    assignments.save_draft(who.store, who.project.id, who.labeler, own(who, number).id, given.body)
    return {"saved": True}


@routes.on("POST", "/p/{slug}/desk/{number}/renew", MEMBERS, is_quick=True)
def renew(who: Who, number: Number) -> dict[str, bool]:
    seconds = who.project.settings.lease_minutes * 60
    held = own(who, number)
    return {"held": assignments.renew(who.store, who.project.id, who.labeler, held.id, seconds=seconds)}


@routes.on("POST", "/p/{slug}/desk/{number}/revise", MEMBERS, is_quick=True)
def revise(who: Who, number: Number, given: Answer) -> dict[str, Any]:
    """One's own answer said anew: new events that replace the old ones, which stay."""
    held = revisable(who, number)
    mine = in_hand(who.store, who.project.id, who.labeler, number)
    assert mine is not None, "it was in her hands a moment ago, and an answer stays its author's"
    made = judgements(given, held, who.project, mine.texts, mine.guideline)
    stored = assignments.revise(who.store, held, made.feedbacks, key=given.key, written=made.written)
    return {"committed": stored[-1].seq}


@routes.on("POST", "/p/{slug}/desk/{number}/withdraw", MEMBERS, is_quick=True)
def withdraw(who: Who, number: Number, key: Annotated[str, Body(embed=True, pattern=KEY)]) -> dict[str, Any]:
    """Takes an answer back: it counts no more, and the log still says that it was given."""
    held = revisable(who, number)
    assignments.revise(who.store, held, [], key=key)
    return {"withdrawn": True}


@routes.on("PUT", "/p/{slug}/desk/keys/own", MEMBERS, is_quick=True)
def rebind(who: Who, keys: Annotated[dict[str, str], Body(embed=True)]) -> dict[str, bool]:
    """A person's own single keys, by the name of the action."""
    if len(keys) > 40 or any(len(k) > 30 or len(v) > 12 for k, v in keys.items()):
        raise Refused(422, "These are no key bindings.")
    change_account(who.store, who.account.id, preferences={**who.account.preferences, "keys": keys})
    return {"saved": True}


# What the page is told.


def own(who: Caller, number: str) -> Held:
    held = assignments.find_held(who.store, who.project.id, who.labeler, number)
    if held is None:
        raise Refused(404, NOT_HERS)
    return held


def revisable(who: Caller, number: str) -> Held:
    held = own(who, number)
    minutes = who.project.settings.revise_minutes
    if held.state != "answered" or held.answered_at is None:
        raise Refused(409, "There is no answer to revise.")
    if who.store.seconds() - held.answered_at > minutes * 60:
        raise Refused(409, f"Answers can be revised for {minutes:.0f} minutes, and this one is older.")
    return held


def shown(who: Caller, held: Held) -> dict[str, Any]:
    """A task as the browser may see it: no completion id, no model, no sign of a check."""
    seen = sheet(who.store, held)
    return {
        "id": held.id,
        "kind": held.task.kind,
        "state": held.state,
        "practice": held.task.is_practice,
        "prompt": [{"role": m.role, "text": m.content, "nodes": markup.tree(m.content)} for m in seen.prompt.messages],
        "cards": [{"text": t, "nodes": markup.tree(t)} for t in seen.texts],
        "near": near(seen.texts),
        "draft": seen.draft,
    }


def near(texts: list[str]) -> list[int | None]:
    """For each card, the earlier card that it nearly repeats, so that only the difference has to be read."""
    runs = [_runs(text) for text in texts]

    def shared(i: int, j: int) -> float:
        return len(runs[i] & runs[j]) / max(1, len(runs[i] | runs[j]))

    found: list[int | None] = []
    for i in range(len(texts)):
        best = max(range(i), key=lambda j: shared(i, j), default=None)
        found.append(best if best is not None and shared(i, best) >= NEAR else None)
    return found


def _runs(text: str) -> set[tuple[str, ...]]:
    """Three words in a row, wherever they stand: texts about the same thing share words, near repeats share runs."""
    words = text.lower().split()
    return set(zip(words, words[1:], words[2:], strict=False)) or {tuple(words)}


def said(who: Caller, held: Held) -> dict[str, Any]:
    """One's own answer as the page fills it in again."""
    place = {number: i for i, card in enumerate(held.cards) for number in card}
    told: dict[str, Any] = {"ratings": {}, "flags": [], "critiques": [], "corrections": []}
    for event in assignments.says_now(who.store, held):
        j = event.feedback.judgement
        match j.kind:
            case "ranking":
                tiers: list[int | None] = [None] * len(held.cards)
                for item in j.items:
                    tiers[place[item.completion_id]] = item.tier
                told |= {"tiers": tiers, "none_acceptable": j.none_acceptable, "strength": j.strength}
            case "rating":
                row = told["ratings"].setdefault(j.aspect, [None] * len(held.cards))
                row[place[j.completion_id]] = int(j.value)
            case "flag":
                card = None if j.completion_id is None else place[j.completion_id]
                told["flags"].append({"card": card, "category": j.category, "note": j.note})
            case "critique":
                told["critiques"].append({"card": place[j.completion_id], "text": j.text, "span": j.span})
            case "demonstration" | "proposal":
                told["text"] = get_completions(who.store, [j.completion_id])[0].text
            case "correction":
                better = {"text": get_completions(who.store, [j.corrected_id])[0].text, "card": place[j.completion_id]}
                if held.task.kind == "correct":
                    told |= better
                else:
                    told["corrections"].append(better)
    return told
