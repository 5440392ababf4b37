"""A labeler's conversation with one model or two: what is said, what is judged, and how a failure becomes a test.

Which model wrote an answer is known to the store alone: the two answers of a turn stand in random order, and that order
is kept. Knows no page.
"""

import secrets
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

from tutelage.errors import ConflictError, DataError
from tutelage.label.access import App
from tutelage.label.answers import Skipped, skip
from tutelage.label.endpoints import Sampling, ask, written
from tutelage.store import assignments
from tutelage.store.assignments import Held
from tutelage.store.completions import add_completions, get_completions
from tutelage.store.feedback import find
from tutelage.store.offers import offer
from tutelage.store.projects import Project, TaskKind, guideline
from tutelage.store.prompts import add_prompts, get_prompt
from tutelage.store.sources import own_source
from tutelage.store.tasks import NewTask, add_tasks
from tutelage.store.tools import Chat, Endpoint, change_chat, endpoints, find_endpoint, open_chat
from tutelage.types import (
    Completion,
    Critique,
    Feedback,
    Flag,
    Judgement,
    Message,
    Prompt,
    RankedItem,
    Ranking,
    Rating,
    Thumb,
    digest,
)

SAMPLING = Sampling(temperature=1.0, max_tokens=512)
KINDS: tuple[TaskKind, ...] = ("chat",)
MOST_TURNS = 60  # of a person
Outcome = Literal["left", "right", "tie", "both_bad"]
TIERS: dict[Outcome, tuple[int, int]] = {"left": (1, 2), "right": (2, 1), "tie": (1, 1), "both_bad": (1, 1)}
UP = {"helpful": "Helpful", "right": "Correct", "clear": "Clear", "safe": "Rightly careful"}
DOWN = {
    "wrong": "Wrong", "unhelpful": "Not helpful", "harmful": "Harmful", "ignored": "Ignores what I said",
    "long": "Too long", "refused": "Refuses without need",
}  # fmt: skip
_busy: set[str] = set()  # chats that a model is answering now
_lock = threading.Lock()


def begin(app: App, project: Project, labeler: str, goal: str, *, n: int, chosen: Sequence[int] = ()) -> Chat:
    """A new chat with `n` models: the chosen ones, or some at random. One endpoint twice gives two drafts of one."""
    return open_chat(app.store, project.id, labeler, _words(goal, "goal", 2000), _models(app, project, n, chosen))


def begin_task(app: App, project: Project, labeler: str, *, n: int) -> Chat | None:
    """A chat whose goal is a task of the desk, in this labeler's hands; None when there is none for her."""
    models = _models(app, project, n, ())
    held = offer(app.store, project, labeler, kinds=KINDS)
    if held is None:
        return None
    goal = get_prompt(app.store, held.task.prompt_id).messages[-1].content
    return open_chat(app.store, project.id, labeler, goal, models, [{"role": "task", "assignment": held.id}])


def _models(app: App, project: Project, n: int, chosen: Sequence[int]) -> tuple[int, ...]:
    known = [e.id for e in endpoints(app.store, project.id)]
    if not known:
        raise DataError("there is no model to talk to yet. An owner adds one on the page of models.")
    if not set(chosen) <= set(known) or len(chosen) > 2:
        raise DataError("choose one or two of this project's models.")
    if chosen:
        return tuple(chosen)
    secrets.SystemRandom().shuffle(known)
    return tuple((known * 2)[:n])


def _words(text: str, what: str, most: int) -> str:
    found = text.replace("\r\n", "\n").replace("\x00", "").strip()
    if not 1 <= len(found) <= most:
        raise DataError(f"the {what} has {len(found)} characters. Write 1 to {most}.")
    return found


def messages(chat: Chat) -> list[Message]:
    """The conversation so far, along the answers that were chosen."""
    said = []
    for turn in chat.turns:
        if turn["role"] == "user":
            said.append(Message(role="user", content=turn["text"]))
        elif turn["role"] == "assistant":
            said.append(Message(role="assistant", content=turn["answers"][turn["chosen"] or 0]["text"]))
    return said


def say(app: App, project: Project, chat: Chat, key: str, text: str) -> Chat:
    """The labeler's turn and the answers to it. The same key again gives what is there, or asks for what is missing."""
    with _lock:
        if chat.id in _busy:
            raise ConflictError("The model is still answering.")
        _busy.add(chat.id)
    try:
        return _say(app, project, chat, key, text)
    finally:
        with _lock:
            _busy.discard(chat.id)


def _say(app: App, project: Project, chat: Chat, key: str, text: str) -> Chat:
    turns = chat.turns
    if any(t["role"] == "user" and t["key"] == key for t in turns[:-1]):
        return chat  # said and answered before
    is_waiting = bool(turns) and turns[-1]["role"] == "user"
    if not (is_waiting and turns[-1]["key"] == key):
        _check_turn(chat)
        line = {"role": "user", "text": _words(text, "message", 8000), "key": key}
        chat = _changed(app, chat, [*(turns[:-1] if is_waiting else turns), line])
    prompt = Prompt(messages=tuple(messages(chat)), source=own_source(project, "chat"))
    found = _answers(app, project, chat, prompt)
    secrets.SystemRandom().shuffle(found)
    add_prompts(app.store, [prompt])
    add_completions(app.store, found)
    answer = {
        "role": "assistant",
        "prompt": prompt.id,
        "answers": [{"text": c.text, "completion": c.id} for c in found],
        "chosen": 0 if len(found) == 1 else None,
    }
    return _changed(app, chat, [*chat.turns, answer])


def _check_turn(chat: Chat) -> None:
    if chat.state != "open":
        raise ConflictError("This chat is finished.")
    if sum(t["role"] == "user" for t in chat.turns) >= MOST_TURNS:
        raise ConflictError(f"This chat has {MOST_TURNS} turns. Finish it and begin another.")
    if chat.turns and chat.turns[-1]["role"] == "assistant" and chat.turns[-1]["chosen"] is None:
        raise ConflictError("Two answers wait for your choice. Choose one; the chat goes on with it.")


def _answers(app: App, project: Project, chat: Chat, prompt: Prompt) -> list[Completion]:
    """One answer of each model, asked at the same time."""

    def answered(side: int) -> Completion:
        found = find_endpoint(app.store, project.id, chat.endpoints[side])
        if found is None:
            raise DataError("This model was removed meanwhile. Finish the chat and begin another.")
        return _one(app, found, chat, prompt, side)

    sides = range(len(chat.endpoints))
    if len(sides) == 1:
        return [answered(0)]
    with ThreadPoolExecutor(len(sides)) as calls:
        return list(calls.map(answered, sides))


def _one(app: App, endpoint: Endpoint, chat: Chat, prompt: Prompt, side: int) -> Completion:
    seed = int(digest("chat", chat.id, len(chat.turns), side)[:7], 16)
    try:
        said = ask(app, endpoint, prompt.messages, SAMPLING, seed, timeout_s=90)
    except DataError as e:  # its message names the server, and which model answers is not for labelers to know
        raise DataError(
            "A model did not answer. Send your message again in a moment, or tell the project's lead."
        ) from e
    return written(app, prompt, said, SAMPLING, seed, side)


def _changed(app: App, chat: Chat, turns: list[dict[str, Any]], feedbacks: Sequence[Feedback] = ()) -> Chat:
    change_chat(app.store, chat, feedbacks, turns=turns)
    return Chat(chat.id, chat.project_id, chat.labeler, chat.goal, chat.endpoints, turns, chat.state, chat.success)


# What is judged.


def _turn(chat: Chat, i_turn: int, i_answer: int = 0) -> dict[str, Any]:
    """A copy of an answered turn, to be changed."""
    if not 0 <= i_turn < len(chat.turns) or chat.turns[i_turn]["role"] != "assistant":
        raise DataError(f"turn {i_turn} is no answer of a model. Reload the chat.")
    turn = chat.turns[i_turn]
    if not 0 <= i_answer < len(turn["answers"]):
        raise DataError(f"turn {i_turn} has {len(turn['answers'])} answers, and none of number {i_answer}.")
    return {**turn, "answers": [dict(a) for a in turn["answers"]]}


def _event_key(chat: Chat, key: str) -> str:
    """The idempotency key of an event: two chats never share one, whatever their browsers made up."""
    return f"{chat.id}-{key}"


def _feedback(
    app: App, project: Project, chat: Chat, turn: dict[str, Any], judgement: Judgement, key: str, **more: Any
) -> Feedback:
    newest = guideline(app.store, project.id)
    return Feedback(
        labeler=chat.labeler,
        prompt_id=turn["prompt"],
        judgement=judgement,
        idempotency_key=_event_key(chat, key),
        source=own_source(project, "chat"),
        shown=tuple(a["completion"] for a in turn["answers"]),
        guideline=newest.id if newest else None,
        **more,
    )


def _with(chat: Chat, i_turn: int, turn: dict[str, Any]) -> list[dict[str, Any]]:
    return [*chat.turns[:i_turn], turn, *chat.turns[i_turn + 1 :]]


def choose(app: App, project: Project, chat: Chat, key: str, i_turn: int, outcome: Outcome, active_ms: int) -> Chat:
    """Which of two answers is better: a ranking. The chat goes on with it, or with the left one of two equals."""
    turn = _turn(chat, i_turn)
    if "key" in turn and turn["key"] == key:
        return chat
    if len(turn["answers"]) != 2 or turn["chosen"] is not None:
        raise ConflictError("There is nothing to choose here any more. Reload the chat.")
    items = tuple(
        RankedItem(completion_id=a["completion"], tier=tier)
        for a, tier in zip(turn["answers"], TIERS[outcome], strict=True)
    )
    ranking = Ranking(items=items, none_acceptable=outcome == "both_bad")
    turn |= {"chosen": 1 if outcome == "right" else 0, "outcome": outcome, "key": key}
    feedback = _feedback(app, project, chat, turn, ranking, key, active_ms=active_ms)
    return _changed(app, chat, _with(chat, i_turn, turn), [feedback])


def thumb(
    app: App,
    project: Project,
    chat: Chat,
    key: str,
    i_turn: int,
    i_answer: int,
    value: Literal[-1, 1],
    reasons: Sequence[str],
) -> Chat:
    """A thumb with reasons. Another one on the same answer replaces it."""
    turn = _turn(chat, i_turn, i_answer)
    answer = turn["answers"][i_answer]
    before = answer["thumb"] if "thumb" in answer else None
    if before and before["key"] == key:
        return chat
    known = UP if value == 1 else DOWN
    if not set(reasons) <= known.keys():
        raise DataError("these are no reasons of this page. Reload it.")
    given = Thumb(completion_id=answer["completion"], value=value, reasons=tuple(dict.fromkeys(reasons)))
    supersedes = _seq(app, _event_key(chat, before["key"])) if before else None
    answer["thumb"] = {"value": value, "reasons": list(given.reasons), "key": key}
    feedback = _feedback(app, project, chat, turn, given, key, supersedes=supersedes)
    return _changed(app, chat, _with(chat, i_turn, turn), [feedback])


def _seq(app: App, key: str) -> int:
    return find(app.store, [key])[key].seq


def broke(
    app: App, project: Project, chat: Chat, key: str, i_turn: int, i_answer: int, category: str, words: str
) -> Chat:
    """Marks the answer that broke: a flag with the goal as its note, and a critique in the labeler's words."""
    turn = _turn(chat, i_turn, i_answer)
    answer = turn["answers"][i_answer]
    if "broke" in answer:
        if answer["broke"]["key"] == key:
            return chat
        raise ConflictError("This answer is marked already.")
    if category not in {f.key for f in project.settings.flags}:
        raise DataError(f"this project has no flag {category[:40]!r}. Reload the page.")
    text = _words(words, "critique", 8000)
    answer["broke"] = {"category": category, "text": text, "key": key, "test": False}
    judgements: tuple[Judgement, ...] = (
        Flag(category=category, completion_id=answer["completion"], note=chat.goal),
        Critique(completion_id=answer["completion"], text=text),
    )
    feedbacks = [
        _feedback(app, project, chat, turn, j, key if i == 0 else f"{key}:{i}") for i, j in enumerate(judgements)
    ]
    return _changed(app, chat, _with(chat, i_turn, turn), feedbacks)


def keep_as_test(app: App, project: Project, chat: Chat, i_turn: int, i_answer: int) -> Chat:
    """Turns an answer that broke into a regression test: its prompt, under a source of its own, with a task to correct
    it. Prompts of that source can be given to any later model."""
    turn = _turn(chat, i_turn, i_answer)
    answer = turn["answers"][i_answer]
    if "broke" not in answer:
        raise ConflictError("Mark the answer as broken first, and say what is wrong.")
    task = NewTask(
        kind="correct",
        prompt=get_prompt(app.store, turn["prompt"]),
        completions=tuple(get_completions(app.store, [answer["completion"]])),
        source=own_source(project, "regressions"),
        overlap=project.settings.overlap,
    )
    add_tasks(app.store, project.id, [task])
    if answer["broke"]["test"]:
        return chat
    answer["broke"] = {**answer["broke"], "test": True}
    return _changed(app, chat, _with(chat, i_turn, turn))


def finish(app: App, project: Project, chat: Chat, key: str, success: int) -> None:
    """Ends a chat with how far the goal was reached, 1 to 5: a rating of the last answer, and the task's end."""
    if chat.state == "closed":
        return
    last = next((t for t in reversed(chat.turns) if t["role"] == "assistant"), None)
    if last is None:
        raise DataError("Nothing was answered yet. Say something first.")
    if last["chosen"] is None:
        raise ConflictError("Two answers wait for your choice. Choose one first.")
    rating = Rating(completion_id=last["answers"][last["chosen"]]["completion"], aspect="success", value=float(success))
    feedback = _feedback(app, project, chat, last, rating, key)
    held = _task(app, chat)
    if held:
        assignments.answer(
            app.store, held, [feedback], mark=assignments.answer_mark(_event_key(chat, key), str(success))
        )
    change_chat(app.store, chat, [feedback], state="closed", success=success)


def give_back(app: App, chat: Chat, given: Skipped) -> None:
    """Ends a chat whose goal the labeler would not pursue, with her reason; somebody else gets the task."""
    held = _task(app, chat)
    if held is None:
        raise DataError("This chat is no task. Finish it instead.")
    if chat.state == "closed":
        return
    key = _event_key(chat, given.key)
    left = skip(given, held).model_copy(update={"idempotency_key": key})
    assignments.answer(app.store, held, [left], mark=assignments.answer_mark(key, "skip"), state="skipped")
    change_chat(app.store, chat, state="closed")


def _task(app: App, chat: Chat) -> Held | None:
    if not chat.turns or chat.turns[0]["role"] != "task":
        return None
    return assignments.find_held(app.store, chat.project_id, chat.labeler, chat.turns[0]["assignment"])
