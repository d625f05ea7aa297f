"""Memory of a training step: what ``gpt2jax plan`` says, and what a process holds at the peak while steps run.

Both are bytes of one device, on virtual CPU devices. Each remat policy is a process of its own. With ``--rounds`` above
0 the policies then step in turn, for their time. A model in bfloat16 is measured as the program that plan compiles for
GPUs; a CPU computes its products in float32, with copies for that. ``memory.md`` is made of the records.
"""

import argparse
import dataclasses
from typing import Any

from benchmarks import results, table, turns
from gpt2jax import tables
from gpt2jax.config import Config, LoraConfig, MeshConfig, ModelConfig, OptimizerConfig, TrainingConfig
from gpt2jax.files import write_text
from gpt2jax.partition import AXES
from gpt2jax.plan.estimate import plan_model
from gpt2jax.plan.topology import parse_topology
from gpt2jax.presets import PRESETS

MIB = 2**20
SIZES: dict[str, dict[str, Any]] = {
    "toy": {"n_vocab": 256, "n_ctx": 64, "n_embd": 64, "n_head": 4, "n_layer": 2, "batch": 16},
    "4x256": {"n_vocab": 1024, "n_ctx": 256, "n_embd": 256, "n_head": 4, "n_layer": 4, "batch": 32},
    "6x384": {"n_vocab": 65, "n_ctx": 256, "n_embd": 384, "n_head": 6, "n_layer": 6, "batch": 16},
    "gpt2": PRESETS["gpt2"] | {"n_ctx": 256, "batch": 8},
    "gpt2-medium": PRESETS["gpt2-medium"] | {"n_ctx": 128, "batch": 8},
    "gpt2-large": PRESETS["gpt2-large"] | {"n_ctx": 64, "batch": 8},
}
REMAT = ("none", "attention", "dots", "full")


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--size", choices=SIZES, default="4x256")
    parser.add_argument("--mesh", type=int, nargs=3, default=(1, 8, 1), metavar=("DATA", "FSDP", "TENSOR"))
    parser.add_argument("--remat", nargs="+", choices=REMAT, default=REMAT)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--optimizer", choices=("adamw", "lion", "muon"), default="adamw")
    parser.add_argument("--rank", type=int, default=0, help="of adapters; 0: all parameters are learned")
    parser.add_argument("--parts", type=int, default=1, help="micro-batches")
    parser.add_argument("--n-ctx", type=int, help="default: the size's")
    parser.add_argument("--batch", type=int, help="default: the size's")
    parser.add_argument("--steps", type=int, default=1, help="in a turn")


def settings(remat: str, given: argparse.Namespace) -> Config:
    sizes = {name: value for name, value in SIZES[given.size].items() if name != "batch"}
    if given.n_ctx:
        sizes["n_ctx"] = given.n_ctx
    model = ModelConfig(**sizes | {"remat": remat})
    if given.dtype == "bfloat16":
        model = plan_model(model, parse_topology("h100-8"), own=False)
    # One device would take attention a head at a time, which keeps no weights whatever the policy.
    model = dataclasses.replace(model, compute_dtype=given.dtype, attention="xla")
    data, fsdp, tensor = given.mesh
    return Config(
        model=model,
        mesh=MeshConfig(data=data, fsdp=fsdp, tensor=tensor, max_whole=1.0),
        optimizer=OptimizerConfig(name=given.optimizer),
        lora=LoraConfig(rank=given.rank),
        training=TrainingConfig(batch_size=given.batch or SIZES[given.size]["batch"], micro_batches=given.parts),
    )


def side(config: Config) -> turns.Side:
    """The worker for these settings, on as many virtual devices as their mesh has."""
    sections = ("model", "mesh", "optimizer", "lora", "training")
    told = {section: dataclasses.asdict(getattr(config, section)) for section in sections}
    return turns.ours("our_memory.py", told | {"devices": config.mesh.data * config.mesh.fsdp * config.mesh.tensor})


def measure(given: argparse.Namespace) -> dict[str, Any]:
    configs = {remat: settings(remat, given) for remat in given.remat}
    sides = {remat: side(config) for remat, config in configs.items()}
    done, first = turns.in_turns(sides, given.steps, given.rounds, given.steps)
    config = configs[given.remat[0]]
    mesh = {name: getattr(config.mesh, name) for name in AXES}
    record = {
        "work": {
            "size": given.size,
            "mesh": ", ".join(f"{name} {size}" for name, size in mesh.items() if size > 1) or "one device",
            "n_ctx": config.model.n_ctx,
            "batch": config.training.batch_size,
            "parts": given.parts,
            "dtype": given.dtype,
            "optimizer": given.optimizer,
            "rank": given.rank,
            "remat": list(given.remat),
            "steps": given.steps,
            "rounds": given.rounds,
        },
        "load": turns.load(),
        "bytes": {remat: {name: round(value) for name, value in out.items()} for remat, out in first.items()},
    }
    return record | (turns.compare(done, given.steps) if given.rounds else {})


def named(record: dict[str, Any]) -> str:
    """The work of a record for people; what is as everywhere is left out."""
    work = record["work"]
    parts = [f"{work['size']}, {work['batch']} x {work['n_ctx']} tokens, {work['dtype']}"]
    if work["parts"] > 1:
        parts.append(f"{work['parts']} micro-batches")
    if work["optimizer"] != "adamw":
        parts.append(work["optimizer"])
    if work["rank"]:
        parts.append(f"adapters of rank {work['rank']}")
    return ", ".join(parts)


def held(records: list[dict[str, Any]]) -> list[list[str]]:
    """Planned and measured bytes, a line for each work and policy."""
    rows = [["work", "mesh", "remat", "planned", "measured", "planned / measured", "state, planned", "state, measured"]]
    for record in records:
        for remat, one in record["bytes"].items():
            numbers = (one[name] / MIB for name in ("planned", "measured", "planned_state", "measured_state"))
            planned, measured, state, state_measured = (f"{number:,.1f}" for number in numbers)
            ratio = f"{one['planned'] / one['measured']:.3f}"
            rows.append([named(record), record["work"]["mesh"], remat, planned, measured, ratio, state, state_measured])
    return rows


def exchanged(records: list[dict[str, Any]]) -> list[list[str]]:
    """Memory against time of the policies that took turns; of time the ratio to the first policy."""
    rows = [
        [
            "work",
            "remat",
            "planned",
            "measured",
            "beside the state, planned",
            "time",
            "range",
            "of the processor",
            "load",
        ]
    ]
    for record in records:
        for number, (remat, one) in enumerate(record["bytes"].items()):
            planned, measured = (f"{one[name] / MIB:,.1f}" for name in ("planned", "measured"))
            beside = f"{(one['planned'] - one['planned_state']) / MIB:,.1f}"
            time = ["1", "", "1"]
            if number:
                ratio = record["ratios"][remat]
                clock = ratio["clock"]
                time = [f"{clock['median']:.2f}", f"{clock['low']:.2f} to {clock['high']:.2f}"]
                time.append(f"{ratio['cpu']['median']:.2f}")
            rows.append([named(record), remat, planned, measured, beside, *time, str(record["load"])])
    return rows


def page(records: list[dict[str, Any]]) -> str:
    timed = [record for record in records if "sides" in record]
    parts = [
        "# Memory of a training step\n",
        "Made by `python -m benchmarks memory` of `memory.json`, which holds every run with its command and versions;\n"
        "the latest of each work is shown. MiB of one device. Planned: parameters, optimizer's state, and what the\n"
        "compiler lays out beside them, by the function that `gpt2jax plan` prints. Measured: the peak of the process\n"
        "while steps run, above what it holds before and after, divided by the number of virtual CPU devices\n"
        "(`benchmarks/workers/our_memory.py` says what is left out). What measured has above planned is in no\n"
        "buffer of the compiler; it is likely what the library of matrix products packs.\n",
        tables.markdown(held(records)),
    ]
    if timed:
        parts += [
            "## Remat: memory against time\n",
            "One CPU device, the policies in turn in one call; time is that of a step over the first policy's, median\n"
            "and range of neighbours in time. Load: of the machine; above 2 it had other work, and the processor's\n"
            "time tells more. On a GPU or TPU the attention kernel keeps no weights whatever the policy, so `none`\n"
            "there is what `attention` is here.\n",
            tables.markdown(exchanged(timed)),
        ]
    commands = list(dict.fromkeys(record["command"] for record in records))
    last = records[-1]
    versions = ", ".join(f"{package} {version}" for package, version in last["versions"].items())
    parts += [
        "## How\n",
        "```\n" + "\n".join(commands) + "\n```\n",
        f"{last['machine']}; {last['date']}; {versions}.\n",
    ]
    return "\n".join(parts)


def run(given: argparse.Namespace) -> None:
    record = results.add("memory", measure(given), None, given.results)
    results.show(record)
    print(tables.plain(held([record])))
    write_text(given.results / "memory.md", page(table.latest_of("memory", given.results)))
