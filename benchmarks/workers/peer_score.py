"""The peer's side of ``python -m benchmarks score``: transformers' own model. Needs torch and transformers only."""

import json
import sys
import time

import numpy as np
import torch
import transformers


def score(model: torch.nn.Module, tokens: torch.Tensor, first: int, keep: bool, batch: int) -> float:
    """The sum of the log-probabilities of each window's tokens from ``first`` on."""
    total, scored = 0.0, tokens.shape[1] - first
    with torch.inference_mode():
        for some in tokens.split(batch):
            logits = model(some[:, :-1], use_cache=False, **({"logits_to_keep": scored} if keep else {})).logits
            log_probs = torch.log_softmax(logits[:, -scored:].float(), dim=-1)
            total += log_probs.gather(2, some[:, first:, None]).double().sum().item()
    return total


def main() -> None:
    work = json.loads(sys.argv[1])
    transformers.logging.set_verbosity_error()
    tokens = torch.from_numpy(np.load(work["windows"])).long()
    model = transformers.AutoModelForCausalLM.from_pretrained(work["model"]).eval()
    times = {}
    for batch in work["batches"]:  # Which suits it best; the first pass of all is for first touches.
        score(model, tokens[:batch], work["first"], work["keep"], batch)
        start = time.perf_counter()
        score(model, tokens[: max(work["batches"])], work["first"], work["keep"], batch)
        times[batch] = time.perf_counter() - start
    best = min(times, key=times.__getitem__)
    for line in sys.stdin:
        start, used = time.perf_counter(), time.process_time()
        for _ in range(int(line)):
            total = score(model, tokens, work["first"], work["keep"], best)
        print(json.dumps([time.perf_counter() - start, time.process_time() - used, [total, best]]), flush=True)


if __name__ == "__main__":
    main()
