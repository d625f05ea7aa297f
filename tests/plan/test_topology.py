"""Names of topologies, the links that groups span, and how long exchanges over them take."""

import dataclasses

import numpy as np
import pytest

from gpt2jax.chips import CHIPS, known_chip
from gpt2jax.errors import GPT2JaxError
from gpt2jax.plan import network
from gpt2jax.plan.topology import Topology, coordinates, parse_topology
from gpt2jax.program import Collective


@pytest.mark.parametrize(
    ("name", "chip", "shape"),
    [
        ("v5e-256", "v5e", (16, 16)),
        ("v5litepod-16", "v5e", (4, 4)),
        ("v6e-8", "v6e", (2, 4)),
        ("v5p-512", "v5p", (4, 8, 8)),  # Google counts cores.
        ("v5p:8x8x8", "v5p", (8, 8, 8)),
        ("v4=4x4x4", "v4", (4, 4, 4)),
        ("h100-8", "h100", (1, 8)),
        ("H100-64", "h100", (8, 8)),
        ("h100-2", "h100", (1, 2)),
        ("a100-40gb-16", "a100-40gb", (2, 8)),
        ("h200:3x4", "h200", (3, 4)),
    ],
)
def test_names(name: str, chip: str, shape: tuple[int, ...]) -> None:
    topology = parse_topology(name)
    assert (topology.chip_name, topology.shape) == (chip, shape)
    assert topology.count == np.prod(shape)
    if topology.chip.torus:
        assert parse_topology(name, slices=3).count == 3 * topology.count
    else:
        with pytest.raises(GPT2JaxError, match=r"^slices: 3: goes with TPUs"):
            parse_topology(name, slices=3)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "should be a chip and how many, say v5e-256"),
        ("v5e", "should be a chip and how many"),
        ("v7e-8", r"no chip 'v7e' is known \(nearest: v"),
        ("v5e-17", "should be one of v5e-1, v5e-4, v5e-8, .*v5e-256, or a torus, say v5e:4x4"),
        ("v5p-7", "should be one of v5p-8, v5p-16"),
        ("v5e:4x4x4", "v5e has 2 dimensions, say v5e:16x16"),
        ("v5p:8x8", "v5p has 3 dimensions, say v5p:4x4x8"),
        ("h100-12", "a multiple of 8"),
        ("h100:2x16", "up to 8"),
        ("v5e:0x4", "0: a side of the torus should be 1, 2 or a multiple of 4"),
        ("v5e:3x5", "3: a side of the torus"),
    ],
)
def test_names_of_nothing(name: str, message: str) -> None:
    with pytest.raises(GPT2JaxError, match=message):
        parse_topology(name)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("TPU v5 lite", "v5e"),
        ("TPU v5", "v5p"),
        ("TPU v6 lite", "v6e"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA A100-SXM4-80GB", "a100"),
        ("NVIDIA A100-SXM4-40GB", "a100-40gb"),
        ("Tesla T4", "t4"),
    ],
)
def test_chips_are_known_by_what_jax_calls_them(kind: str, name: str) -> None:
    assert known_chip(kind) is CHIPS[name]


@pytest.mark.parametrize(
    "kind",
    ["cpu", "TPU v99", "NVIDIA L40S", "NVIDIA T400", "NVIDIA GH200 480GB", "NVIDIA H100 PCIe", "NVIDIA H100 NVL",
     "Tesla V100-SXM2-16GB", "NVIDIA A100-PCIE-40GB"],
)  # fmt: skip
def test_chips_that_are_not_listed_are_not_guessed(kind: str) -> None:
    assert known_chip(kind) is None


def places(topology: Topology) -> list[tuple[int, ...]]:
    return [coordinates(None, topology, number) for number in range(topology.count)]


@pytest.mark.parametrize(
    ("name", "members", "links"),
    [
        ("v5e-256", range(16), 2),  # One ring of the torus.
        ("v5e-256", range(256), 4),
        ("v5e-256", range(8), 1),  # Half of a ring is a line.
        ("v5e-64", range(8), 1),  # So is a whole side of a slice that does not wrap.
        ("v5e-64", range(64), 2),
        ("v5p:8x8x8", range(64), 4),
        ("v5p:8x8x8", range(512), 6),
        ("v5p:2x2x2", range(8), 3),
        ("v5p-64", range(32), 3),  # 2 x 4 x 4: no torus, as one side is no cube's.
    ],
)
def test_a_group_has_the_links_that_it_spans(name: str, members: range, links: int) -> None:
    topology = parse_topology(name)
    found = network.rate([places(topology)[number] for number in members], topology)
    assert found == links * topology.chip.link_gbs * 1e9


def seconds(kind: str, members: range, topology: Topology, size: float = 1e9) -> float:
    return network.seconds(Collective(kind, tuple(members), False, 1, size), places(topology), topology)


def test_what_each_exchange_sends() -> None:
    """By hand, of a gigabyte over a ring of 16 with two links of 45 GB/s."""
    topology = parse_topology("v5e-256")
    gathered = 1e9 * 15 / 16 / 90e9
    assert seconds("all-gather", range(16), topology) == pytest.approx(gathered)
    assert seconds("reduce-scatter", range(16), topology) == pytest.approx(gathered)
    assert seconds("all-reduce", range(16), topology) == pytest.approx(2 * gathered)
    # Each of 16 parts of 1/16 GB goes a quarter of the ring: 4 links, of two.
    assert seconds("all-to-all", range(16), topology) == pytest.approx(16 * 1e9 / 16 * 4 / 90e9)
    assert seconds("all-to-all", range(8), parse_topology("h100-8")) == pytest.approx(1e9 * 7 / 8 / 450e9)
    assert seconds("collective-permute", range(2), topology) == pytest.approx(1e9 / 45e9)
    assert seconds("all-reduce", range(1), topology) == 0.0


def test_between_slices_and_nodes_the_outer_network_counts() -> None:
    two = parse_topology("v5e-16", slices=2)
    # Over all 32: within a slice (a square of lines: two links), then each chip's 16th part across.
    share = 2 * 1e9 * 31 / 32
    expected = share / (2 * 45e9) + share / 16 / 3.125e9
    assert seconds("all-reduce", range(32), two) == pytest.approx(expected)
    gpus = parse_topology("h100-16")
    assert seconds("all-gather", range(8), gpus) == pytest.approx(1e9 * 7 / 8 / 450e9)
    across = 1e9 * 15 / 16
    assert seconds("all-gather", range(16), gpus) == pytest.approx(across / 450e9 + across / 8 / 50e9)


def test_the_table_of_chips_is_whole() -> None:
    for name, chip in CHIPS.items():
        figures = dataclasses.asdict(chip)
        needed = ("peak_tflops", "memory_gib", "memory_gbs", "link_gbs", "outside_gbs")
        assert all(figures[key] > 0 for key in needed), name
        assert (chip.torus > 0) == (chip.clock_ghz > 0) == (chip.matrix_width > 0) == (chip.wraps_at > 0), name
