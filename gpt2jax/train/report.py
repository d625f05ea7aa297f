"""report.md: what a run was, what it cost, how each of these figures was reached, and what to beware of."""

import subprocess
from pathlib import Path

import jax
from jax.sharding import Mesh

from gpt2jax import parameters, runtime
from gpt2jax.config import Config
from gpt2jax.files import write_text
from gpt2jax.footprint import energy
from gpt2jax.risks import RISKS
from gpt2jax.train.rows import Row, mean_mfu
from gpt2jax.train.sessions import Session
from gpt2jax.train.utilization import Utilization


def write_report(
    config: Config,
    mesh: Mesh,
    rows: list[Row],
    sessions: list[Session],
    path: Path,
    command: str,
    attention: str,
    step: int,
    filled: float,
    ended_by: str = "",
) -> None:
    """Write the report of a run from its metrics.

    Args:
        sessions: the starts of the run.
        attention: the kernel that ran.
        step: the last one done, which may be past the last one logged.
        filled: share of the positions that hold tokens, on the average of an epoch.
        ended_by: what ended the run before its last step, if it was no signal: its patience, or an error.
    """
    last = next((row for row in reversed(rows) if "loss" in row), None)
    validation = [row for row in rows if "validation_loss" in row]
    kind, devices = mesh.devices.flat[0].device_kind, mesh.devices.size
    seconds = rows[-1]["train_seconds"] if rows else 0.0
    training = config.training
    positions = training.positions_before(step, config.model.n_ctx)
    tokens = round(filled * positions)
    padding = f" in {positions:,} positions, on the average of an epoch: the rest is padding"
    utilization = Utilization(config, mesh)
    flops = positions * utilization.flops_per_token
    lines = [
        f"# Run {training.run_dir}",
        "",
        "| | |",
        "|---|---|",
        f"| command | `{command}` |",
        f"| started from | {training.init_from or 'fresh parameters'} |",
        f"| training data | {', '.join(config.data.mixture) or config.data.path} |",
        f"| steps | {step} of {training.steps}{_skipped(last, step)} |",
        f"| training tokens | {tokens:,}{padding if tokens < positions else ''} |",
        f"| parameters | {parameters.count(config.model):,} |",
    ]
    if last:
        lines.append(f"| training loss, last | {last['loss']:.4f} nats per token |")
    if ended_by:
        lines.append(f"| ended by | {ended_by} |")
    if validation:
        best = min(validation, key=lambda row: row["validation_loss"])
        lines.append(f"| validation loss, last | {_loss(validation[-1])} |")
        lines.append(f"| validation loss, best | {_loss(best)}, step {best['step']:.0f} |")
    lines += [
        f"| hardware | {devices} x {kind}, {jax.process_count()} process(es),"
        f" mesh {', '.join(f'{name} {size}' for name, size in mesh.shape.items())} |",
        f"| attention | {attention} |",
        f"| training time | {seconds / 3600:.4f} h, without compilation, validation, checkpoints and samples |",
        f"| compute | {flops:.3e} FLOP: {utilization.flops_convention} |",
        f"| MFU | {_mfu(rows, utilization)} |",
        f"| versions | {', '.join(f'{name} {version}' for name, version in runtime.versions().items())} |",
        f"| git commit | {_git_commit()} |",
        "",
        "Curves: `loss.png`; numbers: `metrics.jsonl`; starts: `sessions.json`; settings as resolved: `config.yaml`.",
        "",
        *_environment(config, sessions),
        RISKS,
    ]
    write_text(path, "\n".join(lines))


def _skipped(last: Row | None, step: int) -> str:
    if last is None:
        return ""
    until = f" up to step {last['step']:.0f}" if last["step"] < step else ""
    return f", {last.get('skipped_in_all', 0):.0f} of them skipped{until}"


def _loss(row: Row) -> str:
    text = f"{row['validation_loss']:.4f} nats per token"
    return text + f", {row['bits_per_byte']:.4f} bits per byte" if "bits_per_byte" in row else text


def _mfu(rows: list[Row], utilization: Utilization) -> str:
    share = mean_mfu(rows)
    known = f"{100 * share:.1f} %: " if share is not None else ""
    return known + utilization.convention()


def _environment(config: Config, sessions: list[Session]) -> list[str]:
    """What a model card asks of a model's environmental impact, answered."""
    training = config.training
    kinds = list(dict.fromkeys(session.device_kind for session in sessions))
    hardware = [
        " or ".join(str(n) for n in dict.fromkeys(one.devices for one in sessions if one.device_kind == kind))
        + f" x {kind}"
        for kind in kinds
    ]
    seconds = sum(session.seconds for session in sessions)
    hours = [(session.seconds / 3600 * session.devices, session.device_kind) for session in sessions]
    kwh, how = energy(hours, training.device_watts)
    grid = training.grid_gco2_per_kwh
    starts = f"{len(sessions)} starts" if len(sessions) > 1 else "1 start"
    return [
        "## Environmental impact",
        "",
        "| | |",
        "|---|---|",
        f"| hardware type | {', '.join(hardware)} |",
        f"| hours used | {seconds / 3600:.4f} h, {sum(count for count, _ in hours):.4f} device-hours, in {starts} |",
        f"| cloud provider | {training.cloud_provider} |",
        f"| compute region | {training.compute_region} |",
        f"| energy | {how if kwh is None else f'{kwh:.4f} kWh'} |",
        f"| carbon emitted | {'unknown, as the energy is' if kwh is None else f'{kwh * grid:.2f} g of CO2'} |",
        "",
        "Hours are those of the clock on the wall, of all starts of the run together: compilation, validation, saving"
        " and steps that were done again after a kill are in them; what came after a killed start's last note"
        " (`sessions.json`) is not.",
        *(
            [f"Energy is device-hours times power, {how}; host, network and cooling are left out."]
            if kwh is not None
            else []
        ),
        f"Carbon is energy times {grid:g} g of CO2 per kWh (training.grid_gco2_per_kwh; 475 is the world's average, IEA"
        " 2019), in the manner of Lacoste et al. 2019; the making of the hardware is left out.",
        "",
    ]


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
