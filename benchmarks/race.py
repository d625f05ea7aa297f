"""Optimizers and schedules, raced on the same data with the same budget.

    python benchmarks/race.py runs/race --text "shakespeare=tinyshakespeare.txt --split tail" --text pydoc=pydoc

A byte-level GPT-2 of 1.8 million parameters is trained for the same steps, batches and seeds by each racer. First each
optimizer looks for its peak learning rate: on the first text, with a seed that is not raced, from a grid of factors of
2, which is made longer until the best rate is not at an end of it. Then it races at that rate, with three seeds on
every text; then AdamW races with the other schedules. Every run is `gpt2jax train` with the settings of RACE and of
the racer below; a run that is finished is not done again, so that the whole may be stopped and started. Prints a table
and draws the curves to OUTPUT/race.png.
"""

import argparse
import json
import shlex
import statistics
import subprocess
import sys
from pathlib import Path

import yaml
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from gpt2jax.files import new_file
from gpt2jax.train.runlog import Row, read_rows

STEPS = 500
RACE = {
    "model": {
        "n_vocab": 257,
        "n_ctx": 64,
        "n_embd": 192,
        "n_head": 6,
        "n_layer": 4,
        "init": "human-preferences",
        "scan_unroll": 4,
    },
    "training": {
        "steps": STEPS,
        "batch_size": 16,
        "log_interval": 10,
        "eval_interval": 100,
        "eval_batches": 32,
        "checkpoint_interval": STEPS,
        "keep_last": 1,
    },
}
WARMUP = 50
# Where the search for each optimizer's rate begins, and what else it wants: Lion's is what its authors advise (Chen
# et al. 2023, section 5), the others' are the defaults.
OPTIMIZERS: dict[str, tuple[list[float], dict[str, float]]] = {
    "adamw": ([1e-3, 2e-3, 4e-3], {}),
    "muon": ([4e-3, 8e-3, 16e-3], {}),
    "lion": ([2e-4, 4e-4, 8e-4], {"beta2": 0.99, "weight_decay": 0.5}),
}
SCHEDULES = ("linear", "wsd", "constant")
TUNING_SEED = 1000
SEEDS = (0, 1, 2)


class Race:
    def __init__(self, output: Path, texts: dict[str, str]) -> None:
        self.output, self.texts = output, texts
        self.settings = output / "race.yaml"
        output.mkdir(parents=True, exist_ok=True)
        self.settings.write_text(yaml.safe_dump(RACE))
        for name, source in texts.items():
            if not (self.data(name) / "meta.json").exists():
                command = ["prepare", *shlex.split(source), "--out", str(self.data(name)), "--tokenizer", "bytes"]
                subprocess.run([sys.executable, "-m", "gpt2jax", *command], check=True)

    def data(self, text: str) -> Path:
        return self.output / "data" / text

    def run(self, text: str, optimizer: str, rate: float, seed: int, schedule: str = "cosine") -> list[Row]:
        """The metrics of one run, which is done unless it was."""
        folder = self.output / f"{text}-{optimizer}-{schedule}-{rate:g}-{seed}"
        rows = read_rows(folder)
        if not any(row["step"] == STEPS and "validation_loss" in row for row in rows):
            options = {
                "data.path": self.data(text),
                "training.run-dir": folder,
                "training.seed": seed,
                "optimizer.name": optimizer,
                "optimizer.learning-rate": rate,
                "optimizer.min-learning-rate": rate / 10,
                "optimizer.warmup-steps": WARMUP,
                "optimizer.schedule": schedule,
            } | {f"optimizer.{name.replace('_', '-')}": value for name, value in OPTIMIZERS[optimizer][1].items()}
            command = [sys.executable, "-m", "gpt2jax", "train", str(self.settings)]
            for name, value in options.items():
                command += [f"--{name}", str(value)]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            rows = read_rows(folder)
        print(f"{folder.name}: {final(rows):.4f}", flush=True)
        return rows

    def best_rate(self, optimizer: str) -> tuple[float, dict[float, float]]:
        """The peak learning rate with the lowest loss, and the losses of all that were tried."""
        text = next(iter(self.texts))
        tried = {rate: final(self.run(text, optimizer, rate, TUNING_SEED)) for rate in OPTIMIZERS[optimizer][0]}
        while True:
            best = min(tried, key=tried.__getitem__)
            if best not in (min(tried), max(tried)):
                return best, tried
            more = best / 2 if best == min(tried) else best * 2
            tried[more] = final(self.run(text, optimizer, more, TUNING_SEED))


def final(rows: list[Row]) -> float:
    """The last validation's loss in nats per byte."""
    return next(row["validation_loss"] for row in reversed(rows) if "validation_loss" in row)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--text", action="append", required=True, metavar="NAME=FILE [OPTION ...]", help="of `prepare`")
    parser.add_argument("--schedules", nargs="*", choices=SCHEDULES, default=SCHEDULES, help="that race beside cosine")
    given = parser.parse_args()
    race = Race(given.output, dict(text.split("=", 1) for text in given.text))

    rates = {}
    for optimizer in OPTIMIZERS:
        rates[optimizer], tried = race.best_rate(optimizer)
        print(f"{optimizer}: {json.dumps({f'{rate:g}': round(loss, 4) for rate, loss in sorted(tried.items())})}")
    racers = [(name, "cosine") for name in OPTIMIZERS] + [("adamw", schedule) for schedule in given.schedules]
    results: dict[str, dict[str, list[list[Row]]]] = {text: {} for text in race.texts}
    for optimizer, schedule in racers:
        for text in race.texts:
            results[text][f"{optimizer}, {schedule}"] = [
                race.run(text, optimizer, rates[optimizer], seed, schedule) for seed in SEEDS
            ]
    print("\n| text | optimizer, schedule | peak learning rate | loss, mean of three seeds | lowest | highest |")
    print("|---|---|---|---|---|---|")
    for text, of_text in results.items():
        for racer, runs in of_text.items():
            losses = [final(rows) for rows in runs]
            spread = f"{statistics.mean(losses):.3f} | {min(losses):.3f} | {max(losses):.3f}"
            print(f"| {text} | {racer} | {rates[racer.split(',')[0]]:g} | {spread} |")
    draw(results, given.output / "race.png")


def draw(results: dict[str, dict[str, list[list[Row]]]], path: Path) -> None:
    """Validation loss over steps, a panel a text: the mean of the seeds, and a band from the lowest to the highest."""
    figure = Figure(figsize=(5.5 * len(results), 4.5), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    for panel, (text, of_text) in zip(figure.subplots(1, len(results), squeeze=False)[0], results.items(), strict=True):
        for racer, runs in of_text.items():
            validated = [[row for row in rows if "validation_loss" in row] for rows in runs]
            steps = [row["step"] for row in validated[0]]
            losses = list(zip(*[[row["validation_loss"] for row in rows] for rows in validated], strict=True))
            [line] = panel.plot(steps, [statistics.mean(at) for at in losses], lw=1.2, label=racer)
            panel.fill_between(
                steps, [min(at) for at in losses], [max(at) for at in losses], alpha=0.2, color=line.get_color()
            )
        last = [final(rows) for runs in of_text.values() for rows in runs]
        panel.set_ylim(min(last) - 0.03, min(last) + 0.9)
        panel.set_title(text)
        panel.set_xlabel("step")
        panel.set_ylabel("validation loss (nats per byte)")
        panel.grid(alpha=0.3)
        panel.legend()
    with new_file(path) as partial:
        figure.savefig(partial, format="png")


if __name__ == "__main__":
    main()
