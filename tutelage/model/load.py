"""Opening a causal model from a folder, a hub name or the bundled default.

Safetensors only; remote code is never run.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from tutelage.errors import ModelError
from tutelage.model.attention import NAME, Packed
from tutelage.model.causal import CausalModel
from tutelage.model.chat import Chat
from tutelage.model.device import AUTO, find_device
from tutelage.model.quiet import quieten

BUNDLED = Path(__file__).parents[1] / "assets" / "base"

# Kinds whose packed forward is held equal to the plain one by our tests; every other kind is checked when it is loaded.
VERIFIED = {"llama", "mistral", "qwen2", "qwen3", "gpt2", "gpt_neox"}
DROPOUTS = (
    "attention_dropout", "hidden_dropout", "resid_pdrop", "embd_pdrop", "attn_pdrop", "dropout", "hidden_dropout_prob",
    "attention_probs_dropout_prob", "classifier_dropout",
)  # fmt: skip


def locate(source: str) -> str:
    """`bundled` -> the folder of the embedded default; anything else as it is. Refuses what would run foreign code."""
    if source == "bundled":
        source = str(BUNDLED)
    folder = Path(source)
    looks_local = folder.is_absolute() or source.startswith(".") or source.count("/") > 1
    if not folder.is_dir():
        if looks_local:
            raise ModelError(f"{source}: no such model folder. Give a Hugging Face folder, a hub name, or 'bundled'.")
        return source
    config = folder / "config.json"
    if not config.is_file():
        raise ModelError(
            f"{source}: there is no config.json, so this is not a model folder. Give a Hugging Face folder."
        )
    try:
        settings = json.loads(config.read_text(encoding="utf-8"))
    except ValueError as e:
        raise ModelError(f"{config}: not valid JSON ({e}). Restore the file from where the model came from.") from e
    if "auto_map" in settings:
        raise ModelError(
            f"{config}: 'auto_map' asks to run code that came with the model, which tutelage never does. "
            f"Use a model whose architecture is part of transformers."
        )
    if not list(folder.glob("*.safetensors")):
        raise ModelError(
            f"{source}: no .safetensors file. Pickled weights (.bin, .pt) can run code and are not read; convert them "
            f"once with the tool of the model's publisher."
        )
    return source


def load_tokenizer(source: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a model. Raises ModelError when it has no end token."""
    where = locate(source)
    quieten()
    try:
        tokenizer = AutoTokenizer.from_pretrained(where, trust_remote_code=False)
    except (OSError, ValueError) as e:
        raise ModelError(
            f"{source}: the tokenizer could not be read ({_first_line(e)}). Put tokenizer.json into the folder."
        ) from e
    if tokenizer.eos_token_id is None:
        raise ModelError(
            f"{source}: the tokenizer has no end token (eos_token), so a model could never learn to stop. "
            f"Set 'eos_token' in tokenizer_config.json to the token that ends an answer."
        )
    loaded: PreTrainedTokenizerBase = tokenizer
    return loaded


def load_causal(source: str, *, device: str = AUTO) -> tuple[CausalModel, Chat]:
    """A causal model in float32 with every dropout at 0, and its chat renderer.

    source  a folder, a hub name, or 'bundled'
    device  as in `model.device`
    Raises ModelError for a folder that is not a model, pickled weights, remote code, a tokenizer without end token, a
    template that swallows the answer, or an architecture whose packed forward differs from its own.
    """
    where = locate(source)
    tokenizer = load_tokenizer(source)
    hf = _open(source, where)
    if len(tokenizer) > hf.config.vocab_size:
        raise ModelError(
            f"{source}: the tokenizer knows {len(tokenizer)} tokens, but the model only {hf.config.vocab_size}. "
            f"The two do not belong together; take both from the same folder."
        )
    window = hf.config.to_dict().get("sliding_window")
    if window and hf.config.to_dict().get("use_sliding_window", True) and window < hf.config.max_position_embeddings:
        # Within the window, sliding and full attention are the same; beyond it, tutelage would compute another model.
        hf.config.max_position_embeddings = window
    model = CausalModel(hf).to(find_device(device))
    if hf.config.model_type not in VERIFIED:
        check_packing(model, source)
    return model, Chat(tokenizer, window=hf.config.max_position_embeddings, source=source)


def _open(source: str, where: str) -> PreTrainedModel:
    """The model in float32 on our attention, every dropout at 0 and every weight read from the folder."""
    quieten()
    try:
        config = AutoConfig.from_pretrained(where, trust_remote_code=False)
        for name in DROPOUTS:
            if name in config.to_dict():
                setattr(config, name, 0.0)
        # Annotated, since its stubs do not know what `output_loading_info` adds.
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            where,
            config=config,
            dtype=torch.float32,
            attn_implementation=NAME,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as e:  # whatever transformers meets there
        raise ModelError(
            f"{source}: the model could not be opened ({_first_line(e)}). Restore the folder, or use a model of the "
            f"kinds {', '.join(sorted(VERIFIED))}."
        ) from e
    hf: PreTrainedModel
    hf, report = loaded
    if report["missing_keys"]:
        raise ModelError(
            f"{source}: {len(report['missing_keys'])} weights are missing, {min(report['missing_keys'])!r} among them, "
            f"and would be random numbers. Restore the folder from where the model came from."
        )
    return hf


def new_llama(
    *, vocabulary: int, width: int, layers: int, heads: int, window: int, eos_id: int, seed: int
) -> CausalModel:
    """A fresh small Llama: tied embeddings, SwiGLU of 2.75 x width, rotary positions."""
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=width * 11 // 4,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=window,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=eos_id,
        pad_token_id=None,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        hf = LlamaForCausalLM(config)
    hf.set_attn_implementation(NAME)
    return CausalModel(hf)


@torch.no_grad()
def check_packing(model: CausalModel, source: str) -> None:
    """Runs two short rows packed and each alone in the model's own way; an architecture that differs is refused."""
    token_N = torch.tensor([5, 7, 11, 13, 17, 19, 23], device=model.device) % model.vocabulary
    keep_N = torch.arange(7, device=model.device)
    packed = Packed([4, 3], device=model.device)
    together = model.logits(token_N, packed.position_N, keep_N, packed)
    alone = []
    model.hf.set_attn_implementation("eager")
    for part in (token_N[:4], token_N[4:]):
        alone.append(model.hf(input_ids=part[None], use_cache=False).logits[0])
    model.hf.set_attn_implementation(NAME)
    worst = (together - torch.cat(alone)).abs().max().item()
    if not worst < 1e-3:
        raise ModelError(
            f"{source}: models of type {model.hf.config.model_type!r} compute something else under packed "
            f"attention (logits differ by {worst:.3g}). Use a model of the kinds {', '.join(sorted(VERIFIED))}."
        )


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
