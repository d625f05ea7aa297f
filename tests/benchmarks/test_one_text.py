"""The trial kernels of ``benchmarks/one_text.py``, interpreted, against the model's own decoding."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import one_text
from gpt2jax import model, parameters
from gpt2jax.config import ModelConfig
from gpt2jax.generate.engine import decoding_dtype
from tests.helpers import relative_distance

# Widths and a cache that no block of the kernels divides.
CONFIG = ModelConfig(n_vocab=97, n_ctx=300, n_embd=96, n_head=3, n_layer=2, compute_dtype="bfloat16")
CLOSE = 0.02  # bfloat16: 0.004 a rounding, and a few of them in a row.


@functools.cache
def model_and_cache() -> tuple[Any, Any, Any]:
    """Parameters as XLA decodes them and turned, and a full cache."""
    params = jax.jit(parameters.init, static_argnames="config")(jax.random.key(0), config=CONFIG)
    params = jax.tree.map(lambda leaf: leaf + 0.05 * jax.random.normal(jax.random.key(1), leaf.shape), params)
    cast = jax.tree.map(lambda leaf, to: leaf.astype(to), params, parameters.tree(decoding_dtype(CONFIG)))
    shape = (1, CONFIG.n_head, CONFIG.n_ctx, CONFIG.head_dim)
    keys = iter(jax.random.split(jax.random.key(2), 2 * CONFIG.n_layer))
    cache = [{name: jax.random.normal(next(keys), shape, jnp.bfloat16) for name in "kv"} for _ in range(CONFIG.n_layer)]
    return parameters.unstack(cast, CONFIG), parameters.unstack(parameters.turn(cast), CONFIG), cache


def read(decode: Any, params: Any, position: int) -> tuple[jax.Array, Any]:
    _, _, cache = model_and_cache()
    # A function of its own each time, since JAX keeps what it traced by function.
    step = jax.jit(lambda *args: decode(*args, CONFIG))
    logits_1V, cache = step(params, jnp.array([7], jnp.int32), jnp.array([position], jnp.int32), cache)
    return logits_1V[0, : CONFIG.n_vocab], cache


@pytest.mark.parametrize("position", [0, 1, 127, 128, 299])
def test_a_token_is_read_as_xla_reads_it(position: int) -> None:
    plain, turned, before = model_and_cache()
    wanted_V, wanted = read(model.decode_step, plain, position)
    found_V, found = read(one_text.decode_step, turned, position)
    assert relative_distance(found_V, wanted_V) < CLOSE
    for one, other, old in zip(found, wanted, before, strict=True):
        for name in "kv":
            assert relative_distance(one[name][:, :, position], other[name][:, :, position]) < CLOSE
            rest = np.arange(CONFIG.n_ctx) != position
            assert np.array_equal(np.asarray(one[name])[:, :, rest], np.asarray(old[name])[:, :, rest])
    elsewhere_V, _ = read(one_text.decode_step, turned, (position + 150) % 300)
    assert relative_distance(elsewhere_V, wanted_V) > 2 * CLOSE


def test_more_outputs_than_programs_are_made_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    _, turned, _ = model_and_cache()
    wanted_V, _ = read(one_text.decode_step, turned, 20)
    monkeypatch.setattr(one_text, "PROGRAMS", 5)
    block: Any = one_text.read_block
    monkeypatch.setattr(one_text, "read_block", functools.partial(block.__wrapped__))
    found_V, _ = read(one_text.decode_step, turned, 20)
    assert relative_distance(found_V, wanted_V) < 1e-3


def test_past_its_end_a_cache_stays_as_it_is() -> None:
    _, turned, before = model_and_cache()
    _, after = read(one_text.decode_step, turned, CONFIG.n_ctx)
    assert all(np.array_equal(one[name], old[name]) for one, old in zip(after, before, strict=True) for name in "kv")
