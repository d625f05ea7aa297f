"""The peer's side of ``python -m benchmarks generate``: transformers' own. Needs torch and transformers only."""

import json
import sys
import time

import numpy as np
import torch
import transformers


def main() -> None:
    work = json.loads(sys.argv[1])
    transformers.logging.set_verbosity_error()
    tokens = torch.from_numpy(np.load(work["prompts"])).long()
    model = transformers.AutoModelForCausalLM.from_pretrained(work["model"]).eval()
    cache = {} if work["cache"] == "dynamic" else {"cache_implementation": "static", "disable_compile": True}
    for line in sys.stdin:
        start, used = time.perf_counter(), time.process_time()
        for _ in range(int(line)):
            with torch.inference_mode():
                out = model.generate(
                    tokens,
                    attention_mask=torch.ones_like(tokens),
                    do_sample=False,
                    max_new_tokens=work["new"],
                    min_new_tokens=work["new"],
                    pad_token_id=0,
                    eos_token_id=None,
                    **cache,
                )
        new = out[:, tokens.shape[1] :].tolist()
        print(json.dumps([time.perf_counter() - start, time.process_time() - used, new]), flush=True)


if __name__ == "__main__":
    main()
