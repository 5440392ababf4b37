"""vLLM in this process, sampling at temperature 1: on a CPU its CPU build, compiled, in bf16.

python vllm_generate.py '{"model": FOLDER, "threads": 2, "prompts": [[…]], "lengths": [64, …], "batch": 64}'
"""

import json
import sys
import time

import torch
from turns import take_turns


def main() -> None:
    asked = json.loads(sys.argv[1])
    torch.set_num_threads(asked["threads"])
    import vllm

    start = time.perf_counter()
    llm = vllm.LLM(
        model=asked["model"], dtype="bfloat16", max_model_len=512, max_num_seqs=asked["batch"],
        enable_prefix_caching=False,
    )  # fmt: skip
    start_s = time.perf_counter() - start
    prompts = [{"prompt_token_ids": ids} for ids in asked["prompts"]]
    sampling = [
        vllm.SamplingParams(temperature=1.0, max_tokens=n, ignore_eos=True, logprobs=0, detokenize=False)
        for n in asked["lengths"]
    ]

    def turn(i: int) -> dict[str, float]:
        out = llm.generate(prompts, sampling, use_tqdm=False)
        return {"tokens": sum(len(o.outputs[0].token_ids) for o in out)}

    take_turns(
        turn,
        {
            "what": f"vLLM {vllm.__version__}", "weights": "bfloat16", "start_s": round(start_s, 1),
            "torch": torch.__version__,
        },
    )  # fmt: skip


if __name__ == "__main__":
    main()
