"""What more than one test file uses: the two foreign checkpoints, tiny settings, and a look inside a program, runs of
two processes."""

import contextlib
import math
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from gpt2jax import parameters
from gpt2jax.config import MeshConfig, ModelConfig
from gpt2jax.parameters import Parameter, Params
from gpt2jax.partition import Partition, Rules, make_mesh

FIXTURES = Path(__file__).parent / "fixtures"

# What programs that tests start have in their environment: a cache for all that they compile, of each process of
# pytest-xdist its own. With a size, jax locks it: in a cache without one, processes that run at once could read a
# program that is half written.
RUNS_CACHE = {
    "JAX_COMPILATION_CACHE_DIR": str(
        Path(__file__).parents[1] / ".cache" / f"jax-runs{os.environ.get('PYTEST_XDIST_WORKER', '')}"
    ),
    "JAX_COMPILATION_CACHE_MAX_SIZE": str(10**10),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
}

# 8 heads, and a width and a vocabulary that every mesh of 8 devices divides.
TINY = ModelConfig(n_vocab=257, n_ctx=32, n_embd=64, n_head=8, n_layer=2)

MESHES = [(8, 1, 1), (1, 8, 1), (1, 1, 8), (2, 2, 2), (4, 2, 1)]


class Checkpoint(NamedTuple):
    config: ModelConfig
    params: Params
    expected: dict[str, np.ndarray]


def from_foreign(read: Callable[[str], np.ndarray], column: str, config: ModelConfig) -> Params:
    """The parameters whose tensors ``read`` finds under the names in one column of the table."""

    def leaf(parameter: Parameter) -> jax.Array:
        size, name = parameters.shape(parameter, config), getattr(parameter, column)
        if parameter.stacked:
            return jnp.asarray(np.stack([read(name.format(i=i)).reshape(size[1:]) for i in range(config.n_layer)]))
        array = read(name)
        return jnp.asarray(np.pad(array, [(0, size[0] - array.shape[0])] + [(0, 0)] * (array.ndim - 1)))

    return parameters.tree(leaf)


def load_huggingface() -> Checkpoint:
    folder = FIXTURES / "hf_tiny"
    tensors = load_file(folder / "model.safetensors")
    config = ModelConfig(n_vocab=300, n_ctx=32, n_embd=32, n_head=4, n_layer=3)
    params = from_foreign(lambda name: tensors[f"transformer.{name}"], "huggingface", config)
    return Checkpoint(config, params, dict(np.load(folder / "expected.npz")))


def load_openai() -> Checkpoint:
    folder = FIXTURES / "openai_tf_tiny"
    config = ModelConfig(n_vocab=300, n_ctx=32, n_embd=16, n_head=2, n_layer=12)
    # The data file is the variables, one after the other, in the byte order of their names.
    data = np.fromfile(folder / "model.ckpt.data-00000-of-00001", "<f4")
    sizes: dict[str, tuple[int, ...]] = {}
    for parameter in parameters.TABLE:
        size = parameters.shape(parameter, config)
        if parameter.stacked:
            sizes |= {parameter.openai.format(i=i): size[1:] for i in range(config.n_layer)}
        else:
            sizes[parameter.openai] = (300, *size[1:]) if parameter.path == "wte" else size
    tensors, offset = {}, 0
    for name in sorted(sizes, key=str.encode):
        count = math.prod(sizes[name])
        tensors[name] = data[offset : offset + count].reshape(sizes[name])
        offset += count
    assert offset == data.size
    return Checkpoint(
        config, from_foreign(tensors.__getitem__, "openai", config), dict(np.load(folder / "expected.npz"))
    )


def shared_data(name: str) -> Path:
    """A real corpus that is not part of the project."""
    folder = Path(os.environ.get("GPT2JAX_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not (folder / name).is_file():
        pytest.skip(f"{name} is not in GPT2JAX_DATA or ../shared/data")
    return folder / name


def place_on(data: int, fsdp: int, tensor: int, rules: Rules | None = None) -> Partition:
    """A mesh of these sizes over the first devices."""
    devices = jax.devices()[: data * fsdp * tensor]
    return Partition(make_mesh(MeshConfig(data=data, fsdp=fsdp, tensor=tensor), devices), rules or Rules())


def random_tokens(seed: int, *shape: int, n_vocab: int = TINY.n_vocab) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).integers(n_vocab, size=shape), jnp.int32)


def by_path(tree: Any) -> dict[str, Any]:
    """Leaves under their paths, with ``/`` between keys."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def distance(left: Any, right: Any) -> float:
    """Largest absolute difference between two arrays or trees of arrays."""
    differences = jax.tree.map(lambda a, b: float(np.max(np.abs(np.asarray(a) - np.asarray(b)))), left, right)
    return float(np.max(jax.tree.leaves(differences)))  # Not max(): it would lose a NaN.


def relative_distance(left: Any, right: Any) -> float:
    """Largest over the leaves of: largest absolute difference over largest absolute value; 0 where both are 0."""

    def ratio(a: Any, b: Any) -> float:
        difference = distance(a, b)
        return difference and difference / float(np.max(np.abs(np.asarray(b))))

    ratios = jax.tree.map(ratio, left, right)
    return float(np.max(jax.tree.leaves(ratios)))


def equations(jaxpr: Any) -> Iterator[Any]:
    """Every equation of a jaxpr, those of the jaxprs inside it included."""
    for equation in jaxpr.eqns:
        yield equation
        for value in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda node: hasattr(node, "eqns")):
            if hasattr(value, "eqns"):
                yield from equations(value)


def count_primitive(name: str, function: Callable[..., Any], *args: Any) -> int:
    found = equations(jax.make_jaxpr(function)(*args).jaxpr)
    return sum(equation.primitive.name == name for equation in found)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def run_two_processes(code: str, folder: Path) -> None:
    """Run ``code`` as two processes at once, with ``folder``, a port to meet at and 0 or 1 as its arguments."""
    port = str(free_port())
    with contextlib.ExitStack() as stack:
        workers = []
        for process in range(2):
            command = [sys.executable, "-c", code, str(folder), port, str(process)]
            # Gloo prints to standard output.
            worker = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
            workers.append(stack.enter_context(worker))
            stack.callback(worker.kill)
        for worker in workers:
            _, errors = worker.communicate(timeout=120)
            assert worker.returncode == 0, errors
