"""Drawing one token a row, from numbers that depend on (seed, position) alone. S rows, V vocabulary."""

import numpy as np
import torch
from torch import Tensor

from tutelage.engine.request import SamplingConfig


def uniform(
    seed_S: "np.ndarray[tuple[int], np.dtype[np.uint64]]", position_S: "np.ndarray[tuple[int], np.dtype[np.uint64]]"
) -> Tensor:
    """One number in [0, 1) a row, float64: SplitMix64 (Steele et al. 2014) of seed and position."""
    z = seed_S + (position_S + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)  # arrays wrap around without a warning
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z = z ^ (z >> np.uint64(31))
    return torch.from_numpy((z >> np.uint64(11)).astype(np.float64) * 2.0**-53)


def draw(logits_SV: Tensor, uniform_S: Tensor, cfg: SamplingConfig) -> tuple[Tensor, Tensor]:
    """Token ids [S] and their log-probabilities [S] (nats) under the distribution that was drawn from.

    Inverse of the cumulative distribution, in float64, over the vocabulary in its own order.
    """
    if cfg.temperature == 0:
        token_S = logits_SV.argmax(dim=-1)
        return token_S, torch.zeros(len(token_S), device=token_S.device)
    logp_SV = torch.log_softmax(logits_SV.float() / cfg.temperature, dim=-1)
    if not cfg.is_policy_itself:
        logp_SV = torch.log_softmax(_keep(logp_SV, cfg), dim=-1)
    cumulative_SV = logp_SV.double().exp().cumsum(dim=-1)
    target_S1 = uniform_S.to(logits_SV.device)[:, None] * cumulative_SV[:, -1:]
    token_S = torch.searchsorted(cumulative_SV, target_S1, right=True).squeeze(1).clamp(max=logits_SV.shape[-1] - 1)
    return token_S, logp_SV.gather(1, token_S[:, None]).squeeze(1)


def _keep(logp_SV: Tensor, cfg: SamplingConfig) -> Tensor:
    """-inf for the tokens that top_k and top_p leave out; the likeliest token always stays."""
    sorted_SV, order_SV = logp_SV.sort(dim=-1, descending=True)
    before_SV = sorted_SV.exp().cumsum(dim=-1) - sorted_SV.exp()
    out_SV = before_SV >= cfg.top_p
    if cfg.top_k:
        out_SV[:, cfg.top_k :] = True
    out_SV[:, 0] = False
    return logp_SV.masked_fill(torch.zeros_like(out_SV).scatter(1, order_SV, out_SV), -torch.inf)
