"""`transformers` generate, sampling over the whole vocabulary at temperature 1.

python hf_generate.py '{"model": FOLDER, "threads": 2, "dtype": "bfloat16", "prompts": [[…]], "lengths": [64, …],
                        "batch": 64, "cache": "dynamic"}'
"""

import json
import sys
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, StoppingCriteria, StoppingCriteriaList
from turns import take_turns


class StopAt(StoppingCriteria):
    """Ends each row at its own length."""

    def __init__(self, lengths: list[int]) -> None:
        self.lengths, self.n = torch.tensor(lengths), 0

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        self.n += 1
        return (self.n >= self.lengths).to(input_ids.device)


def main() -> None:
    asked = json.loads(sys.argv[1])
    torch.set_num_threads(asked["threads"])
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = AutoModelForCausalLM.from_pretrained(asked["model"], dtype=getattr(torch, asked["dtype"])).to(device).eval()
    prompts, lengths, batch = torch.tensor(asked["prompts"]), asked["lengths"], asked["batch"]
    more = {} if asked["cache"] == "dynamic" else {"cache_implementation": asked["cache"]}

    @torch.no_grad()
    def turn(i: int) -> dict[str, float]:
        torch.manual_seed(i + 1)
        for start in range(0, len(prompts), batch):
            part = prompts[start : start + batch].to(device)
            model.generate(
                input_ids=part, attention_mask=torch.ones_like(part), max_new_tokens=max(lengths), do_sample=True,
                top_k=0, top_p=1.0, eos_token_id=model.config.vocab_size, pad_token_id=0,
                stopping_criteria=StoppingCriteriaList([StopAt(lengths[start : start + batch])]), **more,
            )  # fmt: skip
        if device == "cuda":
            torch.cuda.synchronize()
        return {"tokens": sum(lengths)}

    take_turns(
        turn,
        {
            "what": f"transformers {transformers.__version__} generate",
            "weights": asked["dtype"],
            "cache": asked["cache"],
            "torch": torch.__version__,
        },
    )


if __name__ == "__main__":
    main()
