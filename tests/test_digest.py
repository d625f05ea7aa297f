"""Digests: the same wherever an array lies, another one as soon as anything in it is another."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import NamedSharding, PartitionSpec

from gpt2jax import digest
from tests.helpers import MESHES, place_on


def array(shape: tuple[int, ...], dtype: Any = "float32") -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(dtype)


def on_device(values: np.ndarray) -> int:
    return digest.of_arrays({"": jnp.asarray(values)})[""]


def plain(values: np.ndarray) -> int:
    """The definition, in Python's own integers, an element at a time."""
    total = 0
    for place, word in enumerate(values.reshape(-1).view(f"u{values.dtype.itemsize}").tolist(), 1):
        x = word ^ (place * 0x9E3779B9 % 2**32)
        x = (x ^ x >> 16) * 0x21F0AAAD % 2**32
        x = (x ^ x >> 15) * 0xD35A2D97 % 2**32
        total += x ^ x >> 15
    return total % 2**32


@pytest.mark.parametrize("dtype", ["float32", jnp.bfloat16, "float16", "int32", "int8"])
@pytest.mark.parametrize("shape", [(), (0, 3), (5,), (7, 3), (2, 3, 4, 5)])
def test_host_and_device_compute_what_is_defined(shape: tuple[int, ...], dtype: Any) -> None:
    values = (100 * array(shape)).astype(dtype)
    assert digest.of_host(values) == on_device(values) == plain(values)


def test_large_arrays_are_summed_layer_by_layer_to_the_same() -> None:
    values = array((3, 300, 2, 50))
    assert values.size > digest._BLOCK
    assert digest.of_host(values) == on_device(values)
    assert digest.of_host(values) != on_device(values[::-1])


def test_a_digest_does_not_depend_on_the_mesh() -> None:
    values = array((2, 64, 3, 8, 64))
    wanted = digest.of_host(values)
    for sizes in MESHES:
        mesh = place_on(*sizes).mesh
        for spec in ((None, ("fsdp", "data"), None, "tensor"), (None,), (None, None, None, None, ("tensor", "fsdp"))):
            there = jax.device_put(values, NamedSharding(mesh, PartitionSpec(*spec)))
            assert digest.of_arrays({"": there})[""] == wanted
        # Twin: a shard in another's place.
        assert digest.of_arrays({"": jnp.roll(there, 8, axis=1)})[""] != wanted


@given(st.integers(0, 239), st.integers(0, 31))
def test_every_flipped_bit_changes_it(place: int, bit: int) -> None:
    values = array((2, 120))
    flipped = values.copy()
    flipped.reshape(-1).view(np.uint32)[place] ^= np.uint32(1 << bit)
    assert digest.of_host(flipped) != digest.of_host(values)
    assert on_device(flipped) != on_device(values)


def test_what_is_swapped_shifted_or_lost_changes_it() -> None:
    values = array((64, 32))
    others = [values[::-1], values[:, ::-1], np.roll(values, 1), values.T.reshape(64, 32), -values]
    swapped = values.copy()
    swapped[3, 5], swapped[40, 5] = values[40, 5], values[3, 5]
    zeroed = values.copy()
    zeroed[:, 16:] = 0
    digests = {digest.of_host(other) for other in (values, *others, swapped, zeroed)}
    assert len(digests) == 8
    # Zeros have places too: more of them are not the same.
    assert digest.of_host(np.zeros(8, "f4")) != digest.of_host(np.zeros(9, "f4"))
    # What has equal bits is equal, and 0 is not -0.
    assert digest.of_host(values) == digest.of_host(values.copy(order="F"))
    assert digest.of_host(np.array([0.0], "f4")) != digest.of_host(np.array([-0.0], "f4"))


def test_wide_elements_are_refused() -> None:
    with pytest.raises(TypeError, match="no digest for float64"):
        digest.of_host(np.zeros(3))
