"""TRL SFTTrainer on documents of unequal length.

python trl_sft.py '{"model": …, "reward": …, "tasks": …, "threads": 2, "dtype": "bfloat16", "autocast": false,
                    "batch": 32}'
"""

from datasets import Dataset
from trl import SFTConfig, SFTTrainer
from trl_side import Asked, TakesTurns


def main() -> None:
    asked = Asked.read()
    documents = asked["tasks"]["documents"] * 8
    trainer = SFTTrainer(
        model=asked.causal(),
        args=SFTConfig(**asked.settings(asked["batch"], max_length=512)),
        train_dataset=Dataset.from_dict({"input_ids": documents}),
        processing_class=asked.tokenizer(),
    )
    rows = trainer.train_dataset["input_ids"]
    mean = sum(map(len, rows)) / len(rows)
    trainer.add_callback(TakesTurns(asked, {"tokens": asked["batch"] * mean}))
    trainer.train()


if __name__ == "__main__":
    main()
