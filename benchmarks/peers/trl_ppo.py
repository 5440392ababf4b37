"""TRL PPOTrainer with policy, reference, reward and value model of one shape. It left TRL with 1.13: needs 1.12.

    python trl_ppo.py '{"model": …, "reward": …, "tasks": …, "threads": 2, "dtype": "bfloat16", "autocast": false,
                        "batch": 64, "new": 64}'

No response ends early, so what its padding of unequal responses costs is not counted.
"""

import sys

import trl
from datasets import Dataset
from trl_side import STEPS, Asked, TakesTurns

try:
    from trl.experimental.ppo import PPOConfig, PPOTrainer
except ImportError:
    sys.exit(f"trl_ppo.py needs TRL 1.12.0, but this Python has {trl.__version__}: see requirements-ppo.txt")


def main() -> None:
    asked = Asked.read()
    batch, new = asked["batch"], asked["new"]
    policy, reference = asked.causal(), asked.causal()
    for model in (policy, reference):
        model.generation_config.eos_token_id = None
    prompts = [p["ids"] for p in asked["tasks"]["prompts"]]
    data = Dataset.from_dict({"input_ids": prompts})
    settings = asked.settings(
        batch, num_ppo_epochs=1, num_mini_batches=1, response_length=new, local_rollout_forward_batch_size=64,
        total_episodes=STEPS * batch, num_sample_generations=0, missing_eos_penalty=None, kl_coef=0.05,
    )  # fmt: skip
    settings.pop("max_steps")
    mean = sum(map(len, prompts)) / len(prompts)
    trainer = PPOTrainer(
        args=PPOConfig(**settings), processing_class=asked.tokenizer(), model=policy, ref_model=reference,
        reward_model=asked.judge(), value_model=asked.judge(), train_dataset=data,
        eval_dataset=data.select(range(min(batch, 64))),
        callbacks=[TakesTurns(asked, {"tokens": batch * (mean + new)})],
    )  # fmt: skip
    trainer.train()


if __name__ == "__main__":
    main()
