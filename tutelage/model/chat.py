"""One renderer for SFT, reward model and RL: chat messages to token ids, and ids back to text.

Token ids of a completion are made once, here or by the sampler, and never made again from text on the way to training.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2.exceptions import TemplateError
from transformers import PreTrainedTokenizerBase

from tutelage.errors import DataError, ModelError
from tutelage.types import Message, Prompt

# For tokenizers that bring no template. It ends with a line break, so that no answer begins with a space.
PLAIN = (
    "{% for m in messages %}{{ {'system': 'System', 'user': 'User', 'assistant': 'Assistant'}[m.role] }}:\n"
    "{{ m.content }}{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}{{ '\\n\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}Assistant:\n{% endif %}"
)
# Of the bundled model: one special token opens each turn, and the end token closes it.
TURNS = (
    "{% for m in messages %}{{ '<|' + m.role + '|>' + m.content + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
_PROBE = "The kettle is on the blue shelf."


class Chat:
    """Renders with the tokenizer's own template, or with `PLAIN` where it has none."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, window: int, source: str = "") -> None:
        self.tokenizer = tokenizer
        self.window = window  # tokens that the model can see
        self.source = source
        if not tokenizer.chat_template:
            tokenizer.chat_template = PLAIN
        self.end_id = int(tokenizer.eos_token_id)
        self._check_template()

    def _check_template(self) -> None:
        ask = [{"role": "user", "content": "Where is the kettle?"}]
        try:
            full = self._render([*ask, {"role": "assistant", "content": _PROBE}], answer=False)
            opened = self._render(ask, answer=True)
        except TemplateError as e:
            raise ModelError(
                f"{self.source}: the chat template fails ({e}). Mend 'chat_template' in the tokenizer's folder."
            ) from e
        if _PROBE not in full or not full.startswith(opened):
            raise ModelError(
                f"{self.source}: the chat template yields no trainable token: the assistant's words are missing from "
                f"what it renders, or do not follow the opening that it gives to an answer. Mend 'chat_template'."
            )

    def _render(self, messages: Sequence[dict[str, str]], *, answer: bool) -> str:
        text = self.tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=answer)
        return str(text)

    @property
    def template_hash(self) -> str:
        """Names the rendering; a model trained under one template must not be used under another."""
        return hashlib.sha256(str(self.tokenizer.chat_template).encode()).hexdigest()[:16]

    @property
    def tokenizer_hash(self) -> str:
        """Names the tokenizer by what it does: two that agree here give the same ids for the same text."""
        state = json.dumps(sorted(self.tokenizer.get_vocab().items()), ensure_ascii=False)
        return hashlib.sha256((state + str(self.tokenizer.chat_template)).encode()).hexdigest()[:16]

    def prompt_ids(self, prompt: Prompt | Sequence[Message]) -> list[int]:
        """Tokens of the conversation, up to where the assistant begins to write."""
        messages = prompt.messages if isinstance(prompt, Prompt) else prompt
        plain = [{"role": m.role, "content": self._only_words(m.content)} for m in messages]
        return self._encode(self._render(plain, answer=True))

    def _only_words(self, content: str) -> str:
        """What a user typed cannot forge a turn: a special token's text is broken by a space and stays words."""
        for token in self.tokenizer.added_tokens_decoder.values():
            if token.special and token.content in content:
                content = content.replace(token.content, f"{token.content[0]} {token.content[1:]}")
        return content

    def completion_ids(self, text: str) -> list[int]:
        """Tokens of an answer, the end token last. Words that look like a special token stay words."""
        ids = self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        return [*ids, self.end_id]

    def _encode(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def text(self, ids: Sequence[int]) -> str:
        """The words of an answer; special tokens are left out."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True)).strip()

    def check_length(self, prompt: Prompt, new_tokens: int) -> list[int]:
        """The prompt's tokens; raises DataError when prompt and answer do not fit the model's window."""
        ids = self.prompt_ids(prompt)
        if len(ids) + new_tokens > self.window:
            raise DataError(
                f"prompt {prompt.id} has {len(ids)} tokens; with {new_tokens} for the answer that is more than the "
                f"model's window of {self.window}. Shorten the prompt, lower the answer's limit, or use a model with a "
                f"longer window."
            )
        return ids

    def save(self, folder: Path) -> None:
        """Writes tokenizer and template as `transformers` reads them."""
        self.tokenizer.save_pretrained(str(folder))


def turns_tokenizer(backend: Any) -> PreTrainedTokenizerBase:
    """A tokenizer of our own kind around a trained `tokenizers.Tokenizer` that knows the turn tokens."""
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token="<|end|>",
        pad_token="<|pad|>",
        chat_template=TURNS,
        clean_up_tokenization_spaces=False,
    )
