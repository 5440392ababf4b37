"""Model folders and training states on disk: safetensors and JSON, published whole, no pickle.

A model folder is what `transformers` loads by itself, with heads and lineage beside it. A training state is what a
killed stage needs to go on: weights, optimiser moments and a position.
"""

import contextlib
import hashlib
import json
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from tutelage.errors import CorruptError, ModelError
from tutelage.model.causal import CausalModel
from tutelage.model.chat import Chat
from tutelage.model.quiet import quieten
from tutelage.publish import is_published, published, verify, write_json

LINEAGE = "lineage.json"


def weights_sha(weights: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, shapes, types and bytes of the tensors: the identity of a model version."""
    h = hashlib.sha256()
    for name in sorted(weights):
        tensor = weights[name].detach().cpu().contiguous()
        h.update(f"{name}|{tuple(tensor.shape)}|{tensor.dtype}|".encode())
        h.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return h.hexdigest()


@contextlib.contextmanager
def tensors_to_disk() -> Iterator[None]:
    """Inside `published`: makes safetensors' error, which tells the disk's number in words alone, an OSError again."""
    try:
        yield
    except SafetensorError as e:
        number = re.search(r"os error (\d+)", str(e))
        if number:
            raise OSError(int(number[1]), str(e)) from e
        raise


def write_causal(folder: Path, model: CausalModel, chat: Chat, *, dtype: torch.dtype = torch.float32) -> None:
    """Fills `folder` with config, weights and tokenizer as `transformers` reads them."""
    quieten()
    hf = model.hf
    attention, own_dtype = hf.config._attn_implementation, hf.config.dtype
    cast: dict[int, Tensor] = {}  # by address, so that tied weights stay one tensor and are written once
    state = {k: cast.setdefault(v.data_ptr(), v.to("cpu", dtype)) for k, v in hf.state_dict().items()}
    try:
        hf.config._attn_implementation = "sdpa"  # what a plain reader should use
        hf.save_pretrained(str(folder), state_dict=state)
        hf.config.dtype = dtype  # the line above writes that of the model in memory
        hf.config.save_pretrained(str(folder))
    finally:
        hf.config._attn_implementation, hf.config.dtype = attention, own_dtype
    chat.save(folder)


def save_causal(
    folder: Path, model: CausalModel, chat: Chat, lineage: Mapping[str, Any], *, dtype: torch.dtype = torch.float32
) -> None:
    """Publishes a model folder: weights, tokenizer, template and where the weights came from."""
    with published(folder) as aside, tensors_to_disk():
        write_causal(aside, model, chat, dtype=dtype)
        write_json(aside / LINEAGE, {**lineage, "template": chat.template_hash, "tokenizer": chat.tokenizer_hash})


def read_lineage(folder: Path) -> dict[str, Any]:
    """What `save_causal` was told; raises ModelError for a folder that tutelage did not write."""
    path = folder / LINEAGE
    if not path.is_file():
        raise ModelError(f"{folder}: there is no {LINEAGE}, so nothing says where these weights came from.")
    lineage: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return lineage


def save_state(
    folder: Path, step: int, tensors: Mapping[str, Tensor], facts: Mapping[str, Any], *, keep: int = 2
) -> None:
    """Publishes `folder/step-0000123` and then drops all but the `keep` newest.

    A state of that step that is already there is what a run left that went on from an older one: it is replaced.
    """
    target = folder / f"step-{step:07d}"
    if target.exists():
        shutil.rmtree(target)
    with published(target) as aside, tensors_to_disk():
        save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, aside / "tensors.safetensors")
        write_json(aside / "facts.json", {"step": step, **facts})
    for old in _steps(folder)[:-keep]:
        shutil.rmtree(old)


def latest_state(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """The newest state that matches its manifest, or None. There is no pointer file that could lie."""
    for candidate in reversed(_steps(folder)):
        if not is_published(candidate):
            continue
        try:
            verify(candidate)
        except CorruptError:
            continue
        facts = json.loads((candidate / "facts.json").read_text(encoding="utf-8"))
        return load_file(candidate / "tensors.safetensors"), facts
    return None


def _steps(folder: Path) -> list[Path]:
    return sorted(p for p in folder.glob("step-*") if p.is_dir() and p.suffix == "")
