"""Says before a stage's first step how much memory it plans to need, and warns where the machine has less."""

from typing import Any

import torch
from torch import nn

from tutelage.log import say
from tutelage.model.causal import CausalModel
from tutelage.model.reward_model import EncoderModel
from tutelage.rounds.machine_checks import available_memory_gb
from tutelage.rounds.memory_plan import GB, PROGRAM, Need, Plan, Shape, plan
from tutelage.rounds.peak_memory import resident
from tutelage.train.learner import ComputeConfig, Learner


def announce(need: Need, device: torch.device) -> None:
    """Refuses nothing: a plan may err."""
    found = plan(need)
    say(f"  {found.line()}")
    warning = shortage(found, free_memory(device))
    if warning:
        say(f"  ! {warning}")


def shortage(found: Plan, free: int) -> str:
    """What to do where less is free than planned; empty where it suffices."""
    if found.total <= free:
        return ""
    return (
        f"only {free / GB:.1f} GB are free here, so the run may be ended by the system. Lower microbatch_tokens or "
        f"engine.slots, train an adapter (lora.rank), take a smaller model, or end other programs."
    )


def free_memory(device: torch.device) -> int:
    """Bytes that a stage can have: what is free, and what this process holds already."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0]) + torch.cuda.memory_reserved(device)
    return int(available_memory_gb() * GB) + resident()


def need_of_learner(
    learner: Learner, backbone: CausalModel | EncoderModel, compute: ComputeConfig, *, n_tokens: int,
    share_chosen: float = 0.0, copies: int = 0,
) -> Need:  # fmt: skip
    """What one learner needs.

    n_tokens      of everything that it reads: a microbatch cannot have more
    share_chosen  of the tokens, those whose log-probability is asked
    copies        that are kept of what it learns
    """
    tokens = min(compute.microbatch_tokens, n_tokens)
    is_half = compute.precision == "bf16"
    return Need(
        shape=shape_of(backbone.hf.config),
        parameters=(n_parameters(learner.module),),
        trained=(n_trained(learner),),
        adapted=n_adapted(learner.module),
        copies=copies + bool(learner.ema),
        half=is_half,
        recomputed=compute.gradient_checkpointing,
        fused=is_half and isinstance(backbone, CausalModel) and backbone.is_fusable,
        tokens=tokens,
        chosen=round(share_chosen * tokens),
        program=0 if next(learner.module.parameters()).is_cuda else PROGRAM,
    )


def shape_of(config: Any) -> Shape:
    """Of a `transformers` configuration, whose families name some sizes and leave others to be worked out."""
    width, heads = int(config.hidden_size), int(config.num_attention_heads)
    inner, groups, head_width = (
        getattr(config, name, None) for name in ("intermediate_size", "num_key_value_heads", "head_dim")
    )
    return Shape(
        layers=int(config.num_hidden_layers),
        width=width,
        inner=int(inner or 4 * width),
        heads=heads,
        groups=int(groups or heads),
        head_width=int(head_width or width // heads),
        vocabulary=int(config.vocab_size),
    )


def n_parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def n_adapted(module: nn.Module) -> int:
    """Parameters under adapters, by the name that peft gives the layers below its own."""
    return sum(p.numel() for name, p in module.named_parameters() if ".base_layer." in name)


def n_trained(learner: Learner) -> int:
    return sum(p.numel() for p in learner.named.values())
