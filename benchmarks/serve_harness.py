"""lm-evaluation-harness over HTTP: its own adapter for OpenAI's completions against `gpt2jax serve`.

    python -m venv harness && harness/bin/pip install 'lm-eval[api]' torch transformers
    python benchmarks/serve_harness.py --python harness/bin/python

The harness is a process of that environment, with tasks over files that are made here: log-likelihoods of the ends of
paragraphs of MODEL_CARD.md, and greedy texts after their beginnings. The model is a small GPT-2 with random weights
and GPT-2's vocabulary, whose <|endoftext|> is often the most probable token, so that what comes after a prompt is often
no text. Writes benchmarks/results/serve_harness.md: what differs from the offline engine's own results.
"""

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np
import yaml

from gpt2jax import parameters, tokenizer
from gpt2jax.config import ModelConfig, SamplingConfig
from gpt2jax.generate.score import score
from gpt2jax.generate.text import TextModel
from gpt2jax.weights.convert import convert
from gpt2jax.weights.weights import HeldWeights, Origin

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "serve_harness.md"
CONFIG = ModelConfig(n_ctx=256, n_embd=64, n_head=4, n_layer=2)
END_OF_TEXT, NEW = 50256, 12


def make_model(folder: Path) -> None:
    """In Hugging Face's form, with the vocabulary's files."""
    params = parameters.init(jax.random.key(0), CONFIG)
    params = jax.tree.map(lambda leaf: leaf * 6 if leaf.ndim > 1 else leaf, params)
    params["wte"] = params["wte"].at[END_OF_TEXT].multiply(4.0)
    convert(HeldWeights(Origin("random", "random", CONFIG, tokenizer.gpt2()), params), folder, "huggingface")


def make_rows(text: str) -> list[dict[str, str]]:
    """Paragraphs cut before their last words."""
    paragraphs = [" ".join(part.split()) for part in text.split("\n\n")]
    words = [part.split(" ") for part in paragraphs if len(part.split(" ")) > 12]
    return [
        {"text": " ".join(some[: 8 + number % 30][:-3]), "target": " " + " ".join(some[: 8 + number % 30][-3:])}
        for number, some in enumerate(words)
    ]


def with_greedy_ends(writer: TextModel, rows: list[dict[str, str]]) -> None:
    """Give every third row the end that the model itself writes, where that is text."""
    some = rows[::3]
    written = writer.sample([row["text"] for row in some], SamplingConfig(max_new_tokens=2, temperature=0.0))
    for row, [sample] in zip(some, written, strict=True):
        if sample.text.strip() and "\ufffd" not in sample.text:
            row["target"] = sample.text


def write_tasks(folder: Path, rows: list[dict[str, str]]) -> None:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    kinds: dict[str, dict[str, Any]] = {
        "words": {"output_type": "loglikelihood", "metric_list": [{"metric": "perplexity"}, {"metric": "acc"}]},
        "writing": {
            "output_type": "generate_until",
            "generation_kwargs": {"max_gen_toks": NEW, "until": ["\n"], "do_sample": False},
            "metric_list": [{"metric": "exact_match"}],
        },
    }
    for name, kind in kinds.items():
        files = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(path)}}, "test_split": "test"}
        head = {"doc_to_text": "{{text}}", "doc_to_target": "{{target}}", "target_delimiter": ""}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump({"task": f"local_{name}"} | files | head | kind))


def start(model: Path) -> tuple[subprocess.Popen[str], str]:
    """The server and its address."""
    command = [sys.executable, "-m", "gpt2jax", "serve", "--model", str(model), "--port", "0", "--slots", "8"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr
    address = ""
    for line in process.stderr:
        if found := re.search(r"at (http://\S+);", line):
            address = found[1]
        if line.startswith("ready"):
            break
    ThreadPoolExecutor(1).submit(process.stderr.read)
    return process, address


def theirs(python: str, folder: Path, address: str, model: Path, batch: int, clients: int) -> dict[str, list[Any]]:
    """What the harness was answered, by task."""
    arguments = {
        "model": model.name,
        "base_url": f"{address}/v1/completions",
        "tokenizer_backend": "huggingface",
        "tokenizer": model,
        "max_length": CONFIG.n_ctx,
        "num_concurrent": clients,
    }
    command = [python, "-m", "lm_eval", "--model", "local-completions", "--tasks", "local_words,local_writing"]
    command += ["--model_args", ",".join(f"{name}={value}" for name, value in arguments.items())]
    command += ["--batch_size", str(batch), "--include_path", str(folder), "--log_samples"]
    out = folder / f"out{batch}{clients}"
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_DATASETS_CACHE": str(folder / "cache")}
    done = subprocess.run(
        [*command, "--output_path", str(out)], env=os.environ | offline, capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(done.stderr[-3000:])
    found = {}
    for task in ("words", "writing"):
        [path] = out.rglob(f"samples_local_{task}_*.jsonl")
        samples = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
        found[task] = [sample["resps"][0][0] for sample in sorted(samples, key=lambda one: one["doc_id"])]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", required=True, help="of an environment with lm-eval[api], torch and transformers")
    given = parser.parse_args()
    rows = make_rows((HERE.parent / "MODEL_CARD.md").read_text("utf-8"))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = folder / "small"
        make_model(model)
        writer = TextModel.load(str(model))
        with_greedy_ends(writer, rows)
        write_tasks(folder, rows)
        server, address = start(model)
        try:
            found = {
                (batch, clients): theirs(given.python, folder, address, model, batch, clients)
                for batch, clients in ((1, 1), (4, 1), (1, 4))
            }
        finally:
            server.terminate()
        assert server.wait(60) == 0
    sampling = SamplingConfig(max_new_tokens=NEW, temperature=0.0, stop=("\n",), return_full_text=False)
    samples = [some[0] for some in writer.sample([row["text"] for row in rows], sampling)]
    ends = sum(one.stop_log_prob is not None for one in samples)
    sums, greedy = ours(writer, rows)
    lines = []
    for (batch, clients), told in found.items():
        off = max(abs(float(one[0]) - mine) / abs(mine) for one, mine in zip(told["words"], sums, strict=True))
        agree = sum((str(one[1]) == "True") == mine for one, mine in zip(told["words"], greedy, strict=True))
        same = sum(one == mine.text for one, mine in zip(told["writing"], samples, strict=True))
        count = len(rows)
        lines.append(f"| {batch} | {clients} | {off:.1e} | {agree} of {count} | {same} of {count} |")
    version = subprocess.run(
        [given.python, "-c", "from importlib.metadata import version; print(version('lm-eval'))"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    RESULTS.write_text(
        f"""# lm-evaluation-harness over HTTP

`python benchmarks/serve_harness.py --python PYTHON`
on {platform.machine()}, {os.cpu_count()} cores, {time.strftime("%Y-%m-%d")}; lm-eval {version} (`local-completions`),
jax {jax.__version__}. The model: a GPT-2 with random weights ({CONFIG.n_layer} layers of width {CONFIG.n_embd}).

The harness asked our server for the log-likelihoods of the ends of {len(rows)} paragraphs and for as many greedy
texts of up to {NEW} tokens; beside it the offline engine's. {sum(greedy)} of the ends are the greedy ones, and {ends}
of the texts end at <|endoftext|>.

| prompts in a request | requests at once | log-likelihoods differ by | greedy or not: the same | texts: the same |
|---|---|---|---|---|
{chr(10).join(lines)}
""",
        encoding="utf-8",
    )
    print(RESULTS.read_text("utf-8"))


def ours(writer: TextModel, rows: list[dict[str, str]]) -> tuple[list[float], list[bool]]:
    """The log-likelihood of each end, and whether all of its tokens are the most probable ones."""
    sums, greedy = [], []
    for row in rows:
        context, whole = (writer.encoding.encode_ordinary(text) for text in (row["text"], row["text"] + row["target"]))
        [one] = score(writer.params, [whole], writer.config, alternatives=1, batch_size=1)
        at = len(context) - 1
        sums.append(float(np.sum(one.log_probs[at:])))
        best = [top[0][0] for top in one.top[at:]]
        greedy.append(best == whole[len(context) :])
    return sums, greedy


if __name__ == "__main__":
    main()
