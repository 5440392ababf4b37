"""Is a model fit to be trained: does it load, speak, stop, and come back from the disk as it was. Knows no recipe."""

import math
import shutil
import tempfile
from pathlib import Path

import torch

from tutelage.data.batch import collate
from tutelage.data.sft import sft_rows
from tutelage.engine.engine import EngineConfig
from tutelage.engine.request import SamplingConfig
from tutelage.model.attention import Packed
from tutelage.model.causal import CausalModel
from tutelage.model.chat import Chat
from tutelage.model.checkpoint import save_causal, weights_sha
from tutelage.model.load import load_causal, locate
from tutelage.publish import is_published, verify
from tutelage.rounds.files import prompt_of
from tutelage.rounds.findings import Check, attempt
from tutelage.rounds.machines import complete
from tutelage.types import Completion, Demonstration, Message

N_TOKENS = 16
ASK, ANSWER = "Is the pool open today?", "Yes, until eight."


def model_checks(source: str) -> tuple[list[Check], Chat | None]:
    """Everything about a model, and its chat renderer when it could be opened."""
    opened: list[tuple[CausalModel, Chat]] = []

    def load() -> list[Check]:
        integrity = manifest(source)
        opened.append(load_causal(source))
        model, chat = opened[0]
        n = sum(p.numel() for p in model.parameters()) / 1e6
        return [Check("model", "ok", f"{source}: {n:.1f} million parameters, a window of {chat.window}"), integrity]

    checks = attempt("model", load)
    if not opened:
        return checks, None
    model, chat = opened[0]
    checks += attempt("template", lambda: [end_token(chat), masks(chat)])
    checks += attempt("sample", lambda: sampling(model, chat))
    checks += attempt("save and reload", lambda: [reload(model, chat)])
    return checks, chat


def manifest(source: str) -> Check:
    """Whether the files are those that were published."""
    folder = Path(locate(source))
    if not is_published(folder):
        return Check("manifest", "ok", "none, so its files cannot be checked: tutelage did not write this model")
    return Check("manifest", "ok", f"{len(verify(folder))} files are as they were published")


def end_token(chat: Chat) -> Check:
    """Whether an answer in a history ends with the token that training teaches to end with."""
    name = repr(chat.tokenizer.convert_ids_to_tokens(chat.end_id))
    turns = [Message(role="user", content=ASK), Message(role="assistant", content=ANSWER)]
    if chat.end_id not in chat.prompt_ids([*turns, *turns[:1]]):
        todo = "mend 'chat_template', so that it closes the assistant's turn with eos_token"
        what = f"the template does not close a turn with the end token {name}, which answers are taught to end with"
        return Check("end token", "warn", what, todo)
    return Check("end token", "ok", f"{name} (id {chat.end_id}) closes each turn")


def masks(chat: Chat) -> Check:
    """Which tokens of one conversation would be learned."""
    rows = sft_rows([Demonstration(prompt=prompt_of(ASK), text=ANSWER)], chat)
    ids, mask = rows.rows[0]
    learned = chat.tokenizer.decode([i for i, is_learned in zip(ids, mask, strict=True) if is_learned])
    if ANSWER not in str(learned):
        what = f"of the answer {ANSWER!r} only {learned!r} comes back from its tokens"
        return Check("template", "bad", what, "restore the tokenizer from where the model came from")
    return Check("template", "ok", f"{sum(mask)} of {len(mask)} tokens ({rows.supervised_share:.0%}) are learned")


def sampling(model: CausalModel, chat: Chat) -> list[Check]:
    """Two samples with one seed: finite, and the same."""
    first, again = _sample(model, chat), _sample(model, chat)
    if not all(math.isfinite(x) for x in first.logp or ()):
        return [Check("sample", "bad", "its log-probabilities are not finite numbers", "restore the model's folder")]
    checks = [Check("sample", "ok", f"{len(first.token_ids or ())} tokens: {first.text!r}")]
    if first.token_ids != again.token_ids:
        todo = "set run.threads = 1 and try again; without it no run can be repeated"
        return [*checks, Check("same seed", "bad", "two samples with one seed differ", todo)]
    return [*checks, Check("same seed", "ok", "twice the same seed gives the same sample")]


def _sample(model: CausalModel, chat: Chat) -> Completion:
    [found] = complete(
        model,
        chat,
        [prompt_of(ASK)],
        n=1,
        sampling=SamplingConfig(max_new_tokens=N_TOKENS),
        engine=EngineConfig(slots=1),
        model_version="",
        seed=0,
    )
    return found


@torch.no_grad()
def reload(model: CausalModel, chat: Chat) -> Check:
    """Whether a saved model computes the same logits, to the last bit."""
    n_bytes = 4 * sum(p.numel() for p in model.parameters())
    free = shutil.disk_usage(tempfile.gettempdir()).free
    if n_bytes > free / 2:
        what = f"not tried: it takes {n_bytes / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free for temporary files"
        return Check("save and reload", "warn", what, "free some, or set TMPDIR to another disk")
    with tempfile.TemporaryDirectory() as folder:
        saved = Path(folder) / "model"
        save_causal(saved, model, chat, {"stage": "base", "weights": weights_sha(model.hf.state_dict())})
        gap = float((_logits(model, chat) - _logits(*load_causal(str(saved)))).abs().max())
    if gap != 0:
        return Check("save and reload", "bad", f"logits differ by {gap:.3g}", "report this: the model cannot be kept")
    return Check("save and reload", "ok", "logits are the same")


def _logits(model: CausalModel, chat: Chat) -> torch.Tensor:
    batch = collate([(chat.prompt_ids(prompt_of(ASK)), [])])
    packed = Packed(batch.length_B.tolist(), device=model.device)
    keep_N = torch.arange(int(batch.length_B.sum()), device=model.device)
    return model.logits(packed.pack(batch.token_BT.to(model.device)), packed.position_N, keep_N, packed)
