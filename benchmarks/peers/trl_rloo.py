"""TRL RLOOTrainer or GRPOTrainer with a neural reward model of the policy's shape and a KL price.

python trl_rloo.py '{"model": …, "reward": …, "tasks": …, "threads": 2, "dtype": "bfloat16", "autocast": false,
                     "prompts": 8, "k": 8, "new": 64, "algorithm": "rloo"}'
"""

import trl
from datasets import Dataset
from trl_side import Asked, TakesTurns


def main() -> None:
    asked = Asked.read()
    prompts, batch = asked["tasks"]["prompts"], asked["prompts"] * asked["k"]
    config, trainer_of = {
        "rloo": (trl.RLOOConfig, trl.RLOOTrainer),
        "grpo": (trl.GRPOConfig, trl.GRPOTrainer),
    }[asked["algorithm"]]
    mean = sum(len(p["ids"]) for p in prompts) / len(prompts)
    tokenizer = asked.tokenizer()
    trainer = trainer_of(
        model=asked.causal(), reward_funcs=asked.judge(), processing_class=tokenizer,
        args=config(
            **asked.settings(
                batch, num_generations=asked["k"], max_completion_length=asked["new"], beta=0.04, temperature=1.0
            )
        ),
        train_dataset=Dataset.from_dict({"prompt": [p["rendered"] for p in prompts]}),
        reward_processing_classes=tokenizer,
        callbacks=[TakesTurns(asked, {"tokens": batch * (mean + asked["new"])}, algorithm=asked["algorithm"])],
    )  # fmt: skip
    trainer.train()


if __name__ == "__main__":
    main()
