"""An estimate as text for people."""

from collections.abc import Sequence

import numpy as np

from gpt2jax.plan.estimate import GPU_SHARE, Estimate
from gpt2jax.program import Collective

GIB = 2**30


def report(estimate: Estimate, tokens_to_train: float | None) -> str:
    """The whole of one estimate.

    Args:
        tokens_to_train: of a training run; None for sampling.
    """
    topology, chip, training = estimate.topology, estimate.topology.chip, tokens_to_train is not None
    mesh = ", ".join(f"{name} {size}" for name, size in estimate.mesh.items())
    slices = f" in {topology.slices} slices" if topology.slices > 1 else ""
    compiler = "libtpu" if chip.torus else "jax's plugin for CUDA"
    lines = [
        f"{topology.name}: {topology.count} x {topology.chip_name}{slices}, each {chip.memory_gib:g} GiB,"
        f" {chip.peak_tflops:g} TFLOP/s, {chip.memory_gbs:g} GB/s",
        f"mesh: {mesh}",
        f"compiled for: {f'it, by {compiler}' if estimate.own else 'CPU devices in its place'};"
        f" attention: {estimate.kernel}",
        "",
        f"{'memory of a chip':<34}{'GiB':>9}",
        *(f"  {name:<32}{size / GIB:>9.3f}" for name, size in estimate.memory.items()),
        f"  {'in all':<32}{estimate.total_bytes / GIB:>9.3f}  {fits(estimate)}",
        "",
        f"{'collectives':<34}{'runs':>9}{'among':>9}{'MiB':>12}",
    ]
    lines += [
        f"  {one.kind:<32}{one.count:>9}{len(one.members):>9}{one.bytes / 2**20:>12,.1f}  {_axes(one, estimate.mesh)}"
        + (", beside computation" if one.hidden else "")
        for one in estimate.collectives
    ] or ["  none"]
    terms = {
        "compute, at the peak": estimate.compute_seconds,
        "memory, at its peak": estimate.memory_seconds,
        "network, at its peak": estimate.network_seconds,
    }
    what = "a training step" if training else "a token in every row"
    lines += ["", f"{f'time of {what}':<34}{'ms':>9}"]
    lines += [
        f"  {name:<32}{1000 * seconds:>9.3f}" + ("  binds" if name.startswith(estimate.binds) else "")
        for name, seconds in terms.items()
    ]
    how = "by the compiler's cycles" if estimate.busy_parts else "no less than"
    lines += [
        f"  {'busy, ' + how:<32}{1000 * estimate.busy_seconds:>9.3f}",
        *(f"    {name:<30}{1000 * seconds:>9.3f}" for name, seconds in estimate.busy_parts.items() if seconds),
        f"  {'waiting for the network':<32}{1000 * estimate.exposed_seconds:>9.3f}",
        f"  {'estimated':<32}{1000 * estimate.seconds:>9.3f}",
        "",
        f"estimated MFU {100 * estimate.mfu:.3g} %, {estimate.tokens_per_second:,.0f} tokens/s"
        + ("" if estimate.busy_parts else ", at most"),
    ]
    if tokens_to_train is not None:
        days = tokens_to_train / estimate.tokens_per_second / 86400
        lines[-1] += f", {days:.3g} days for {tokens_to_train:.3g} tokens"
    return "\n".join(lines)


def _axes(collective: Collective, mesh: dict[str, int]) -> str:
    """The mesh axes along which its devices lie."""
    numbers = np.unravel_index(np.array(collective.members), tuple(mesh.values()))
    return " x ".join(name for name, places in zip(mesh, numbers, strict=True) if len(set(places.tolist())) > 1)


def fits(estimate: Estimate) -> str:
    over = (estimate.total_bytes - estimate.room) / GIB
    share = (
        ""
        if estimate.topology.chip.torus
        else f", which JAX takes of {estimate.topology.chip.memory_gib:g} ({GPU_SHARE})"
    )
    return f"of {estimate.room / GIB:.1f}{share}: " + ("fits" if estimate.fits else f"does not fit, by {over:.2f} GiB")


def table(found: Sequence[Estimate]) -> str:
    """A line for each estimate."""
    lines: list[tuple[str, ...]] = [
        ("data", "fsdp", "tensor", "micro-batches", "remat", "GiB", "ms", "MFU", "tokens/s", "binds")
    ]
    for one in found:
        mesh, config = one.mesh, one.config
        lines.append(
            (
                *(str(mesh[axis]) for axis in ("data", "fsdp", "tensor")),
                str(config.training.micro_batches),
                config.model.remat,
                f"{one.total_bytes / GIB:.2f}",
                f"{1000 * one.seconds:.1f}",
                f"{100 * one.mfu:.1f} %",
                f"{one.tokens_per_second:,.0f}",
                one.binds,
            )
        )
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(f"{cell:>{width}}" for cell, width in zip(line, widths, strict=True)) for line in lines)
