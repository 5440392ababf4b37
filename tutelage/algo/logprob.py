"""Log-probability of a token and entropy of a distribution, from logits. Knows nothing of models or positions.

N tokens (any leading shape), V vocabulary. Results are float32 (float64 for float64 logits), in nats. The sampler and
the learner both divide logits by `temperature`, so a ratio of their log-probabilities is 1 before the first update.
"""

import torch
from torch import Tensor


def _log_softmax(logits_NV: Tensor, temperature: float) -> Tensor:
    assert temperature > 0, f"temperature = {temperature}: logits are divided by it, so it must be above 0"
    # Widened before the division: in bfloat16 a logit of 20 keeps two decimals, and the error enters every ratio.
    wide = logits_NV if logits_NV.dtype == torch.float64 else logits_NV.float()
    return (wide / temperature).log_softmax(dim=-1)


def token_logp(logits_NV: Tensor, token_N: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Log-probability [N] of `token_N` (int64) under softmax(logits / temperature).

    Padding must hold a valid token id: it is looked up, and masked by whoever uses the result.
    """
    return _log_softmax(logits_NV, temperature).gather(-1, token_N.unsqueeze(-1)).squeeze(-1)


def entropy(logits_NV: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Entropy [N] of softmax(logits / temperature); a logit of -inf (a forbidden token) adds 0."""
    logp_NV = _log_softmax(logits_NV, temperature)
    p_NV = logp_NV.exp()
    return -(p_NV * torch.where(p_NV > 0, logp_NV, 0.0)).sum(dim=-1)
