"""Is a recipe fit to be run: its files, the split, what would be learned, and whether prompts fit the model."""

import tempfile
from collections import Counter
from collections.abc import Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from statistics import median

from tutelage.data.sft import sft_rows
from tutelage.formats.detect import read_placed
from tutelage.formats.rows import Refusal
from tutelage.model.chat import Chat
from tutelage.rounds.findings import Check, State, attempt
from tutelage.rounds.prepare import DEMO, Prompts, demo_file, demonstrations, material
from tutelage.rounds.recipe import Recipe, resolved
from tutelage.rounds.run import Run
from tutelage.store.db import open_store
from tutelage.types import Demonstration, Prompt

N_ROWS = 50  # of each file, read first
N_LENGTHS = 1000  # prompts whose length is measured
N_SHOWN = 3
MAX_TOO_LONG = 0.1  # share of prompts without room for an answer, beyond which something is wrong


def recipe_checks(recipe: Recipe, chat: Chat | None) -> list[Check]:
    """First rows of every file; when all can be read, the whole material as a run would take it.

    chat  of the base model; None when that could not be opened
    """
    data = recipe.data
    kinds = {"demonstrations": data.demonstrations, "prompts": data.prompts, "comparisons": data.comparisons}
    files = [(kind, path) for kind, paths in kinds.items() for path in paths]
    files += [("reward_stage.pretrain_on", path) for path in recipe.reward_stage.pretrain_on]
    checks = [c for kind, path in files for c in attempt(f"{kind}: {path}", partial(first_rows, kind, path))]
    if any(c.state == "bad" for c in checks):
        return checks
    return checks + attempt("material", lambda: _material(recipe, chat))


def first_rows(kind: str, path: str) -> list[Check]:
    """How many of the first rows can be used. One bad row is no hindrance: a run leaves it out and counts it."""
    file = demo_file(kind) if path == DEMO else Path(path)
    refused = Counter[str]()
    n = 0
    for _, item in islice(read_placed(file), N_ROWS):
        n += 1
        if isinstance(item, Refusal):
            refused[item.why] += 1
    name, what = f"{kind}: {path}", f"{n - refused.total()} of the first {n} rows can be used"
    if not refused:
        return [Check(name, "ok", what)]
    reasons = ", ".join(f"{why} ({count})" for why, count in refused.most_common())
    todo = "`tutelage import --dry-run` shows each; mend them, or go on without them"
    return [Check(name, "warn", f"{what}; refused: {reasons}", todo)]


def _material(recipe: Recipe, chat: Chat | None) -> list[Check]:
    """Reads everything into a store that is thrown away, by the same functions as a run."""
    with tempfile.TemporaryDirectory() as name, open_store(Path(name) / "store.db") as store:
        run = Run(Path(name), resolved(recipe), store)
        prompts = material(run)
        train, valid = demonstrations(run)
    split = (
        f"prompts: {len(prompts.train)} to train on, {len(prompts.valid)} held out, {len(prompts.test)} for the report"
    )
    learned = f"demonstrations: {len(train)} to learn from, {len(valid)} held out"
    checks = [Check("split", "ok", f"{split}; {learned}")]
    if chat is None:
        return checks
    checks += attempt("supervised tokens", lambda: [supervised(train, chat)])
    return checks + attempt("prompt lengths", lambda: [lengths(prompts, chat, recipe)])


def supervised(train: Sequence[Demonstration], chat: Chat) -> Check:
    """The share of tokens that are learned, with examples: what stands in «» is learned."""
    rows = sft_rows(train, chat)
    shown = []
    for ids, mask in rows.rows[:N_SHOWN]:
        start = mask.index(True)
        shown.append(f"{chat.tokenizer.decode(ids[:start])}«{chat.tokenizer.decode(ids[start:])}»")
    what = f"{rows.supervised_share:.0%} of the tokens are learned"
    if rows.n_too_long:
        what += f", {rows.n_too_long} of {len(train)} demonstrations are longer than the window of {chat.window}"
    examples = "".join(f"\n        {text!r}" for text in shown)
    if rows.n_too_long > MAX_TOO_LONG * len(train):
        todo = "shorten them, or use a model with a longer window; a run leaves them out"
        return Check("supervised tokens", "warn", what + examples, todo)
    return Check("supervised tokens", "ok", what + examples)


def lengths(prompts: Prompts, chat: Chat, recipe: Recipe) -> Check:
    """Whether prompts leave room for an answer."""
    room = min(chat.window - recipe.sampling.max_new_tokens, recipe.data.max_prompt_tokens or chat.window)
    some: Sequence[Prompt] = (*prompts.train, *prompts.valid, *prompts.test)[:N_LENGTHS]
    found = sorted(len(chat.prompt_ids(p)) for p in some)
    n_long = sum(n > room for n in found)
    what = f"median {median(found):.0f}, longest {found[-1]} tokens; they may have {room} in a window of {chat.window}"
    if n_long <= MAX_TOO_LONG * len(found):
        return Check("prompt lengths", "ok", f"{what}; {n_long} of {len(found)} are longer and would be left out")
    todo = "shorten prompts, lower sampling.max_new_tokens, or use a model with a longer window"
    state: State = "bad" if n_long == len(found) else "warn"
    return Check("prompt lengths", state, f"{what}; {n_long} of {len(found)} are longer and would be left out", todo)
