"""Digests of arrays: 32 bits that say whether an array is the one that was saved.

A digest is the sum, modulo 2**32, of a mixture of each element's bits with its place in the whole array. Integer sums
have no order, so it is the same however the array is cut over devices and processes, and each device reads its own
shards alone. The mixture is one to one for a given place: one element changed, by a bit or by all of them, always
changes the sum; any other damage, two elements swapped say, escapes with probability 2**-32.
"""

import math
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

# The multipliers and shifts of lowbias32 (Wellons, hash-prospector); the odd number next to 2**32 over the golden
# ratio spreads places over all bits.
_SHIFTS = (16, 15, 15)
_FACTORS = (0x21F0AAAD, 0xD35A2D97)
_PLACE = 0x9E3779B9
# Elements that are mixed at once on the host: what stays in a core's cache.
_BLOCK = 2**16


def paths(tree: Any) -> dict[str, Any]:
    """The leaves of ``tree`` under their paths, ``/`` between keys."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def of_arrays(arrays: dict[str, jax.Array]) -> dict[str, int]:
    """The digest of each array, computed where it lies. Every process of several must call this."""
    # A program for each shape, not one for all: a parameter and its two moments share theirs.
    values = jax.device_get([_of_leaf(array) for array in arrays.values()])
    return {name: int(value) for name, value in zip(arrays, values, strict=True)}


def of_host(array: np.ndarray) -> int:
    """The digest of an array in memory, equal to that of the same array on devices."""
    words = np.ascontiguousarray(array).reshape(-1).view(_word(array.dtype))

    def block(start: int) -> int:
        part = words[start : start + _BLOCK].astype(np.uint32)
        places = np.arange(start + 1, start + 1 + part.size, dtype=np.uint64).astype(np.uint32)
        places *= np.uint32(_PLACE)
        part ^= places
        part ^= part >> np.uint32(_SHIFTS[0])
        for factor, shift in zip(_FACTORS, _SHIFTS[1:], strict=True):
            part *= np.uint32(factor)
            part ^= part >> np.uint32(shift)
        return int(part.sum(dtype=np.uint64))

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as threads:
        return sum(threads.map(block, range(0, words.size, _BLOCK))) % 2**32


def _word(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The unsigned integer as wide as an element; wider ones than 32 bits are not in a state."""
    if dtype.itemsize > 4:
        raise TypeError(f"no digest for {dtype}")
    return np.dtype(f"u{dtype.itemsize}")


@jax.jit
def _of_leaf(array: jax.Array) -> jax.Array:
    """The digest as a uint32 scalar."""
    if array.ndim < 3 or array.size < _BLOCK:
        return _sum(array, jnp.uint32(1))

    # Layer by layer, an axis that no mesh cuts: on CPU what is mixed lies in memory before it is summed.
    def add(total: jax.Array, layer: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        index, values = layer
        return total + _sum(values, index * jnp.uint32(math.prod(values.shape) % 2**32) + jnp.uint32(1)), None

    layers = jnp.arange(array.shape[0], dtype=jnp.uint32)
    return jax.lax.scan(add, jnp.uint32(0), (layers, array))[0]


def _sum(array: jax.Array, first: jax.Array) -> jax.Array:
    """The sum of the mixture over ``array``, whose first element has place ``first`` (uint32 scalar)."""
    place = jnp.broadcast_to(first * jnp.uint32(_PLACE), array.shape)
    for axis in range(array.ndim):
        step = math.prod(array.shape[axis + 1 :]) * _PLACE % 2**32
        place += jax.lax.broadcasted_iota(jnp.uint32, array.shape, axis) * jnp.uint32(step)
    mixed = jax.lax.bitcast_convert_type(array, _word(array.dtype)).astype(jnp.uint32) ^ place
    mixed ^= mixed >> _SHIFTS[0]
    for factor, shift in zip(_FACTORS, _SHIFTS[1:], strict=True):
        mixed *= jnp.uint32(factor)
        mixed ^= mixed >> shift
    return jnp.sum(mixed, dtype=jnp.uint32)
