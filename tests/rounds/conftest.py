"""The smallest base model that whole rounds can run on."""

from pathlib import Path

import pytest

from tutelage.formats.rows import read_rows
from tutelage.model.chat import Chat
from tutelage.model.checkpoint import save_causal
from tutelage.model.load import new_llama
from tutelage.model.tokenizer import train_bpe

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory):
    """A two-layer model that has read nothing, with a tokenizer of the demo's words."""
    rows = read_rows(ROOT / "tutelage" / "assets" / "demo" / "demonstrations.jsonl")
    texts = [row["prompt"][-1]["content"] + " " + row["completion"] for _, row in rows]
    chat = Chat(train_bpe(texts, 600), window=160)
    model = new_llama(vocabulary=600, width=32, layers=2, heads=2, window=160, eos_id=chat.end_id, seed=1)
    folder = tmp_path_factory.mktemp("base") / "tiny"
    save_causal(folder, model, chat, {"stage": "base"})
    return folder
