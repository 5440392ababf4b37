"""Shapes of the models that are measured, and what a step on them costs at least: multiplications and weight bytes.

Only products with weight matrices are counted (attention and everything elementwise are left out), each
multiply-add as two operations, so a share of the limit is never flattered. Knows no torch.
"""

from dataclasses import dataclass

MOST_ROWS = 64  # that a thread decodes together, as in native/decode.cpp


@dataclass(frozen=True, slots=True)
class Shape:
    """A Llama with a tied output layer. Example: `Shape(320, 6, 5, 5, 896, 8192)` has 10.2 million weights."""

    width: int
    layers: int
    heads: int
    groups: int  # key heads
    inner: int
    vocabulary: int

    @property
    def head_width(self) -> int:
        return self.width // self.heads

    @property
    def trunk(self) -> int:
        """Weights of all layers."""
        attention = self.width * self.head_width * (2 * self.heads + 2 * self.groups)
        return self.layers * (attention + 3 * self.width * self.inner)

    @property
    def head(self) -> int:
        """Weights of the output layer, which is also the embedding."""
        return self.width * self.vocabulary

    @property
    def weights(self) -> int:
        return self.trunk + self.head

    def decode_bytes(self) -> int:
        """bf16 weights that one decoded token reads."""
        return 2 * self.weights

    def step_bytes(self, batch: int, threads: int, positions: float) -> int:
        """What a decoding step reads: all weights for each part of the rows, and what every slot holds, in bf16."""
        rows = min(-(-batch // threads), MOST_ROWS)
        held = 2 * 2 * self.layers * self.groups * self.head_width * positions
        return round(-(-batch // rows) * self.decode_bytes() + batch * held)

    def forward(self, tokens: float, predicted: float = 0) -> float:
        """Operations of a pass over `tokens`, of which `predicted` need logits."""
        return 2 * self.trunk * tokens + 2 * self.head * predicted

    def train(self, tokens: float, predicted: float = 0) -> float:
        """Forward and backward."""
        return 3 * self.forward(tokens, predicted)

    def rollout(self, prompts: float, prompt: float, samples: float, response: float) -> float:
        """Prompts computed once, then every token of every sample."""
        return self.forward(prompts * prompt, samples) + self.forward(samples * response, samples * response)

    def ppo(self, batch: int, prompt: float, response: float, *, epochs: int = 1) -> float:
        """Rollout, reference, reward and value passes, then policy and critic trained; four models of this shape."""
        tokens, written = batch * (prompt + response), batch * response
        scoring = self.forward(tokens, written) + 2 * self.forward(tokens)
        return (
            self.rollout(batch, prompt, batch, response)
            + scoring
            + epochs * (self.train(tokens, written) + self.train(tokens))
        )

    def rloo(self, prompts: int, samples: int, prompt: float, response: float) -> float:
        """Rollout, reference, reward pass and policy trained; a prompt computed once for its samples."""
        written = prompts * samples * response
        tokens = prompts * prompt + written
        return (
            self.rollout(prompts, prompt, prompts * samples, response)
            + self.forward(tokens, written)
            + self.forward(tokens)
            + self.train(tokens, written)
        )


SHAPES = {
    "1M": Shape(128, 4, 4, 4, 384, 2048),
    "10M": Shape(320, 6, 5, 5, 896, 8192),
    "60M": Shape(512, 13, 8, 8, 1408, 32768),
    "135M": Shape(576, 30, 9, 3, 1536, 49152),
    "0.5B": Shape(1024, 24, 16, 16, 2816, 151936),
    "1.5B": Shape(1536, 28, 12, 2, 8960, 151936),
}
