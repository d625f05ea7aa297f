"""lm-evaluation-harness over one of our models, beside `gpt2jax evaluate`.

    pip install -e '.[lm-eval]'
    python benchmarks/harness.py MODEL DATA

Its own tasks lambada_openai and wikitext fetch their files, so tasks with their settings are made here over the files
in DATA: passages of lambada_test.jsonl cut at the last space (log-likelihood and greedy), the articles of
wikitext2.test.tokens by its de-tokenizer (rolling windows, words of the original), ten choices from LAMBADA's own last
words (multiple choice), and the first words after 20 contexts (greedy generation). Writes a table of both to
benchmarks/results/harness.md.
"""

import argparse
import importlib.metadata
import json
import math
import os
import platform
import re
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"

import numpy as np
import yaml

from gpt2jax.config import EvaluationConfig, SamplingConfig
from gpt2jax.evaluate.detokenize.published import megatron_rules
from gpt2jax.evaluate.lm_eval import register
from gpt2jax.evaluate.run import Run, gather
from gpt2jax.evaluate.tasks.items import Items, total
from gpt2jax.evaluate.units import pages
from gpt2jax.generate.text import TextModel

RESULTS = Path(__file__).parent / "results" / "harness.md"
CHOICES, ITEMS, TEXTS, NEW = 10, 200, 20, 8


def write_tasks(folder: Path, data: Path) -> dict[str, list[dict[str, Any]]]:
    """The rows of each task, which also stand in ``folder`` with its settings."""
    texts = [json.loads(line)["text"] for line in (data / "lambada_test.jsonl").read_text("utf-8").splitlines()]
    cut = [text.rsplit(" ", 1) for text in texts]
    words = [word for _, word in cut]
    articles = pages((data / "wikitext2.test.tokens").read_text("utf-8"))
    rows: dict[str, list[dict[str, Any]]] = {
        "words": [{"text": context, "target": f" {word}"} for context, word in cut],
        "pages": [{"text": megatron_rules(page), "original": page} for page in articles],
        "choices": [
            {"text": context, "choices": [f" {words[number + other]}" for other in range(CHOICES)], "label": 0}
            for number, (context, _) in enumerate(cut[:ITEMS])
        ],
        "writing": [{"text": context, "target": f" {word}"} for context, word in cut[:TEXTS]],
    }
    kinds: dict[str, dict[str, Any]] = {
        "words": {"output_type": "loglikelihood", "metric_list": [{"metric": "perplexity"}, {"metric": "acc"}]},
        "pages": {"output_type": "loglikelihood_rolling", "metric_list": [{"metric": "byte_perplexity"}]},
        "choices": {"output_type": "multiple_choice", "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}]},
        "writing": {
            "output_type": "generate_until",
            "generation_kwargs": {"max_gen_toks": NEW, "until": ["\n"], "do_sample": False},
            "metric_list": [{"metric": "exact_match"}],
        },
    }
    for name, kind in kinds.items():
        path = folder / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows[name]), encoding="utf-8")
        head: dict[str, Any] = {"doc_to_text": "{{text}}", "doc_to_target": "{{target}}", "target_delimiter": ""}
        if name == "pages":
            head = {"doc_to_text": "", "doc_to_target": "{{text}}"}
        if name == "choices":
            head |= {"doc_to_choice": "{{choices}}", "doc_to_target": "{{label}}"}
        files = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(path)}}, "test_split": "test"}
        settings = {"task": f"local_{name}"} | files | head | kind
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    return rows


def theirs(model: str, folder: Path) -> tuple[dict[str, dict[str, float]], list[str]]:
    """What the harness found, by task and metric, and the texts that were written."""
    register()
    import lm_eval
    from lm_eval.tasks import TaskManager

    found = lm_eval.simple_evaluate(
        model="gpt2jax",
        model_args=f"model={model}",
        tasks=[f"local_{name}" for name in ("words", "pages", "choices", "writing")],
        task_manager=TaskManager(include_path=str(folder), include_defaults=False),
        bootstrap_iters=0,
        log_samples=True,
    )
    assert found is not None
    written = sorted(found["samples"]["local_writing"], key=lambda sample: sample["doc_id"])
    return found["results"], [sample["resps"][0][0] for sample in written]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("data", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = write_tasks(folder, given.data)
        results, written = theirs(given.model, folder)
        config = EvaluationConfig(tasks=("lambada", "wikitext2"), data=str(given.data), variants="all", stride=1)
        run = Run(given.model, config, None, gather(config))
        run.jobs = [one for one in run.jobs if one.job.name in ("lambada/as-is", "wikitext2/pages")]
        ours = {figure.name: figure for made in run.figures(folder / "scored") for figure in made}
    size = sum(len(row["text"].encode()) for row in rows["pages"])
    rolled = ours["wikitext2: pages"]
    assert rolled.nll is not None
    writer = TextModel.load(given.model)
    sampling = SamplingConfig(max_new_tokens=NEW, stop=("\n",), do_sample=False, return_full_text=False)
    texts = [text for [text] in writer.write([row["text"] for row in rows["writing"]], sampling)]
    words, choices, rolling = (results[f"local_{name}"] for name in ("words", "choices", "pages"))
    accuracies = answered(run, rows["choices"])
    whole = ours["lambada: as-is, whole word"].value
    table = [
        ("LAMBADA as it is: perplexity", words["perplexity,none"], ours["lambada: as-is, perplexity"].value),
        ("LAMBADA as it is: accuracy, %", 100 * words["acc,none"], whole),
        ("WikiText2 by pages: perplexity per byte", rolling["byte_perplexity,none"], math.exp(rolled.nll / size)),
        (f"one of {CHOICES} choices: accuracy, %", 100 * choices["acc,none"], accuracies[0]),
        (f"one of {CHOICES} choices: accuracy per character, %", 100 * choices["acc_norm,none"], accuracies[1]),
        (f"of {TEXTS} greedy texts the same", float(TEXTS), float(sum(map(str.__eq__, texts, written)))),
    ]
    lines = [
        f"| {name} | {one:.6f} | {other:.6f} | {abs(other - one) / max(abs(one), 1e-9):.1e} |"
        for name, one, other in table
    ]
    versions = {name: importlib.metadata.version(name) for name in ("jax", "tiktoken", "lm-eval")}
    RESULTS.write_text(
        f"""# lm-evaluation-harness over our model

`python benchmarks/harness.py MODEL DATA` on {platform.machine()}, {os.cpu_count()} cores, {time.strftime("%Y-%m-%d")};
{", ".join(f"{name} {version}" for name, version in versions.items())}.
MODEL: {describe(run)}.
The tasks are local ones with the settings of lambada_openai and wikitext. Both sides score with our engine, so this is
about protocols: which text, which tokens, which windows, which words count.

| | the harness | `gpt2jax evaluate` | relative difference |
|---|---|---|---|
{chr(10).join(lines)}
""",
        encoding="utf-8",
    )
    print(RESULTS.read_text("utf-8"))


def answered(run: Run, rows: list[dict[str, Any]]) -> list[float]:
    """Percent of questions whose first choice has the highest log-probability, and the highest per character."""
    items = Items(run.setting)
    for number, row in enumerate(rows):
        for choice in row["choices"]:
            items.add(row["text"], choice, f"question {number + 1}")
    sums = np.array([total(one) for one in run.scorer.score_all(items.rows)]).reshape(len(rows), CHOICES)
    lengths = np.array([[len(choice) for choice in row["choices"]] for row in rows])
    return [100 * float(np.mean(some.argmax(axis=1) == 0)) for some in (sums, sums / lengths)]


def describe(run: Run) -> str:
    sizes = re.sub(r"[{}']", "", str(run.sizes))
    return f"a briefly trained GPT-2 ({sizes}), digest {run.scorer.fingerprint[:16]}"


if __name__ == "__main__":
    main()
