"""Training a byte-level BPE tokenizer of our own, with one token for each kind of turn."""

from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerBase

from tutelage.errors import ConfigError
from tutelage.model.chat import turns_tokenizer

SPECIAL = ["<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]
# Words with their leading space, single digits, runs of marks, white space: numbers stay readable to a small model.
_PIECES = r" ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+"


def train_bpe(texts: Iterable[str], vocabulary: int) -> PreTrainedTokenizerBase:
    """A byte-level BPE of `vocabulary` tokens: any text can be written, and decoding gives it back exactly."""
    if vocabulary < 256 + len(SPECIAL):
        raise ConfigError(
            f"vocabulary = {vocabulary}, but 256 bytes and {len(SPECIAL)} turn tokens come first. Set it to 512 or "
            f"more."
        )
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    return turns_tokenizer(bpe)
