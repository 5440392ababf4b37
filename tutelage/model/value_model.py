"""The critic: a value for every token that the policy writes, of what the policy knew before it wrote it.

Either a network of its own (`ValueModel`) or a head on the policy's trunk (`PolicyWithValue`).

B rows, T tokens, N packed tokens, M masked tokens, D width.
"""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from tutelage.model.attention import Packed
from tutelage.model.causal import CausalModel
from tutelage.model.reward_model import RewardModel


class ValueModel(nn.Module):
    """A causal backbone and a scalar head."""

    def __init__(self, backbone: CausalModel) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(backbone.width, 1, device=backbone.device)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def _read(self, hidden_ND: Tensor) -> Tensor:
        """Value [N] of each state, in float32 whatever the pass: what it differs by from token to token is small."""
        with torch.autocast(hidden_ND.device.type, enabled=False):
            value_N1: Tensor = self.head(hidden_ND.float())
        return value_N1.squeeze(-1)

    @classmethod
    def from_reward(cls, reward: RewardModel) -> "ValueModel":
        """Starts as the reward model: an answer's value at its last token is its score (Ouyang et al. 2022, 3.5).

        Where the score is not read at that token with fixed weights, the backbone alone is taken over.
        """
        assert isinstance(reward.backbone, CausalModel), (
            "a critic reads token by token, so it starts from a causal reward model"
        )
        model = cls(reward.backbone)
        if reward.read == "answer" or reward.gate is not None:
            return model
        gain, shift, weight_A = (reward.get_buffer(n) for n in ("gain", "shift", "weight_A"))
        with torch.no_grad():
            model.head.weight.copy_((gain * weight_A) @ reward.head.weight)
            model.head.bias.copy_(gain * (weight_A * reward.head.bias).sum() + shift)
        return model

    def at_tokens(self, token_BT: Tensor, length_B: Tensor) -> Tensor:
        """What the head reads at every token [B, T], that token included; 0 beyond the length."""
        packed = Packed.of(token_BT, length_B)
        hidden_ND = self.backbone.hidden(packed.pack(token_BT[:, : packed.longest]), packed.position_N, packed)
        return _widen(packed.unpack(self._read(hidden_ND)), token_BT.shape[1])

    def before_tokens(self, token_BT: Tensor, length_B: Tensor, mask_BT: Tensor) -> Tensor:
        """Value [B, T] of the state in which each masked token was chosen: read one token earlier; 0 off the mask."""
        hidden_MD = self.backbone.hidden_before(token_BT, length_B, mask_BT)
        return torch.zeros_like(mask_BT, dtype=torch.float32).masked_scatter(mask_BT, self._read(hidden_MD))


class PolicyWithValue(nn.Module):
    """A language model and a value head on the same trunk: one pass gives both, and one update trains both."""

    def __init__(self, model: CausalModel) -> None:
        super().__init__()
        self.model = model
        self.head = nn.Linear(model.width, 1, device=model.device)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.is_held = False  # while True, the head alone is trained, and there are no log-probabilities

    @contextlib.contextmanager
    def hold_trunk(self) -> Iterator[None]:
        """Inside, no gradient reaches the language model, not even one of zero, so that no optimiser moves it."""
        self.is_held = True
        try:
            yield
        finally:
            self.is_held = False

    def channels(self, token_BT: Tensor, length_B: Tensor, mask_BT: Tensor, *, temperature: float) -> Tensor:
        """Log-probability, entropy and the value before each masked token [B, T, 3]; 0 off the mask."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.is_held):
            logp_BT, entropy_BT, hidden_MD = self.model.logp_and_hidden(
                token_BT, length_B, mask_BT, temperature=temperature
            )
        with torch.autocast(token_BT.device.type, enabled=False):
            value_M = self.head(hidden_MD.float()).squeeze(-1)
        value_BT = torch.zeros_like(logp_BT).masked_scatter(mask_BT, value_M)
        return torch.stack([logp_BT, entropy_BT, value_BT], dim=-1)


def _widen(x_BT: Tensor, width: int) -> Tensor:
    return torch.nn.functional.pad(x_BT, (0, width - x_BT.shape[1]))
