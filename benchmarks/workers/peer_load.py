"""The peer's side of ``python -m benchmarks load``. Needs torch and transformers only."""

import json
import sys
import time

import transformers


def main() -> None:
    work = json.loads(sys.argv[1])
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    for line in sys.stdin:
        start, used = time.perf_counter(), time.process_time()
        for _ in range(int(line)):
            model = transformers.GPT2LMHeadModel.from_pretrained(work["model"])
        for one in model.parameters():  # It maps the file: an array that nobody has read is not loaded.
            one.sum()
        seconds, cpu = time.perf_counter() - start, time.process_time() - used
        total = sum(one.detach().double().square().sum().item() for one in model.parameters())
        print(json.dumps([seconds, cpu, total]), flush=True)


if __name__ == "__main__":
    main()
