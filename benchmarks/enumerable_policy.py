"""Do PPO and RLOO find the policy that theory says they must, where every answer can be counted?

E[reward] - beta x KL(policy || reference) has one optimum: reference x exp(reward / beta) / Z. Loops, learners, losses
and KL price are those of `tutelage.train`; toys are the networks (a logit for each state and token, a value for each
state), the sampler and the reward. Run it for one line of JSON with both distances to the optimum.

B rollouts, T tokens (an opening token and the answer), S states (what has been written), V vocabulary, Y answers.
"""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from tutelage.data.batch import Rollouts, TokenBatch
from tutelage.seed import derive
from tutelage.train import ppo, rloo
from tutelage.train.experience import UnfinishedConfig
from tutelage.train.kl_control import KLConfig
from tutelage.train.learner import ComputeConfig, Learner
from tutelage.train.machines import LearnerPolicy, SeparateActorCritic
from tutelage.train.monitor import Monitor, MonitorConfig
from tutelage.train.optim import OptimConfig
from tutelage.types import Message, Prompt

PROMPT = Prompt(messages=(Message(role="user", content="Go."),))
WHOLE = ComputeConfig(microbatch_tokens=10**9)


def states_of(token_BT: Tensor, vocabulary: int) -> Tensor:
    """State [B, T] before each token; the opening token is no choice. After token v, state s becomes s x V + v + 1."""
    state_BT = torch.zeros_like(token_BT)
    for t in range(2, token_BT.shape[1]):
        state_BT[:, t] = state_BT[:, t - 1] * vocabulary + token_BT[:, t - 1] + 1
    return state_BT


class Table(nn.Module):
    """A policy of one logit for each state and token."""

    def __init__(self, logits_SV: Tensor) -> None:
        super().__init__()
        self.logits_SV = nn.Parameter(logits_SV.clone())

    def channels(self, batch: TokenBatch) -> Tensor:
        """Log-probability and entropy [B, T, 2] of the masked tokens, as `policy_learner` gives them."""
        logp_SV = self.logits_SV.log_softmax(dim=-1)
        logp_BTV = logp_SV[states_of(batch.token_BT, logp_SV.shape[1])]
        logp_BT = logp_BTV.gather(-1, batch.token_BT[..., None]).squeeze(-1)
        entropy_BT = -(logp_BTV.exp() * logp_BTV).sum(dim=-1)
        return torch.stack([torch.where(batch.mask_BT, x, 0.0) for x in (logp_BT, entropy_BT)], dim=-1)

    @torch.no_grad()
    def logp(self, batch: TokenBatch, parts: Sequence[Tensor] | None = None) -> Tensor:
        """As a `Reference`."""
        return self.channels(batch)[..., 0].float()


class ValueTable(nn.Module):
    """A critic of one value for each state."""

    def __init__(self, n_states: int, vocabulary: int) -> None:
        super().__init__()
        self.vocabulary = vocabulary
        self.value_S = nn.Parameter(torch.zeros(n_states))

    def channels(self, batch: TokenBatch) -> Tensor:
        value_BT = self.value_S[states_of(batch.token_BT, self.vocabulary)]
        return torch.where(batch.mask_BT, value_BT, 0.0)[..., None]


@dataclass(frozen=True)
class Problem:
    """A reference policy and a reward for each answer, answers counted in the order of their digits."""

    logits_SV: Tensor
    reward_Y: Tensor
    length: int
    beta: float

    @property
    def vocabulary(self) -> int:
        return self.logits_SV.shape[1]

    @property
    def answers(self) -> TokenBatch:
        """Every answer once."""
        rest, digits = torch.arange(self.vocabulary**self.length), []
        for _ in range(self.length):
            digits.append(rest % self.vocabulary)
            rest = rest // self.vocabulary
        token_YT = torch.stack([torch.zeros_like(rest), *reversed(digits)], dim=1)
        mask_YT = torch.ones_like(token_YT, dtype=torch.bool)
        mask_YT[:, 0] = False
        return TokenBatch(token_YT, torch.full((len(token_YT),), self.length + 1), mask_YT)

    def logp_Y(self, policy: Table) -> Tensor:
        return policy.channels(self.answers)[..., 0].sum(dim=1)

    @property
    @torch.no_grad()
    def optimum_Y(self) -> Tensor:
        return (self.logp_Y(Table(self.logits_SV)) + self.reward_Y / self.beta).softmax(dim=0)

    @torch.no_grad()
    def total_variation(self, policy: Table) -> float:
        """Half the sum of absolute differences between the policy and the optimum: 0 equal, 1 disjoint."""
        return float((self.logp_Y(policy).exp() - self.optimum_Y).abs().sum() / 2)

    def gradient(self, policy: Table) -> Tensor:
        """Of E[reward] - beta x KL with respect to the policy's logits [S, V]."""
        logp_Y, reference_Y = self.logp_Y(policy), self.logp_Y(Table(self.logits_SV)).detach()
        objective = (logp_Y.exp() * (self.reward_Y - self.beta * (logp_Y - reference_Y))).sum()
        return torch.autograd.grad(objective, policy.logits_SV)[0]

    def score(self, prompts: Sequence[Prompt], texts: Sequence[str]) -> Tensor:
        """As a `Score`: the reward of each text."""
        return self.reward_Y[[int(t.replace(" ", ""), self.vocabulary) for t in texts]]


def random_problem(vocabulary: int, length: int, *, beta: float, spread: float = 0.7, seed: int = 0) -> Problem:
    """Reference logits N(0, 0.5), rewards N(0, spread)."""
    g = torch.Generator().manual_seed(seed)
    n_states = sum(vocabulary**k for k in range(length))
    logits_SV = torch.randn(n_states, vocabulary, generator=g) * 0.5
    return Problem(logits_SV, torch.randn(vocabulary**length, generator=g) * spread, length, beta)


class TableSampler:
    """Draws answers from the table's own distribution. Nothing is stale: it reads the learner's weights."""

    def __init__(self, problem: Problem, policy: Table, *, seed: int = 0) -> None:
        self.policy, self.seed, self.version = policy, seed, 0
        self._problem, self._answers = problem, problem.answers
        self._texts = [" ".join(map(str, row)) for row in self._answers.token_BT[:, 1:].tolist()]

    def load(self, version: int) -> None:
        self.version = version

    @torch.no_grad()
    def sample(self, prompts: Sequence[Prompt], *, n: int, step: int) -> Rollouts:
        g = torch.Generator().manual_seed(derive(self.seed, "rollout", step))
        p_Y = self._problem.logp_Y(self.policy).exp()
        drawn_B = torch.multinomial(p_Y, len(prompts) * n, replacement=True, generator=g)
        batch = self._answers.rows(drawn_B)
        return Rollouts(
            batch,
            self.policy.logp(batch),
            torch.ones(len(drawn_B), dtype=torch.bool),
            tuple(p for p in prompts for _ in range(n)),
            tuple(self._texts[i] for i in drawn_B.tolist()),
            n,
            self.version,
        )


@dataclass
class Bench:
    """The machines of one run on a problem, and what the run said."""

    problem: Problem
    updates: int
    lr: float = 0.05
    value_lr: float = 0.1
    grad_clip: float = 1.0
    seed: int = 0
    monitor: MonitorConfig = field(default_factory=MonitorConfig)
    start_SV: Tensor | None = None  # logits to start from; None: the reference's

    def __post_init__(self) -> None:
        p = self.problem
        self.policy = Table(p.logits_SV if self.start_SV is None else self.start_SV)
        self.critic = ValueTable(len(p.logits_SV), p.vocabulary)
        self.sampler = TableSampler(p, self.policy, seed=self.seed)
        self.watch = Monitor(self.monitor, report=lambda alarm: None)
        self.rows: list[dict[str, float]] = []

    def learner(self, module: nn.Module, channels: Callable[[TokenBatch], Tensor], lr: float, steps: int) -> Learner:
        # Annealed to 0, so that the last policy is the limit and no average over policies is needed.
        optim = OptimConfig(lr=lr, schedule="linear", warmup_steps=0, final_lr=0.0, grad_clip=self.grad_clip)
        return Learner(module, channels, optim=optim, compute=WHOLE, total_steps=steps)

    def arguments(self, prompts: int) -> dict[str, object]:
        """What both loops are handed."""
        return {
            "kl": KLConfig(mode="fixed", coef=self.problem.beta),
            "unfinished": UnfinishedConfig(),
            "prompts": lambda step: [PROMPT] * prompts,
            "sampler": self.sampler,
            "reference": Table(self.problem.logits_SV),
            "score": self.problem.score,
            "evaluate": lambda step: ({"eval_kl": 0.0}, 0.0),
            "monitor": self.watch,
            "log": lambda step, metrics: self.rows.append(metrics),
            "save": lambda state: None,
            "keep_best": lambda step: None,
            "state": ppo.RLState(),
            "seed": self.seed,
        }

    def run_ppo(self, cfg: ppo.PPOConfig, **replaced: object) -> ppo.RLState:
        steps = self.updates * cfg.epochs * cfg.minibatches
        policy = self.learner(self.policy, self.policy.channels, self.lr, steps)
        critic = self.learner(self.critic, self.critic.channels, self.value_lr, steps)
        own = {"actor_critic": SeparateActorCritic(policy, critic), "language": lambda step, i: ()}
        return ppo.run(cfg, **self.arguments(cfg.prompts_per_update) | own | replaced)  # type: ignore[arg-type]

    def run_rloo(self, cfg: rloo.RLOOConfig, **replaced: object) -> ppo.RLState:
        policy = self.learner(self.policy, self.policy.channels, self.lr, self.updates * cfg.epochs * cfg.minibatches)
        own = {"policy": LearnerPolicy(policy)}
        return rloo.run(cfg, **self.arguments(cfg.prompts_per_update) | own | replaced)  # type: ignore[arg-type]


def ppo_distance(problem: Problem, *, updates: int = 150, seed: int = 0) -> float:
    """Total variation between what PPO ends with and the optimum."""
    bench = Bench(problem, updates, seed=seed)
    bench.run_ppo(ppo.PPOConfig(updates=updates, prompts_per_update=256, samples_per_prompt=4))
    return problem.total_variation(bench.policy)


def rloo_distance(problem: Problem, *, updates: int = 150, seed: int = 0) -> float:
    """Total variation between what RLOO ends with and the optimum."""
    bench = Bench(problem, updates, seed=seed)
    bench.run_rloo(rloo.RLOOConfig(updates=updates, prompts_per_update=256, samples_per_prompt=4))
    return problem.total_variation(bench.policy)


def main() -> None:
    start = time.perf_counter()
    rows = []
    for vocabulary, length in ((3, 2), (4, 2), (3, 3), (5, 3)):
        problem = random_problem(vocabulary, length, beta=0.5, seed=vocabulary * length)
        rows.append(
            {
                "vocabulary": vocabulary,
                "length": length,
                "answers": vocabulary**length,
                "at_first": problem.total_variation(Table(problem.logits_SV)),
                "ppo": ppo_distance(problem),
                "rloo": rloo_distance(problem),
            }
        )
    worst = {name: max(row[name] for row in rows) for name in ("at_first", "ppo", "rloo")}
    print(json.dumps({"total_variation": worst, "by_size": rows, "seconds": round(time.perf_counter() - start, 1)}))


if __name__ == "__main__":
    main()
