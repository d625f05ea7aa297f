"""Sampling on chips that are not here: the engine's program compiled for them, a token in every row at a time."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from gpt2jax import parameters
from gpt2jax.config import Config, ModelConfig, SamplingConfig
from gpt2jax.generate import engine
from gpt2jax.generate.request import Request, Row, make_history, make_knobs, make_stops
from gpt2jax.generate.shapes import least_rows, row_bucket
from gpt2jax.parameters import Parameter, Params
from gpt2jax.partition import Partition, local_bytes, make_mesh
from gpt2jax.plan.estimate import Estimate, compile_for, estimate, plan_model, temporary_bytes
from gpt2jax.plan.topology import Topology, devices


def plan_generating(config: Config, topology: Topology, rows: int) -> Estimate:
    """Compile the sampling loop for ``rows`` texts at once, with room for the whole context, and estimate a turn of it.

    The program is that of as many rows as they are filled up to (:mod:`gpt2jax.generate.shapes`).

    Raises:
        GPT2JaxError: no such topology, or the mesh does not divide it or the model.
    """
    found, own = devices(topology)
    model = plan_model(config.model, topology, own)
    place = Partition(make_mesh(config.mesh, found))
    place.check(model)
    written = max(row_bucket(rows, place), least_rows("tpu" if topology.chip.torus else "gpu"))
    params, state = _params(model, place), _state(model, place, written)
    steps = jax.ShapeDtypeStruct((), jnp.int32)
    compiled = compile_for(topology, engine.advance.lower(params, state, steps, config=model, place=place))
    weights = parameters.count(model) - model.n_ctx * model.n_embd
    # Every row attends to the whole cache: its mask hides what is not there yet.
    flops_of_row = 2.0 * weights + 4.0 * model.n_layer * model.n_embd * model.n_ctx
    memory: dict[str, float] = {
        "parameters": local_bytes(params),
        "keys and values": local_bytes(state.cache),
        "the rest of the state": local_bytes(dataclasses.replace(state, cache=[])),
    }
    memory["temporaries"] = temporary_bytes(compiled, own and bool(topology.chip.torus), sum(memory.values()))
    return estimate(
        config, topology, place, own, "our own, against the cache", compiled, memory, rows, in_loop=True,
        model_flops=rows * flops_of_row, flops=written * flops_of_row / topology.count, kernel_flops=0.0,
    )  # fmt: skip


def _params(config: ModelConfig, place: Partition) -> Params:
    """What :func:`gpt2jax.generate.engine.decoding_params` gives, without memory."""
    dtype = engine.decoding_dtype(config)

    def leaf(row: Parameter) -> Any:
        shape, axes = parameters.shape(row, config), row.axes
        if not row.stacked:
            return jax.ShapeDtypeStruct(shape, jnp.dtype(dtype(row)), sharding=place.sharding(*axes))
        one = jax.ShapeDtypeStruct(shape[1:], jnp.dtype(dtype(row)), sharding=place.sharding(*axes[1:]))
        return [one] * config.n_layer

    stacked = parameters.tree(leaf)
    return parameters.unstack(stacked, config)


def _state(config: ModelConfig, place: Partition, rows: int) -> engine.SamplingState:
    """The loop's state with a full context, without memory."""
    sampling = SamplingConfig(max_new_tokens=config.n_ctx)
    one = [Row.of(Request((0,), sampling), 0)]

    def abstract(leaf: jax.Array) -> Any:
        sharding = place.sharding("batch", *[None] * (leaf.ndim - 1))
        return jax.ShapeDtypeStruct((rows, *leaf.shape[1:]), leaf.dtype, sharding=sharding)

    def array(dtype: Any, *shape: int) -> jax.Array:
        return jnp.zeros((1, *shape), dtype)

    number = array(jnp.int32)
    fixed = engine.Rows(
        knobs=make_knobs([sampling], 1, config, None), seed_B=array(jnp.uint32), index_B=number, offset_B=number,
        before_B=number, first_B=number, limit_B=number, stop_BM=make_stops([sampling], 1, None),
    )  # fmt: skip
    state = engine.SamplingState(
        rows=fixed, tokens_BS=array(jnp.int32, config.n_ctx), position_B=number, done_B=array(bool),
        history=make_history(one, 1, config), log_prob_BS=array(jnp.float32, config.n_ctx),
        top_token_BSN=array(jnp.int32, config.n_ctx, 0), top_log_prob_BSN=array(jnp.float32, config.n_ctx, 0), cache=[],
    )  # fmt: skip
    layer = jax.ShapeDtypeStruct(
        (rows, config.n_head, config.n_ctx, config.head_dim),
        jnp.dtype(config.compute_dtype),
        sharding=place.sharding("batch", "heads", None, None),
    )
    cache: Any = [{"k": layer, "v": layer} for _ in range(config.n_layer)]
    return dataclasses.replace(jax.tree.map(abstract, state), cache=cache)
