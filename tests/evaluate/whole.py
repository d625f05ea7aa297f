"""The real files of LAMBADA and WikiText2, whole, beside the naive program.

    python -m tests.evaluate.whole MODEL DATA [TASK]

MODEL is any small GPT-2 with GPT-2's vocabulary and a context of 256; DATA holds lambada_test.jsonl and
wikitext2.test.tokens. Prints a row for each protocol: the figure of `gpt2jax evaluate`, the naive one (every token's
context read anew, NumPy in float64), and their relative difference. TASK is lambada or wikitext2, by default both. It
takes half an hour and more, so it is no test; what it printed stands in benchmarks/results/naive.md.
"""

import json
import math
import multiprocessing
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.evaluate import naive

WINDOW, STRIDE = 64, 32
END = 50256

_state: dict[str, Any] = {}


def _begin(params: Any, config: Any) -> None:
    _state.update(params=params, config=config)


def _log_prob(tokens: list[int]) -> float:
    """Of the last token given the others."""
    return float(naive.next_log_probs(_state["params"], _state["config"], tokens[:-1])[tokens[-1]])


def strided(tokens: Sequence[int], stride: int) -> Iterator[list[int]]:
    """For each token but the first: the part of its window that it sees, and it."""
    for at in range(1, len(tokens)):
        # The first of the windows 0, stride, ... that holds it.
        start = max(0, math.ceil((at - WINDOW + 1) / stride)) * stride
        yield list(tokens[min(start, at - 1) : at + 1])


def main() -> None:
    from gpt2jax import load
    from gpt2jax.config import EvaluationConfig
    from gpt2jax.evaluate.detokenize import WIKITEXT
    from gpt2jax.evaluate.figures import Figure
    from gpt2jax.evaluate.run import Run, gather

    model, data, *asked = sys.argv[1:]
    tasks = asked or ["lambada", "wikitext2"]
    params, config, encoding = load(model)
    assert encoding is not None
    encode = encoding.encode_ordinary
    wikitext = (Path(data) / "wikitext2.test.tokens").read_text(encoding="utf-8")
    natural = "".join(f"{WIKITEXT.detokenize(line)}\n" for line in wikitext.split("\n")[:-1])
    passages = []
    for line in (Path(data) / "lambada_test.jsonl").read_text(encoding="utf-8").splitlines():
        text = "\n" + json.loads(line)["text"].replace("“", '"').replace("”", '"').strip()
        context, word = text.rsplit(" ", 1)
        before, after = encode(context), encode(f" {word}")
        passages += [before + after[: place + 1] for place in range(len(after))]
    units = len(wikitext.split()) + wikitext.count("\n")
    work = {
        "wikitext2: invertible": (list(strided([END, *encode(natural)], STRIDE)), units),
        "wikitext2: raw": (list(strided(encode(wikitext), STRIDE)), units),
        "lambada: openai, perplexity": (passages, 5153),
    }
    work = {name: rows for name, rows in work.items() if name.split(":")[0] in tasks}
    with tempfile.TemporaryDirectory() as scored:
        streams = EvaluationConfig(tasks=("wikitext2",), data=data, variants="all", window=WINDOW, stride=STRIDE)
        found: dict[str, Figure] = {}
        for setting in [streams, EvaluationConfig(tasks=("lambada",), data=data)]:
            if setting.tasks[0] not in tasks:
                continue
            for made in Run(model, setting, None, gather(setting)).figures(Path(scored) / str(setting.window)):
                found |= {figure.name: figure for figure in made}
    print("| | U | tokens scored | ours | naive | relative difference |\n|---|---|---|---|---|---|")
    spawn = multiprocessing.get_context("spawn")
    with spawn.Pool(initializer=_begin, initargs=(naive._float64(params), config)) as pool:
        for name, (rows, count) in work.items():
            nll = -math.fsum(pool.imap(_log_prob, rows, chunksize=512))
            wanted, ours = math.exp(nll / count), found[name]
            assert (ours.units, ours.tokens) == (count, len(rows))
            difference = ours.value / wanted - 1
            print(f"| {name} | {count:,} | {len(rows):,} | {ours.value:.6f} | {wanted:.6f} | {difference:+.1e} |")


if __name__ == "__main__":
    main()
