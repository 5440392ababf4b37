"""Text for pre-training: documents and dialogues from files, as token pieces and a plan of batches.

The plan is a function of (sources, seed): after a kill a batch can be made again with no saved position but its number.
"""

import hashlib
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tutelage.data.batch import TokenBatch, collate
from tutelage.data.packing import fill_rows
from tutelage.errors import ConfigError, DataError
from tutelage.formats.rows import read_rows
from tutelage.model.chat import Chat
from tutelage.seed import derive
from tutelage.types import Message


@dataclass(frozen=True, slots=True, kw_only=True)
class CorpusSource:
    """One file of documents: rows with `text`, or with `messages` (a dialogue)."""

    path: str
    epochs: float = 1.0  # how often each of its tokens is seen
    held_out: float = 0.01  # share of documents kept for perplexity, by hash of their text

    def __post_init__(self) -> None:
        if not self.epochs > 0:
            raise ConfigError(
                f"{self.path}: epochs = {self.epochs}, but a source that is never read is no source. Leave it out."
            )
        if not 0 < self.held_out < 0.5:
            raise ConfigError(
                f"{self.path}: held_out = {self.held_out}. Set a share above 0 and below 0.5 (0.01 is usual)."
            )

    @property
    def name(self) -> str:
        return Path(self.path).name.split(".")[0]


@dataclass(frozen=True, slots=True)
class Corpus:
    """Token pieces of one source: what is trained on and what is held out."""

    name: str
    train: list[list[int]]
    held_out: list[list[int]]


def documents(source: CorpusSource) -> Iterator[str | tuple[Message, ...]]:
    """Each row's text or messages. Raises DataError for a row with neither."""
    for where, row in read_rows(Path(source.path)):
        if "text" in row:
            if not isinstance(row["text"], str):
                raise DataError(f"{where}: 'text' is {row['text']!r}, not words. Mend the row, or leave it out.")
            yield row["text"]
        elif "messages" in row:
            yield _messages(where, row["messages"])
        else:
            raise DataError(
                f"{where}: found the fields {sorted(row)}, but pre-training reads 'text' or 'messages'. Rename one of "
                f"them."
            )


def _messages(where: str, value: Any) -> tuple[Message, ...]:
    try:
        messages = tuple(Message(role=m["role"], content=m["content"]) for m in value)
    except (KeyError, TypeError, ValidationError) as e:
        raise DataError(
            f"{where}: 'messages' is no dialogue ({type(e).__name__}: {e}). Write a list of "
            f'{{"role": "user", "content": "…"}}; roles are system, user and assistant.'
        ) from e
    if not messages:
        raise DataError(f"{where}: 'messages' is empty. Leave the row out.")
    return messages


def plain(document: str | tuple[Message, ...]) -> str:
    """The words alone: what the tokenizer is trained on and what decides whether a document is held out."""
    return document if isinstance(document, str) else "\n".join(m.content for m in document)


def load_corpus(source: CorpusSource, chat: Chat, *, row_tokens: int) -> Corpus:
    """Tokens of a source, cut into pieces of at most `row_tokens`; every document ends with the end token."""
    train: list[list[int]] = []
    held_out: list[list[int]] = []
    for document in documents(source):
        ids = chat.completion_ids(document) if isinstance(document, str) else _dialogue_ids(document, chat)
        share = int(hashlib.sha256(plain(document).encode()).hexdigest()[:8], 16) / 16**8
        (held_out if share < source.held_out else train).append(ids)
    if not train or not held_out:
        raise DataError(
            f"{source.path}: {len(train)} documents to train on and {len(held_out)} held out; both are needed. Give "
            f"more text."
        )
    return Corpus(source.name, fill_rows(train, row_tokens), fill_rows(held_out, row_tokens))


def _dialogue_ids(messages: Sequence[Message], chat: Chat) -> list[int]:
    text = chat.tokenizer.apply_chat_template([m.model_dump() for m in messages], tokenize=False)
    return list(chat.tokenizer(text, add_special_tokens=False)["input_ids"])


def plan_batches(
    lengths: Sequence[Sequence[int]], epochs: Sequence[float], *, batch_tokens: int, seed: int
) -> list[list[int]]:
    """Which pieces make each batch, as indices into all sources' pieces laid end to end.

    lengths  tokens of each piece, source by source
    epochs   how often each source is read; a part of an epoch is a random part of its pieces
    One shuffle over everything; a batch closes before `batch_tokens` would be passed.
    """
    order: list[int] = []
    offset = 0
    for i_source, (source, times) in enumerate(zip(lengths, epochs, strict=True)):
        whole = int(times)
        order += [offset + i for i in range(len(source))] * whole
        rest = random.Random(derive(seed, "rest", i_source)).sample(
            range(len(source)), round((times - whole) * len(source))
        )
        order += [offset + i for i in rest]
        offset += len(source)
    random.Random(derive(seed, "order")).shuffle(order)
    flat = [n for source in lengths for n in source]
    batches: list[list[int]] = []
    room = 0
    for i in order:
        if not batches or flat[i] > room:
            batches.append([])
            room = batch_tokens
        batches[-1].append(i)
        room -= flat[i]
    return batches


def language_batch(pieces: Sequence[Sequence[int]]) -> TokenBatch:
    """Pieces as rows on which every token but the first is trained."""
    return collate([(p, [False] + [True] * (len(p) - 1)) for p in pieces])
