"""The machines of a round's reinforcement learning: policy, critic, reference, sampler and scorers, as a recipe asks.

B rollouts.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from tutelage.engine.parking import n_parking
from tutelage.engine.room import READ
from tutelage.model.causal import CausalModel
from tutelage.model.chat import Chat
from tutelage.model.lora import Adapter
from tutelage.model.reward_model import RewardModel, load_reward
from tutelage.model.value_model import PolicyWithValue, ValueModel
from tutelage.native.slots import POSITIONS
from tutelage.reward.scorer import Scorer
from tutelage.rounds.machines import AdapterReference, EngineSampler, FrozenReference
from tutelage.rounds.memory_notice import n_parameters, n_trained, need_of_learner
from tutelage.rounds.memory_plan import Need
from tutelage.rounds.profile import Profile
from tutelage.rounds.recipe import Recipe
from tutelage.rounds.reward import RewardModels
from tutelage.rounds.run import Run
from tutelage.seed import derive
from tutelage.stopwatch import OFF, Watch
from tutelage.train.learner import Learner
from tutelage.train.machines import (
    SeparateActorCritic,
    SharedActorCritic,
    critic_learner,
    policy_learner,
    shared_learner,
)
from tutelage.types import Prompt

N_READ = 256  # prompts whose lengths stand for all


@dataclass(slots=True)
class Machines:
    """Everything that the loop is handed, and what a resume must restore."""

    model: CausalModel
    chat: Chat
    adapter: Adapter | None
    policy: Learner
    critic: Learner | None  # a network of its own
    trunk: PolicyWithValue | None  # or a head on the policy's
    reference: FrozenReference | AdapterReference
    sampler: EngineSampler
    score: "RangedScore"
    watcher: Scorer
    profile: Profile | None = None

    @property
    def watch(self) -> Watch:
        return self.profile.watch if self.profile else OFF

    def state(self) -> dict[str, Tensor]:
        critic = self.critic.state() if self.critic else {}
        return {f"policy/{k}": v for k, v in self.policy.state().items()} | {
            f"critic/{k}": v for k, v in critic.items()
        }

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        for name, learner in (("policy/", self.policy), ("critic/", self.critic)):
            if learner is not None:
                learner.load_state({k.removeprefix(name): v for k, v in tensors.items() if k.startswith(name)})

    def actor_critic(self) -> SharedActorCritic | SeparateActorCritic:
        if self.trunk is not None:
            return SharedActorCritic(self.policy, self.trunk)
        assert self.critic is not None, "PPO has a critic"
        return SeparateActorCritic(self.policy, self.critic)

    def weights(self) -> dict[str, Tensor]:
        """What is evaluated and published: the averaged copy where there is one."""
        return {n: t.detach().clone() for n, t in (self.policy.ema or self.policy.named).items()}


class RangedScore:
    """The optimised reward, and how many of its last scores lie above what the reward model was trained on."""

    def __init__(self, scorer: Scorer, top: float, watch: Watch) -> None:
        self._scorer, self._top, self._watch = scorer, top, watch
        self.out_of_range = 0.0

    @property
    def members(self) -> Sequence[RewardModel]:
        return self._scorer.members

    def __call__(self, prompts: Sequence[Prompt], texts: Sequence[str]) -> Tensor:
        with self._watch.phase("scoring"):
            score_B = self._scorer(prompts, texts)
        self.out_of_range = float((score_B > self._top).float().mean())
        return score_B


def build(run: Run, start: Path, rewards: RewardModels, seed: int) -> Machines:
    """Policy, critic, reference, sampler and scorers."""
    recipe = run.recipe
    temperature, compute = recipe.sampling.temperature, recipe.compute
    model, chat = run.open_causal(start)
    profile = Profile(model.device) if recipe.run.profile else None
    watch = profile.watch if profile else OFF
    adapter = Adapter(model, recipe.lora, seed=seed) if recipe.lora.rank else None
    reference = (
        AdapterReference(model, adapter, temperature=temperature, compute=compute, watch=watch)
        if adapter
        else FrozenReference(run.open_causal(start)[0], temperature=temperature, compute=compute, watch=watch)
    )
    policy, critic, trunk = _learners(recipe, model, lambda: _critic(run, rewards, start, chat), watch)
    top = max(float(load_reward(f, device="cpu")[1]["train_score_p999"]) for f in rewards.members)
    sampler = EngineSampler(
        model, chat, recipe.sampling, recipe.engine, seed=derive(seed, "sampler"), precision=compute.precision,
        watch=watch,
    )  # fmt: skip
    return Machines(
        model,
        chat,
        adapter,
        policy,
        critic,
        trunk,
        reference,
        sampler,
        RangedScore(rewards.scorer(run), top, watch),
        rewards.watcher(run),
        profile,
    )


def _learners(
    recipe: Recipe, model: CausalModel, new_critic: Callable[[], ValueModel], watch: Watch
) -> tuple[Learner, Learner | None, PolicyWithValue | None]:
    """The policy's learner and, for PPO, either the critic's or the trunk that both share."""
    is_ppo = recipe.run.algorithm == "ppo"
    cfg = recipe.ppo if is_ppo else recipe.rloo
    n_steps = cfg.updates * cfg.epochs * cfg.minibatches
    policy_settings: dict[str, Any] = {
        "temperature": recipe.sampling.temperature,
        "optim": recipe.policy_optim,
        "compute": recipe.compute,
        "total_steps": n_steps,
        "ema_decay": recipe.ema_decay,
        "watch": watch,
    }
    if not is_ppo:
        return policy_learner(model, **policy_settings), None, None
    if recipe.shared_critic:
        trunk = PolicyWithValue(model)
        return shared_learner(trunk, **policy_settings), None, trunk
    critic = critic_learner(
        new_critic(), optim=recipe.critic_optim, compute=recipe.compute, total_steps=n_steps, watch=watch
    )
    return policy_learner(model, **policy_settings), critic, None


def _critic(run: Run, rewards: RewardModels, start: Path, chat: Chat) -> ValueModel:
    """Starts as the reward model when it reads the policy's tokens; otherwise as the policy with a zero head."""
    reward = load_reward(rewards.members[0], device=run.recipe.run.device)[0]
    if reward.chat is not None and reward.chat.tokenizer_hash == chat.tokenizer_hash:
        return ValueModel.from_reward(reward)
    return ValueModel(run.open_causal(start)[0])


def need_of_rl(recipe: Recipe, machines: Machines, prompts: Sequence[Prompt]) -> Need:
    """What PPO or RLOO needs with these machines: all models, both learners, and the engine's cache."""
    cfg = recipe.ppo if recipe.run.algorithm == "ppo" else recipe.rloo
    new, k = recipe.sampling.max_new_tokens, cfg.samples_per_prompt
    lengths = [len(machines.chat.prompt_ids(p)) for p in prompts[:: -(-len(prompts) // N_READ)]]
    asked = sum(lengths) / len(lengths)  # of one prompt, which a pass computes once for its k answers
    n_tokens = cfg.prompts_per_update * (asked + k * new) / cfg.minibatches
    alone = need_of_learner(
        machines.policy, machines.model, recipe.compute, n_tokens=round(n_tokens),
        share_chosen=k * new / (asked + k * new), copies=1,
    )  # fmt: skip
    others = [*machines.score.members, *machines.watcher.members]
    parameters = [*alone.parameters, *map(n_parameters, others)]
    parameters += [] if machines.adapter else alone.parameters  # the reference
    parameters += [n_parameters(machines.critic.module)] if machines.critic else []
    longest, on_processor = max(lengths) + new, machines.model.device.type == "cpu"
    return Need(
        shape=alone.shape,
        parameters=parameters,
        trained=[n_trained(learner) for learner in (machines.policy, machines.critic) if learner],
        adapted=alone.adapted,
        copies=alone.copies,
        half=alone.half,
        recomputed=alone.recomputed,
        fused=alone.fused,
        tokens=alone.tokens,
        chosen=alone.chosen,
        slots=recipe.engine.slots + n_parking(recipe.engine.slots, cfg.prompts_per_update * k),
        positions=longest + -longest % (POSITIONS if on_processor else READ),
        sampled_half=n_parameters(machines.model) if alone.half and not on_processor else 0,
        program=alone.program,
    )
