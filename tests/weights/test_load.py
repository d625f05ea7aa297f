"""Weights go straight to the shards of a mesh, and only into the model that they are of."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gpt2jax
from gpt2jax import parameters, tokenizer
from gpt2jax.errors import GPT2JaxError
from gpt2jax.parameters import Parameter
from gpt2jax.weights import arrays
from gpt2jax.weights.sources import open_weights
from gpt2jax.weights.weights import Format, HeldWeights, Origin, Weights, load_params
from tests.helpers import TINY, by_path, place_on
from tests.weights.helpers import FORMATS, GOLDEN, held, same, write

MESHES = [(1, 1, 1), (8, 1, 1), (1, 8, 1), (1, 1, 8), (2, 2, 2)]


@pytest.mark.parametrize("to", FORMATS)
@pytest.mark.parametrize("mesh", MESHES)
def test_every_form_loads_onto_every_mesh(tmp_path: Path, to: Format, mesh: tuple[int, int, int]) -> None:
    weights = held(TINY)
    place = place_on(*mesh)
    params = load_params(open_weights(write(weights, tmp_path, to)), place)
    assert same(params, weights.params)
    shardings = by_path(place.params())
    for path, leaf in by_path(params).items():
        assert leaf.sharding.is_equivalent_to(shardings[path], leaf.ndim), path


class Watched(Weights):
    """Weights that note what was read of them, and what was held at once."""

    def __init__(self, weights: HeldWeights) -> None:
        self.origin, self.weights = weights.origin, weights
        self.read_layers: list[tuple[str, int]] = []
        self.releases = 0

    def read(self, parameter: Parameter, layer: int) -> np.ndarray:
        self.read_layers.append((parameter.path, layer))
        return self.weights.read(parameter, layer)

    def release(self) -> None:
        self.releases += 1


def test_no_device_gets_more_than_its_shard_and_replicas_share_a_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[int, ...]] = []
    allocate = arrays.aligned_empty

    def noted(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        made.append(shape)
        return allocate(shape, dtype)

    monkeypatch.setattr("gpt2jax.weights.weights.aligned_empty", noted)
    place = place_on(2, 2, 2)
    watched = Watched(held(TINY))
    params = load_params(watched, place)
    wanted = []
    for row in parameters.TABLE:
        leaf = by_path(params)[row.path]
        shard = leaf.addressable_shards[0].data.shape
        assert all(piece.data.shape == shard for piece in leaf.addressable_shards)
        wanted += [shard] * len({str(piece.index) for piece in leaf.addressable_shards})
    assert made == wanted
    # Sharded over fsdp and tensor, copied over data: of its 8 devices' shards, 4 are different.
    assert made.count((2, 32, 3, 4, 8)) == 4
    assert watched.releases == len(parameters.TABLE)


def test_the_arrays_of_jax_are_those_that_were_filled(monkeypatch: pytest.MonkeyPatch) -> None:
    """On CPU jax takes an aligned array over; a copy would double the memory while it lasts."""
    filled: list[int] = []
    allocate = arrays.aligned_empty

    def noted(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        array = allocate(shape, dtype)
        filled.append(array.ctypes.data)
        return array

    monkeypatch.setattr("gpt2jax.weights.weights.aligned_empty", noted)
    params = load_params(held(TINY), place_on(1, 1, 1))
    assert {leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(params)} == set(filled)


def test_blocks_can_be_loaded_one_by_one(tmp_path: Path) -> None:
    """As decoding wants them, from every kind of source: the numbers, dtypes and shards of the stacked ones."""
    weights, place = held(TINY), place_on(2, 2, 2)

    def dtype(parameter: Parameter) -> arrays.DType:
        return "bfloat16" if parameter.inputs else "float32"

    dtypes = parameters.tree(dtype)
    wanted = jax.tree.map(lambda leaf, to: leaf.astype(to), load_params(weights, place), dtypes)
    for to in ("huggingface", "orbax", "openai"):
        found = load_params(open_weights(write(weights, tmp_path, to)), place, dtype=dtype, stacked=False)
        assert same(found, parameters.unstack(wanted, TINY))
        assert not same(found | {"h": found["h"][::-1]}, parameters.unstack(wanted, TINY))
        assert found["h"][1]["attn"]["c_attn"]["kernel"].dtype == jnp.bfloat16
        whole = wanted["h"]["attn"]["c_attn"]["kernel"].addressable_shards[0].data.shape
        assert all(
            block["attn"]["c_attn"]["kernel"].addressable_shards[0].data.shape == whole[1:] for block in found["h"]
        )


@pytest.mark.parametrize("to", FORMATS)
def test_kernels_can_be_loaded_turned(tmp_path: Path, to: Format) -> None:
    """As a CPU decodes them: the numbers of the others, each where its axes lie."""
    weights, place = held(TINY), place_on(2, 2, 2)
    wanted = parameters.turn(weights.params)
    source = open_weights(write(weights, tmp_path, to))
    found = load_params(source, place, turned=True)
    assert same(found, wanted)
    for row in parameters.TURNED:
        leaf = parameters.at(found, row)
        assert leaf.sharding.is_equivalent_to(place.sharding(*row.axes), leaf.ndim), row.path
    assert same(load_params(source, place_on(1, 1, 1), turned=True, stacked=False), parameters.unstack(wanted, TINY))
    swapped = found["h"]["attn"]["c_proj"]
    swapped["turned"] = swapped["turned"].swapaxes(-1, -2)
    assert not same(found, wanted)


def test_donating_loaded_parameters_is_safe() -> None:
    """Their memory is numpy's; a step that reuses it must neither fail nor change what is read again."""
    weights = held(TINY)
    params = load_params(weights, place_on(1, 1, 1))
    step = jax.jit(lambda tree: jax.tree.map(lambda leaf: leaf + 1.0, tree), donate_argnums=0)
    for _ in range(3):
        params = step(params)
    wanted = jax.tree.map(lambda leaf: ((leaf + 1.0) + 1.0) + 1.0, weights.params)
    assert same(params, wanted)


def test_a_shorter_context_takes_the_first_positions(tmp_path: Path) -> None:
    weights = held(TINY)
    shorter = dataclasses.replace(TINY, n_ctx=16)
    for to in ("huggingface", "orbax"):
        params = load_params(open_weights(write(weights, tmp_path, to)), place_on(2, 2, 2), shorter)
        assert same(params, weights.params | {"wpe": weights.params["wpe"][:16]})


def test_another_model_is_refused_with_all_that_differs() -> None:
    other = dataclasses.replace(TINY, n_vocab=300, n_ctx=64, n_layer=3, layer_norm_epsilon=1e-6)
    with pytest.raises(GPT2JaxError) as caught:
        load_params(held(TINY), place_on(1, 1, 1), other)
    assert str(caught.value) == (
        "memory: model.n_vocab: 300: the weights have 257; model.n_layer: 3: the weights have 2;"
        " model.layer_norm_epsilon: 1e-06: the weights have 1e-05; model.n_ctx: 64: the weights have 32"
    )


def test_a_mesh_that_does_not_divide_the_model_is_refused() -> None:
    with pytest.raises(GPT2JaxError, match=r"heads: 2: should be a multiple of the mesh's tensor \(8\)"):
        load_params(open_weights(GOLDEN / "safetensors"), place_on(1, 1, 8))


def test_load_gives_parameters_settings_and_tokenizer(tmp_path: Path) -> None:
    weights = held(TINY, encoding=tokenizer.byte_level())
    params, config, encoding = gpt2jax.load(write(weights, tmp_path, "huggingface"))
    assert same(params, weights.params)
    assert config == TINY
    assert encoding is tokenizer.byte_level()
    assert all(leaf.sharding.device_set == {jax.devices()[0]} for leaf in jax.tree.leaves(params))
    on_mesh = gpt2jax.load(tmp_path / "huggingface", place_on(1, 4, 2)).params
    assert same(on_mesh, params)
    assert len(on_mesh["wte"].sharding.device_set) == 8


def test_progress_reaches_its_end() -> None:
    reports: list[tuple[int, int]] = []
    load_params(held(TINY), place_on(1, 1, 1), progress=lambda done, total: reports.append((done, total)))
    size = sum(leaf.size * 4 for leaf in jax.tree.leaves(parameters.abstract(TINY)))
    assert reports[-1] == (size, size)
    assert [done for done, _ in reports] == sorted({done for done, _ in reports})


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_copy_is_exact_for_any_view(dtype: arrays.DType) -> None:
    rng = np.random.default_rng(0)
    matrix = rng.standard_normal((3, 5, 600)).astype(arrays.FLOATS[dtype])
    for view in (
        matrix,
        matrix.transpose(2, 0, 1),
        matrix.transpose(1, 2, 0),
        matrix[:, ::2],
        matrix[0].T,
        matrix[0, 0],
    ):
        target = np.full(view.shape, np.nan, np.float32)
        arrays.copy(target, view)
        assert np.array_equal(target, view.astype(np.float32))
    assert arrays.contiguous(matrix, dtype) is matrix
    assert np.array_equal(arrays.contiguous(matrix.T, dtype), matrix.T)


def test_held_weights_may_be_of_any_mesh() -> None:
    weights = held(TINY)
    spread = jax.device_put(weights.params, place_on(2, 2, 2).params())
    again = load_params(HeldWeights(Origin("held", "memory", TINY, None), spread), place_on(1, 1, 1))
    assert same(again, weights.params)
    assert not same(again, jax.tree.map(jnp.negative, weights.params))
