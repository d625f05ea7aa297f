"""Meshes, micro-batches and remat policies for a run, the promising ones compiled and ranked."""

import dataclasses
from collections import Counter
from collections.abc import Callable
from typing import Literal

from gpt2jax import lora, parameters
from gpt2jax.config import Config
from gpt2jax.errors import GPT2JaxError
from gpt2jax.plan.estimate import Estimate, plan_model, plan_training
from gpt2jax.plan.topology import Topology, devices
from gpt2jax.train.step import make_place
from gpt2jax.train.utilization import train_flops_per_token

Remat = Literal["none", "dots", "full"]
REMAT: tuple[Remat, ...] = ("none", "dots", "full")

# Bytes that a layer keeps for each token and unit of width, in bfloat16: what each policy keeps in the blocks.
_KEPT = {"none": 24.0, "dots": 20.0, "full": 2.0}
_AGAIN = {"none": 1.0, "dots": 1.1, "full": 4 / 3}


@dataclasses.dataclass(frozen=True)
class Candidate:
    config: Config
    guess_bytes: float
    guess_seconds: float


def candidates(config: Config, topology: Topology) -> list[Candidate]:
    """Every way to spread the run that divides, the most promising first, by a rough guess without compiling."""
    found = []
    count, rows = topology.count, config.training.batch_size
    for tensor in (size for size in _divisors(count) if size <= 8):
        for fsdp in _divisors(count // tensor):
            data = count // tensor // fsdp
            uncut = config.model.n_head % tensor or config.model.n_embd % fsdp
            if uncut or config.model.padded_vocab % (fsdp * tensor) or data % topology.slices:
                continue
            mesh = (data, fsdp, tensor)
            for parts in _divisors(rows // (data * fsdp)) if rows % (data * fsdp) == 0 else []:
                if parts % 2 ** len(config.training.ramp):  # A run that begins with a part of them needs whole ones.
                    continue
                found += [_guess(config, topology, mesh, parts, remat) for remat in REMAT]
    room = topology.chip.memory_gib * 2**30
    # Guesses err: what seems too large by little is worth a look, behind what fits.
    found = [one for one in found if one.guess_bytes < 1.3 * room]
    found.sort(key=lambda one: (one.guess_bytes > room, one.guess_seconds))
    # The best of each tensor size, then the second best, and so on: guesses of unlike things compare badly.
    rank: Counter[int] = Counter()
    ranked = []
    for place, one in enumerate(found):
        tensor = one.config.mesh.tensor
        ranked.append((one.guess_bytes > room, rank[tensor], place, one))
        rank[tensor] += 1
    return [one for *_, one in sorted(ranked, key=lambda item: item[:3])]


def _divisors(number: int) -> list[int]:
    return [size for size in range(1, number + 1) if number % size == 0]


def _guess(config: Config, topology: Topology, mesh: tuple[int, int, int], parts: int, remat: Remat) -> Candidate:
    data, fsdp, tensor = mesh
    model, chip = config.model, topology.chip
    count = parameters.count(model)
    learned = lora.count(config.lora, model) if config.lora.rank else count
    tokens = config.training.batch_size * model.n_ctx / (data * fsdp)
    held = (4.0 * count + 12.0 * learned) / (fsdp * tensor)
    held += _KEPT[remat] * model.n_layer * model.n_embd * tokens / parts / tensor
    held += 8.0 * config.training.loss_chunk / model.n_ctx * model.padded_vocab * tokens / parts / tensor
    flops = tokens / tensor * train_flops_per_token(config) * _AGAIN[remat]
    moved = (4.0 * count + 24.0 * learned) / (fsdp * tensor)
    seconds = flops / (0.6 * chip.peak_tflops * 1e12) + moved / (chip.memory_gbs * 1e9)
    ring = 2 * chip.link_gbs * 1e9
    gathered = 3 * parts * 2.0 * count / tensor * (fsdp - 1) / fsdp
    reduced = 2 * 4.0 * learned / (fsdp * tensor) * (data - 1) / data
    passed = 8 * 2.0 * model.n_layer * model.n_embd * tokens * (tensor - 1) / tensor
    seconds += (gathered + reduced + passed) / ring + 1e-4 * parts
    chosen = dataclasses.replace(
        config,
        model=dataclasses.replace(model, remat=remat),
        mesh=dataclasses.replace(config.mesh, data=data, fsdp=fsdp, tensor=tensor),
        training=dataclasses.replace(config.training, micro_batches=parts),
    )
    return Candidate(chosen, held, seconds)


def search(config: Config, topology: Topology, tries: int, tell: Callable[[str], None]) -> list[Estimate]:
    """Compile the ``tries`` most promising ways, and return those that fit, the fastest first.

    Args:
        tell: hears a line for each.

    Raises:
        GPT2JaxError: nothing divides, or nothing fits.
    """
    chips, own = devices(topology)
    found: list[Estimate] = []
    tried, last = 0, ""
    for one in candidates(config, topology):
        if tried == tries:
            break
        try:
            make_place(dataclasses.replace(one.config, model=plan_model(config.model, topology, own)), chips)
        except GPT2JaxError as error:  # What training would refuse is not tried.
            last = str(error)
            continue
        tried += 1
        mesh = one.config.mesh
        what = (
            f"{tried} of {tries}: data {mesh.data}, fsdp {mesh.fsdp}, tensor {mesh.tensor},"
            f" {one.config.training.micro_batches} micro-batches, remat {one.config.model.remat}"
        )
        try:
            estimate = plan_training(one.config, topology)
        except GPT2JaxError as error:
            last = str(error)
            tell(f"{what}: {last}")
            continue
        tell(f"{what}: {1000 * estimate.seconds:.1f} ms{'' if estimate.fits else ', does not fit'}")
        if estimate.fits:
            found.append(estimate)
    if not tried:
        raise GPT2JaxError(
            f"search: no mesh of {topology.count} chips divides the model and {config.training.batch_size} sequences,"
            f" is allowed and has a chance to fit{'; the last one: ' + last if last else ''}"
        )
    if not found:
        raise GPT2JaxError(
            f"search: nothing of {tried} tried fits {topology.name}; the last one: {last or 'too large'}"
        )
    return sorted(found, key=lambda estimate: estimate.seconds)
