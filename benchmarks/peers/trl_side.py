"""What the TRL sides share: settings that favour the peer, and a trainer that takes turns, one step each."""

import json
import logging
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import transformers
import trl
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, TrainerCallback
from turns import Steps

STEPS = 10_000  # more than any run takes


class Asked(dict[str, Any]):
    """The settings of the command line, with what every TRL side makes of them."""

    @classmethod
    def read(cls) -> "Asked":
        asked = cls(json.loads(sys.argv[1]))
        torch.set_num_threads(asked["threads"])
        logging.disable(logging.WARNING)
        asked["tasks"] = json.loads(Path(asked["tasks"]).read_text(encoding="utf-8"))
        return asked

    def tokenizer(self) -> Any:
        tokenizer = AutoTokenizer.from_pretrained(self["model"])
        tokenizer.padding_side = "left"
        return tokenizer

    def causal(self) -> Any:
        return AutoModelForCausalLM.from_pretrained(self["model"], dtype=getattr(torch, self["dtype"]))

    def judge(self) -> Any:
        """A reward or value model: one number at the last token."""
        return AutoModelForSequenceClassification.from_pretrained(
            self["reward"], dtype=getattr(torch, self["dtype"]), num_labels=1
        )

    def settings(self, batch: int, **more: Any) -> dict[str, Any]:
        """No saving, no reports, no gradient checkpointing, one microbatch unless `micro` says otherwise."""
        micro = self["micro"] if "micro" in self else batch
        return {
            "output_dir": tempfile.mkdtemp(prefix="peer-"), "per_device_train_batch_size": micro,
            "gradient_accumulation_steps": batch // micro, "max_steps": STEPS, "learning_rate": 1e-5,
            "use_cpu": not torch.cuda.is_available(), "report_to": "none", "save_strategy": "no", "disable_tqdm": True,
            "bf16": self["autocast"], "gradient_checkpointing": False, "dataloader_num_workers": 0,
            "logging_steps": STEPS, "seed": 0, **more,
        }  # fmt: skip

    def facts(self, **more: Any) -> dict[str, Any]:
        return {
            "what": f"TRL {trl.__version__}", "weights": self["dtype"], "autocast_bf16": self["autocast"],
            "transformers": transformers.__version__, "torch": torch.__version__, **more,
        }  # fmt: skip


class TakesTurns(TrainerCallback):
    """Holds the trainer after each optimiser step until it is its turn again. `done` says what a step did."""

    def __init__(self, asked: Asked, done: dict[str, Any], **facts: Any) -> None:
        self._steps = Steps(lambda: asked.facts(**facts))
        self._done = done

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self._steps.done(**self._done)
