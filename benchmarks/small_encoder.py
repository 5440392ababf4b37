"""A small encoder of the BERT kind, made from text, to try encoder reward models where none can be downloaded.

    python benchmarks/small_encoder.py --text FILE [FILE ...] --out FOLDER [--minutes 10]

FILE is JSON Lines (also .xz) with `text` or chat `messages`. Masked language modelling as in Devlin et al. 2018 (15 %
of the tokens, of these 80 % masked, 10 % replaced, 10 % kept), for as long as it is told. Prints one JSON line.
"""

import argparse
import itertools
import json
import random
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor
from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

from tutelage.formats.rows import read_rows
from tutelage.model.device import has_fast_bf16

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
PAD, _, CLS, SEP, MASK = range(5)
WINDOW, PIECE, BATCH, LR = 514, 128, 32, 1e-3


def texts(paths: Sequence[Path]) -> Iterator[str]:
    for path in paths:
        for _, row in read_rows(path):
            yield row["text"] if "text" in row else "\n".join(m["content"] for m in row["messages"])


def tokenizer_of(lines: Sequence[str], vocabulary: int) -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.train_from_iterator(lines, trainers.WordPieceTrainer(vocab_size=vocabulary, special_tokens=SPECIAL))
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", CLS), ("[SEP]", SEP)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, cls_token="[CLS]", sep_token="[SEP]", pad_token="[PAD]", unk_token="[UNK]",
        mask_token="[MASK]",
    )  # fmt: skip


def masked(token_BT: Tensor, vocabulary: int) -> tuple[Tensor, Tensor]:
    """What the model sees, and what it shall say; -100 where nothing is asked."""
    chosen_BT = (torch.rand(token_BT.shape) < 0.15) & (token_BT >= len(SPECIAL))
    draw_BT = torch.rand(token_BT.shape)
    other_BT = torch.randint(len(SPECIAL), vocabulary, token_BT.shape)
    seen_BT = torch.where(chosen_BT & (draw_BT < 0.8), MASK, token_BT)
    seen_BT = torch.where(chosen_BT & (draw_BT >= 0.9), other_BT, seen_BT)
    return seen_BT, torch.where(chosen_BT, token_BT, -100)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--text", type=Path, nargs="+", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--vocabulary", type=int, default=4096)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(1)
    lines = list(texts(args.text))
    random.Random(1).shuffle(lines)
    tokenizer = tokenizer_of(lines, args.vocabulary)
    ids = list(itertools.chain.from_iterable(tokenizer(lines, add_special_tokens=False)["input_ids"]))
    n = PIECE - 2
    pieces = torch.tensor(ids[: len(ids) // n * n]).view(-1, n)
    ends = torch.full((len(pieces), 1), SEP)
    token_PT = torch.cat([torch.full_like(ends, CLS), pieces, ends], dim=1)[torch.randperm(len(pieces))]
    model = BertForMaskedLM(
        BertConfig(
            vocab_size=args.vocabulary, hidden_size=256, intermediate_size=704, num_hidden_layers=4,
            num_attention_heads=4, max_position_embeddings=WINDOW, hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0, pad_token_id=PAD,
        )
    )  # fmt: skip
    optimiser = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=0.01)
    started, seen, loss, total = time.monotonic(), 0, float("nan"), args.minutes * 60
    while (gone := time.monotonic() - started) < total:
        for group in optimiser.param_groups:
            group["lr"] = LR * min(1.0, gone / 30, 2 * (1 - gone / total))
        start = seen % (len(token_PT) - BATCH)
        seen_BT, wanted_BT = masked(token_PT[start : start + BATCH], args.vocabulary)
        with torch.autocast("cpu", torch.bfloat16, enabled=has_fast_bf16(torch.device("cpu"))):
            out = model(input_ids=seen_BT, labels=wanted_BT)
        out.loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
        now = float(out.loss.detach())
        loss, seen = now if seen == 0 else 0.98 * loss + 0.02 * now, seen + BATCH
    model.bert.save_pretrained(args.out)
    tokenizer.save_pretrained(args.out)
    print(json.dumps({"benchmark": "small_encoder", "tokens": seen * PIECE, "of": len(ids), "masked_loss": loss}))


if __name__ == "__main__":
    main()
