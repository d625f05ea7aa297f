"""Decoding with a draft beside decoding without one: the same prompt and tokens, in turn (A B A B) in one run.

    python benchmarks/speculate.py MODEL DRAFT [--draft-tokens 2 4] [--text FILE]

MODEL and DRAFT are whatever `gpt2jax generate --model` takes. Prompts of 32 tokens are cut from FILE, or random where
none is given; 96 new tokens at batch 1, greedy and drawn at temperature 1. Prints a Markdown table: the ratio of
speeds, tokens a round (1 is a draft that is never right), and whether the texts were equal.
"""

import argparse
import statistics
import time
from pathlib import Path

import numpy as np

from gpt2jax import runtime
from gpt2jax.config import SamplingConfig
from gpt2jax.generate.batch import Batch
from gpt2jax.generate.request import Request
from gpt2jax.generate.text import TextModel
from gpt2jax.tokenizer import encode_prompt

PROMPT, NEW = 32, 96


def prompts_of(model: TextModel, text: str | None, count: int) -> list[tuple[int, ...]]:
    rng = np.random.default_rng(0)
    if text is None:
        return [tuple(rng.integers(model.config.n_vocab, size=PROMPT).tolist()) for _ in range(count)]
    tokens = encode_prompt(model.encoding, Path(text).read_text(encoding="utf-8")[:500_000])
    starts = rng.integers(len(tokens) - PROMPT, size=count)
    return [tuple(tokens[start : start + PROMPT]) for start in starts]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("draft")
    parser.add_argument("--draft-tokens", nargs="+", type=int, default=[2, 4])
    parser.add_argument("--text")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    runtime.start()
    print("| draft tokens | temperature | speed, ratio, median | range | tokens a round | same texts |")
    print("|---|---|---|---|---|---|")
    for drafted in given.draft_tokens:
        model = TextModel.load(given.model, draft=given.draft, draft_tokens=drafted)
        prompts = prompts_of(model, given.text, given.rounds + 1)
        for temperature in (0.0, 1.0):
            sampling = SamplingConfig(max_new_tokens=NEW, temperature=temperature, seed=1)
            ratios, rounds, same = [], [], []
            for number, prompt in enumerate(prompts):
                times, texts = [], []
                for draft in (None, model.draft):
                    start = time.perf_counter()
                    batch = Batch(model.params, [Request(prompt, sampling)], model.config, draft=draft)
                    texts.append(batch.run()[0].tokens)
                    times.append(time.perf_counter() - start)
                if number:  # The first one compiles.
                    ratios.append(times[0] / times[1])
                    rounds.append((NEW - 1) / batch.rounds)
                    same.append(texts[0] == texts[1])
            print(
                f"| {drafted} | {temperature:g} | {statistics.median(ratios):.2f} |"
                f" {min(ratios):.2f} to {max(ratios):.2f} | {statistics.mean(rounds):.2f} |"
                f" {sum(same)} of {len(same)} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
