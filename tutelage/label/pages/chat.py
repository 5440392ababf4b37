"""Chats with live models: the list, one conversation, and what its page sends (static/chat.js)."""

from collections.abc import Callable
from typing import Annotated, Any, Literal

import anyio
from fastapi import Depends, Form, Path, Response
from pydantic import Field

from tutelage.label import chatting, markup
from tutelage.label.access import MEMBERS, Caller, Refused, Routes, caller
from tutelage.label.answers import KEY, Skipped
from tutelage.label.chatting import DOWN, UP, Outcome
from tutelage.label.render import go, page
from tutelage.store.access import note
from tutelage.store.tasks import progress
from tutelage.store.tools import Chat, chats, endpoints, find_chat
from tutelage.types import Fact

routes = Routes()
Who = Annotated[Caller, Depends(caller)]
Number = Annotated[str, Path(pattern=r"^[0-9a-f]{24}$")]
Models = Annotated[int, Form(ge=1, le=2)]
_calls = anyio.CapacityLimiter(16)  # chats that wait for a model never take the threads that serve the other pages


class Keyed(Fact):
    key: str = Field(pattern=KEY)


class Line(Keyed):
    """What the labeler says."""

    text: str = Field(min_length=1, max_length=8000)


class OfTurn(Keyed):
    turn: int = Field(ge=0, le=400)
    answer: int = Field(default=0, ge=0, le=1)


class Choice(OfTurn):
    outcome: Outcome
    active_ms: int = Field(default=0, ge=0, le=86_400_000)


class Thumbed(OfTurn):
    value: Literal[-1, 1]
    reasons: tuple[str, ...] = Field(default=(), max_length=10)


class Broken(OfTurn):
    category: str = Field(min_length=1, max_length=40)
    text: str = Field(min_length=1, max_length=8000)


class Finished(Keyed):
    success: int = Field(ge=1, le=5)


@routes.on("GET", "/p/{slug}/chat", MEMBERS)
def chat_list(who: Who) -> Response:
    found = endpoints(who.store, who.project.id)
    has_goals = any(p.kind == "chat" and p.answered < p.wanted for p in progress(who.store, who.project.id))
    return page(
        who,
        "chats.html",
        here="chat",
        own=chats(who.store, who.project.id, who.labeler),
        has_models=bool(found),
        models=found if who.role in ("owner", "lead") else [],  # to labelers every model is nameless
        has_goals=has_goals and bool(found),
    )


@routes.on("POST", "/p/{slug}/chat", MEMBERS)
def begin(
    who: Who,
    goal: Annotated[str, Form(max_length=4000)],
    n: Models = 1,
    endpoint: Annotated[list[int] | None, Form(max_length=2)] = None,
) -> Response:
    """A new conversation towards a goal."""
    chosen = [e for e in endpoint or [] if e]
    if chosen and who.role not in ("owner", "lead"):
        raise Refused(403, "Which model answers is drawn by lot.")
    made = chatting.begin(who.app, who.project, who.labeler, goal, n=n, chosen=chosen)
    return go(who.path(f"chat/{made.id}"))


@routes.on("POST", "/p/{slug}/chat/task", MEMBERS)
def begin_task(who: Who, n: Models = 1) -> Response:
    """A conversation towards a goal that lies on the desk."""
    made = chatting.begin_task(who.app, who.project, who.labeler, n=n)
    if made is None:
        raise Refused(404, "There is no goal for you right now. Write one of your own.")
    return go(who.path(f"chat/{made.id}"))


@routes.on("GET", "/p/{slug}/chat/{number}", MEMBERS)
def one_chat(who: Who, number: Number) -> Response:
    found = own(who, number)
    facts = {
        "base": who.path(f"chat/{number}"),
        "list": who.path("chat"),
        "mark": who.form_mark,
        "chat": shown(found),
        "flags": [f.model_dump(mode="json") for f in who.project.settings.flags],
        "reasons": {"up": UP, "down": DOWN},
        "blur": who.project.settings.blur_sensitive,
    }
    return page(who, "chat.html", here="chat", chat=found, facts=facts)


@routes.on("GET", "/p/{slug}/chat/{number}/state", MEMBERS)
def state(who: Who, number: Number) -> dict[str, Any]:
    return shown(own(who, number))


@routes.on("POST", "/p/{slug}/chat/{number}/say", MEMBERS)
async def say(who: Who, number: Number, given: Line) -> dict[str, Any]:
    """The next turn; the reply holds the answers. Sent again with the same key, nothing is said twice."""

    def said() -> dict[str, Any]:
        who.app.chat_turns.take(who.labeler)
        return shown(chatting.say(who.app, who.project, own(who, number), given.key, given.text))

    return await anyio.to_thread.run_sync(said, limiter=_calls)


@routes.on("POST", "/p/{slug}/chat/{number}/choose", MEMBERS)
def choose(who: Who, number: Number, given: Choice) -> dict[str, Any]:
    return _done(
        who, number, lambda c: chatting.choose(
            who.app, who.project, c, given.key, given.turn, given.outcome, given.active_ms
        ),
    )  # fmt: skip


@routes.on("POST", "/p/{slug}/chat/{number}/thumb", MEMBERS)
def thumb(who: Who, number: Number, given: Thumbed) -> dict[str, Any]:
    return _done(
        who, number, lambda c: chatting.thumb(
            who.app, who.project, c, given.key, given.turn, given.answer, given.value, given.reasons
        ),
    )  # fmt: skip


@routes.on("POST", "/p/{slug}/chat/{number}/broke", MEMBERS)
def broke(who: Who, number: Number, given: Broken) -> dict[str, Any]:
    return _done(
        who, number, lambda c: chatting.broke(
            who.app, who.project, c, given.key, given.turn, given.answer, given.category, given.text
        ),
    )  # fmt: skip


@routes.on("POST", "/p/{slug}/chat/{number}/keep", MEMBERS)
def keep(who: Who, number: Number, given: OfTurn) -> dict[str, Any]:
    """Makes a broken answer a regression test."""
    return _done(who, number, lambda c: chatting.keep_as_test(who.app, who.project, c, given.turn, given.answer))


@routes.on("POST", "/p/{slug}/chat/{number}/finish", MEMBERS)
def finish(who: Who, number: Number, given: Finished) -> dict[str, Any]:
    chatting.finish(who.app, who.project, own(who, number), given.key, given.success)
    note(who.store, "chat finished", project_id=who.project.id, account_id=who.account.id, success=given.success)
    return shown(own(who, number))


@routes.on("POST", "/p/{slug}/chat/{number}/give-back", MEMBERS)
def give_back(who: Who, number: Number, given: Skipped) -> dict[str, Any]:
    """Leaves a goal of the desk to somebody else, and says why."""
    chatting.give_back(who.app, own(who, number), given)
    return shown(own(who, number))


def own(who: Caller, number: str) -> Chat:
    found = find_chat(who.store, who.project.id, who.labeler, number)
    if found is None:
        raise Refused(404, "There is no such chat of yours.")
    return found


def _done(who: Caller, number: str, step: Callable[[Chat], Chat]) -> dict[str, Any]:
    return shown(step(own(who, number)))


def shown(chat: Chat) -> dict[str, Any]:
    """A chat as the browser may see it: no completion id, no model."""
    return {
        "goal": chat.goal,
        "state": chat.state,
        "success": chat.success,
        "sides": len(chat.endpoints),
        "is_task": bool(chat.turns) and chat.turns[0]["role"] == "task",
        "turns": [
            {
                "n": i,
                "role": "user",
                "text": t["text"],
                "key": t["key"],
                "nodes": markup.tree(t["text"]),
            }
            if t["role"] == "user"
            else {
                "n": i,
                "role": "assistant",
                "chosen": t["chosen"],
                "outcome": t["outcome"] if "outcome" in t else None,
                "answers": [_answer(a) for a in t["answers"]],
            }
            for i, t in enumerate(chat.turns)
            if t["role"] != "task"
        ],
    }


def _answer(a: dict[str, Any]) -> dict[str, Any]:
    thumb, broke = (a[name] if name in a else None for name in ("thumb", "broke"))
    return {
        "nodes": markup.tree(a["text"]),
        "thumb": {"value": thumb["value"], "reasons": thumb["reasons"]} if thumb else None,
        "broke": {"category": broke["category"], "text": broke["text"], "test": broke["test"]} if broke else None,
    }
