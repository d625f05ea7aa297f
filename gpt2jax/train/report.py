"""report.md: what a run was, what it cost, and how each of these figures was reached."""

import subprocess
from pathlib import Path

import jax
from jax.sharding import Mesh

from gpt2jax import parameters, runtime
from gpt2jax.chips import Chip, known_chip
from gpt2jax.config import Config
from gpt2jax.files import write_text
from gpt2jax.train.runlog import Row


def write_report(
    config: Config, mesh: Mesh, rows: list[Row], path: Path, command: str, attention: str, fault: str = ""
) -> None:
    """Write the report of a run from its metrics.

    Args:
        attention: the kernel that ran.
        fault: what ended the run, if it did not end well.
    """
    last = next((row for row in reversed(rows) if "loss" in row), None)
    validation = [row for row in rows if "validation_loss" in row]
    if last is None:
        return
    kind, devices = mesh.devices.flat[0].device_kind, mesh.devices.size
    known = known_chip(kind)
    steps, seconds = int(last["step"]), last["train_seconds"]
    training = config.training
    micro_batch = training.batch_size // training.micro_batches
    tokens = training.micro_batches_before(steps) * micro_batch * config.model.n_ctx
    flops = tokens * parameters.train_flops_per_token(config.model, config.model.n_ctx)
    watts = training.device_watts or (known.watts if known else None)
    lines = [
        f"# Run {training.run_dir}",
        "",
        "| | |",
        "|---|---|",
        f"| command | `{command}` |",
        f"| started from | {training.init_from or 'fresh parameters'} |",
        f"| steps | {steps} of {training.steps}, {last.get('skipped_in_all', 0):.0f} of them skipped |",
        f"| training tokens | {tokens:,} |",
        f"| parameters | {parameters.count(config.model):,} |",
        f"| training loss, last | {last['loss']:.4f} nats per token |",
    ]
    if fault:
        lines.append(f"| ended by | {fault} |")
    if validation:
        best = min(validation, key=lambda row: row["validation_loss"])
        lines.append(f"| validation loss, last | {_loss(validation[-1])} |")
        lines.append(f"| validation loss, best | {_loss(best)}, step {best['step']:.0f} |")
    lines += [
        f"| hardware | {devices} x {kind}, {jax.process_count()} process(es),"
        f" mesh {', '.join(f'{name} {size}' for name, size in mesh.shape.items())} |",
        f"| attention | {attention} |",
        f"| training time | {seconds / 3600:.4f} h, without compilation, validation and checkpoints |",
        f"| compute | {flops:.3e} FLOP: {_FLOPS_CONVENTION} |",
        f"| MFU | {_mfu(flops, seconds, devices, known, kind)} |",
        f"| energy | {_energy(seconds, devices, watts, kind)} |",
        f"| CO2 | {_carbon(seconds, devices, watts, training.grid_gco2_per_kwh)} |",
        f"| versions | {', '.join(f'{name} {version}' for name, version in runtime.versions().items())} |",
        f"| git commit | {_git_commit()} |",
        "",
        "Curves: `loss.png`; numbers: `metrics.jsonl`; settings as resolved: `config.yaml`.",
        "",
    ]
    write_text(path, "\n".join(lines))


_FLOPS_CONVENTION = "6 N + 12 n_layer n_embd n_ctx per token, N without positions, attention counted as not causal"


def _loss(row: Row) -> str:
    text = f"{row['validation_loss']:.4f} nats per token"
    return text + f", {row['bits_per_byte']:.4f} bits per byte" if "bits_per_byte" in row else text


def _mfu(flops: float, seconds: float, devices: int, known: Chip | None, kind: str) -> str:
    if known is None:
        return f"unknown: no peak is listed for {kind!r}"
    share = flops / seconds / (devices * known.peak_tflops * 1e12)
    return f"{100 * share:.1f} % of {known.peak_tflops:g} TFLOP/s per device ({_FLOPS_CONVENTION})"


def _energy(seconds: float, devices: int, watts: float | None, kind: str) -> str:
    if watts is None:
        return f"unknown: no power is listed for {kind!r}; set training.device_watts"
    return f"{_kwh(seconds, devices, watts):.4f} kWh, if each device drew {watts:g} W throughout"


def _carbon(seconds: float, devices: int, watts: float | None, grid: float) -> str:
    if watts is None:
        return "unknown, as the energy is"
    grams = _kwh(seconds, devices, watts) * grid
    return f"{grams:.2f} g, at {grid:g} g per kWh (training.grid_gco2_per_kwh), devices only, without cooling or host"


def _kwh(seconds: float, devices: int, watts: float) -> float:
    return seconds / 3600 * devices * watts / 1000


def _git_commit() -> str:
    """Commit of the checkout that the package runs from; an installed copy has none, whatever folder it lies in."""
    here = Path(__file__)

    def git(*args: str) -> str:
        done = subprocess.run(["git", "-C", str(here.parent), *args], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        git("ls-files", "--error-unmatch", here.name)
        return git("describe", "--always", "--dirty", "--abbrev=12")
    except (OSError, subprocess.SubprocessError):
        return "not a git checkout"
