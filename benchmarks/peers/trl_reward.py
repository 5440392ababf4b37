"""TRL RewardTrainer: rankings of K answers as all their pairs, which is how it can learn from them.

python trl_reward.py '{"model": …, "reward": …, "tasks": …, "threads": 2, "dtype": "bfloat16", "autocast": false,
                       "prompts": 8, "k": 4}'
"""

from itertools import combinations

from datasets import Dataset
from trl import RewardConfig, RewardTrainer
from trl_side import Asked, TakesTurns


def main() -> None:
    asked = Asked.read()
    tasks, k = asked["tasks"], asked["k"]
    chosen, rejected = [], []
    for i in range(asked["prompts"] * 40):
        prompt = tasks["prompts"][i % len(tasks["prompts"])]["rendered"]
        texts = [prompt + tasks["answers"][(i * k + j) % len(tasks["answers"])] + "<|end|>" for j in range(k)]
        for a, b in combinations(texts, 2):
            chosen.append(a)
            rejected.append(b)
    pairs = asked["prompts"] * k * (k - 1) // 2
    trainer = RewardTrainer(
        model=asked.judge(),
        args=RewardConfig(**asked.settings(pairs, max_length=512)),
        train_dataset=Dataset.from_dict({"chosen": chosen, "rejected": rejected}),
        processing_class=asked.tokenizer(),
    )
    trainer.add_callback(TakesTurns(asked, {"comparisons": pairs}))
    trainer.train()


if __name__ == "__main__":
    main()
