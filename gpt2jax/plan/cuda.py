"""NVIDIA GPUs as XLA's compiler for CUDA wants them described, so that it compiles for those that are not here."""

import dataclasses
import importlib.util

from gpt2jax.chips import Chip


@dataclasses.dataclass(frozen=True)
class Target:
    """What a chip's tables do not have. Bytes and numbers of one multiprocessor unless they say otherwise."""

    capability: tuple[int, int]
    """Compute capability."""
    multiprocessors: int
    shared: int
    """Kilobytes of shared memory, of which a block of Ampere and later gets one less."""
    threads: int
    lanes: int
    """Float32 operations a cycle."""
    cache: int
    """Megabytes of the second-level cache, of all."""
    ghz: float


# NVIDIA's CUDA C++ programming guide (compute capabilities) and its data sheets.
TARGETS = {
    "h200": Target((9, 0), 132, 228, 2048, 128, 50, 1.98),
    "h100": Target((9, 0), 132, 228, 2048, 128, 50, 1.98),
    "a100": Target((8, 0), 108, 164, 2048, 64, 40, 1.41),
    "a100-40gb": Target((8, 0), 108, 164, 2048, 64, 40, 1.41),
    "v100": Target((7, 0), 80, 96, 2048, 64, 6, 1.53),
    "l4": Target((8, 9), 58, 100, 1536, 128, 48, 2.04),
    "t4": Target((7, 5), 40, 64, 1024, 64, 4, 1.59),
}
# The oldest that CUDA 13 compiles for; the oldest that multiplies bfloat16.
OLDEST, AMPERE = (7, 5), (8, 0)


def compiles_for(chip_name: str) -> bool:
    """Whether jax's plugin for CUDA 13 is installed and compiles for this chip."""
    plugin = importlib.util.find_spec("jax_plugins") and importlib.util.find_spec("jax_plugins.xla_cuda13")
    return bool(plugin) and chip_name in TARGETS and TARGETS[chip_name].capability >= OLDEST


def has_cudnn_attention(chip_name: str) -> bool:
    """Whether cuDNN's attention in bfloat16 runs there: on Ampere and later."""
    return TARGETS[chip_name].capability >= AMPERE


def describe(chip_name: str, chip: Chip) -> str:
    """``stream_executor.GpuTargetConfigProto`` of XLA, as text."""
    target = TARGETS[chip_name]
    (major, minor), block = target.capability, target.shared - int(target.capability >= AMPERE)
    return f"""
gpu_device_info {{
  cuda_compute_capability {{ major: {major} minor: {minor} }}
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: {48 * 1024}
  shared_memory_per_core: {target.shared * 1024}
  shared_memory_per_block_optin: {block * 1024}
  threads_per_core_limit: {target.threads}
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  core_count: {target.multiprocessors}
  fpus_per_core: {target.lanes}
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: {chip.memory_gbs * 10**9:.0f}
  l2_cache_size: {target.cache * 2**20}
  clock_rate_ghz: {target.ghz}
  device_memory_size: {chip.memory_gib * 2**30:.0f}
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 12 patch: 0 }}
runtime_version {{ major: 13 minor: 0 patch: 0 }}
device_description_str: "NVIDIA {chip.kinds[0]}"
"""
