"""How long devices exchange: the links that a group of them spans, and what each kind of exchange sends over them."""

from collections.abc import Sequence

from gpt2jax.plan.topology import Topology
from gpt2jax.program import Collective


def seconds(collective: Collective, places: Sequence[tuple[int, ...]], topology: Topology) -> float:
    """Of all runs of ``collective``, by its bytes alone: latency is left out.

    Args:
        places: of each device in the order of the mesh: slice or node, then coordinates within.
    """
    members = [places[number] for number in collective.members]
    count = len(members)
    if count == 1:
        return 0.0
    share = collective.bytes * (count - 1) / count
    if collective.kind == "all-reduce":
        share *= 2  # A reduce-scatter, then an all-gather.
    elif collective.kind == "all-to-all" and topology.chip.torus:
        # In a ring each part goes on for a quarter of it on average, and takes links from others on its way.
        share = max(share, collective.bytes * count / 4)
    elif collective.kind == "collective-permute":
        share = collective.bytes
    inside, outside = _parts(members)
    if outside == 1:
        return share / rate(members, topology)
    # First within, then one part of the result across.
    across = share / inside / (topology.chip.outside_gbs * 1e9)
    return across + (share / rate(members[:inside], topology) if inside > 1 else 0.0)


def _wraps(topology: Topology, size: int) -> bool:
    """Whether a dimension of this size is a ring: in three dimensions all are, where every one is whole cubes."""
    sizes = topology.shape if topology.chip.torus == 3 else (size,)
    return all(size % topology.chip.wraps_at == 0 for size in sizes)


def _parts(members: list[tuple[int, ...]]) -> tuple[int, int]:
    """How many of them are in one slice or node, and how many slices or nodes there are."""
    outside = len({place[0] for place in members})
    return len(members) // outside, outside


def rate(members: Sequence[tuple[int, ...]], topology: Topology) -> float:
    """Bytes per second that each of them can send to the others of its slice or node: of a torus, one link in each
    direction along each dimension that the group spans, two when it goes round. Groups that lie side by side in one
    ring share its links, which is left out."""
    chip = topology.chip
    if not chip.torus:
        return chip.link_gbs * 1e9
    links = 0
    for axis, size in enumerate(topology.shape, 1):
        extent = len({place[axis] for place in members})
        if extent > 1:
            links += 2 if extent == size and _wraps(topology, size) else 1
    return links * chip.link_gbs * 1e9
