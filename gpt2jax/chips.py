"""Published figures of chips: for the estimate of a run before it, and for its report after it."""

import dataclasses
import re


@dataclasses.dataclass(frozen=True)
class Chip:
    """One accelerator as JAX counts devices. Rates are peaks; byte rates are in one direction."""

    kinds: tuple[str, ...]
    """What JAX's ``device_kind`` is or, for a GPU, holds as words of its own."""
    peak_tflops: float
    """Dense bfloat16 (float16 on T4 and V100), without sparsity."""
    memory_gib: float
    memory_gbs: float
    """GB/s between the chip and its memory."""
    link_gbs: float
    """GB/s of one link to one neighbour of a TPU, of all links of a GPU to the others of its node."""
    outside_gbs: float
    """GB/s of one chip to other slices or nodes."""
    watts: float | None = None
    """Board power."""
    torus: int = 0
    """Dimensions of the torus that TPUs are linked in; 0: GPUs, every one to every other of its node."""
    wraps_at: int = 0
    """A torus's dimension is a ring, and not a line, when its size is a multiple of this."""
    clock_ghz: float = 0.0
    """Of a TPU's matrix units: turns the compiler's cycles into seconds."""
    matrix_width: int = 0
    """Rows of a TPU's matrix unit; a product with fewer leaves the rest idle."""
    node: int = 8
    """GPUs of a node."""


# TPUs: Google Cloud's pages on v5e, v5p and v6e (peak, memory, bandwidth, shape of the interconnect); links and
# network between slices: Austin et al. 2025, "How to Scale Your Model", part 2. Clocks: the peak divided by what the
# matrix units do in a cycle. Google publishes no board power for these; Jouppi et al. 2023 give 192 W for v4.
# GPUs: NVIDIA's data sheets of the SXM form (L4, T4: PCIe), half of the NVLink figure for one direction; memory as
# nvidia-smi counts it, which is less than the name of some; between nodes what NVIDIA's DGX systems have for each GPU
# (one 400 Gbit/s port for H100 and later, 200 Gbit/s before).
CHIPS = {
    "v4": Chip(("TPU v4",), 275, 32, 1228, 45, 6.25, 192, torus=3, wraps_at=4, clock_ghz=1.05, matrix_width=128),
    "v5e": Chip(
        ("TPU v5 lite", "TPU v5e"), 197, 16, 819, 45, 3.125, torus=2, wraps_at=16, clock_ghz=1.5, matrix_width=128
    ),
    "v5p": Chip(("TPU v5", "TPU v5p"), 459, 95, 2765, 90, 6.25, torus=3, wraps_at=4, clock_ghz=1.75, matrix_width=128),
    "v6e": Chip(
        ("TPU v6 lite", "TPU v6e"), 918, 32, 1640, 90, 12.5, torus=2, wraps_at=16, clock_ghz=1.75, matrix_width=256
    ),
    "h200": Chip(("H200",), 989, 140, 4800, 450, 50, 700),
    "h100": Chip(("H100 80GB HBM3",), 989, 79.6, 3350, 450, 50, 700),
    "a100": Chip(("A100-SXM4-80GB",), 312, 80, 2039, 300, 25, 400),
    "a100-40gb": Chip(("A100-SXM4-40GB",), 312, 40, 1555, 300, 25, 400),
    "v100": Chip(("V100-SXM2-32GB", "V100-SXM3-32GB"), 125, 32, 900, 150, 12.5, 300),
    "l4": Chip(("L4",), 121, 22.5, 300, 32, 12.5, 72),
    "t4": Chip(("T4",), 65, 15, 320, 16, 12.5, 70),
}


def known_chip(kind: str) -> Chip | None:
    """The entry for JAX's ``device_kind``, or None: an unknown device gets no guessed figures."""
    for chip in CHIPS.values():
        named = kind in chip.kinds if chip.torus else any(re.search(rf"\b{name}\b", kind) for name in chip.kinds)
        if named and "PCIe" not in kind:
            return chip
    return None
