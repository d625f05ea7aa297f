"""The mesh, the rules, and that both do something."""

import dataclasses
import itertools
import re
from collections import Counter
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpt2jax import parameters
from gpt2jax.config import Config, MeshConfig, ModelConfig, OptimizerConfig
from gpt2jax.errors import GPT2JaxError
from gpt2jax.model import forward
from gpt2jax.parameters import Params
from gpt2jax.partition import AXES, Partition, Rules, arrange, init_params, make_mesh
from gpt2jax.presets import preset
from gpt2jax.train.objective import loss_sum
from gpt2jax.train.step import TrainState, abstract_state, init_state
from tests.helpers import MESHES, TINY, by_path, place_on, random_tokens

WINDOW_BT1 = random_tokens(0, 8, 33)


def shares(place: Partition, path: str) -> tuple[int, ...]:
    """Into how many parts the rules cut each axis of a parameter, worked out by hand from the design."""
    fsdp, tensor = place.mesh.shape["fsdp"], place.mesh.shape["tensor"]
    return {
        "wte": (fsdp * tensor, 1),
        "wpe": (1, 1),
        "h/attn/c_attn/kernel": (1, fsdp, 1, tensor, 1),
        "h/attn/c_attn/bias": (1, 1, tensor, 1),
        "h/attn/c_proj/kernel": (1, tensor, 1, fsdp),
        "h/attn/c_proj/bias": (1, 1),
        "h/mlp/c_fc/kernel": (1, fsdp, tensor),
        "h/mlp/c_fc/bias": (1, tensor),
        "h/mlp/c_proj/kernel": (1, tensor, fsdp),
        "h/mlp/c_proj/bias": (1, 1),
    }.get(path, (1,) * (2 if path.startswith("h/") else 1))


@pytest.fixture(scope="module")
def one_device_params() -> Params:
    return init_params(jax.random.key(0), TINY, place_on(1, 1, 1))


@pytest.mark.parametrize("sizes", MESHES)
def test_fresh_parameters_are_the_same_bits_on_every_mesh_and_cut_by_the_rules(
    sizes: tuple[int, int, int], one_device_params: Params
) -> None:
    place = place_on(*sizes)
    shardings = by_path(place.params())
    for path, leaf in by_path(init_params(jax.random.key(0), TINY, place)).items():
        assert np.array_equal(leaf, by_path(one_device_params)[path]), path
        assert leaf.sharding.is_equivalent_to(shardings[path], leaf.ndim), path
        part = tuple(size // share for size, share in zip(leaf.shape, shares(place, path), strict=True))
        assert [shard.data.shape for shard in leaf.addressable_shards] == [part] * 8, path
    for path in ("wte", "h/mlp/c_fc/kernel"):
        assert np.prod(shares(place, path)) == sizes[1] * sizes[2]


@pytest.mark.parametrize(
    ("sizes", "optimizer"), [*((sizes, "adamw") for sizes in MESHES), ((2, 2, 2), "muon"), ((2, 2, 2), "lion")]
)
def test_optimizer_moments_live_beside_their_parameters(
    sizes: tuple[int, int, int], optimizer: Literal["adamw", "muon", "lion"]
) -> None:
    place, config = place_on(*sizes), Config(model=TINY, optimizer=OptimizerConfig(name=optimizer))
    state = init_state(config, place)
    planned = by_path(abstract_state(config, place))
    moments = 0
    for path, leaf in by_path(state).items():
        name = next((parameter.path for parameter in parameters.TABLE if path.endswith(f"/{parameter.path}")), None)
        assert leaf.sharding.is_equivalent_to(planned[path].sharding, leaf.ndim), path
        assert (leaf.shape, leaf.dtype) == (planned[path].shape, planned[path].dtype), path
        if name is None:
            assert leaf.ndim == 0 or path.endswith("/ns_coeffs"), path
            assert leaf.sharding.is_fully_replicated, path
        else:
            moments += "/mu/" in path or "/nu/" in path
            part = tuple(size // share for size, share in zip(leaf.shape, shares(place, name), strict=True))
            assert leaf.addressable_shards[0].data.shape == part, path
    kernels = sum(bool(parameter.inputs) for parameter in parameters.TABLE)
    # Muon keeps one moment of the kernels, Lion one of everything.
    assert (
        moments == 2 * len(parameters.TABLE) - {"adamw": 0, "muon": kernels, "lion": len(parameters.TABLE)}[optimizer]
    )


def run(place: Partition | None, inputs: Partition, what: str) -> Any:
    """The jitted forward pass, or loss and gradient, of arrays that live as ``inputs`` says."""
    batch = inputs.sharding("batch", None)
    if what == "forward":
        return jax.jit(
            lambda params, window: forward(params, window[:, :-1], TINY, partition=place),
            in_shardings=(inputs.params(), batch),
        )
    return jax.jit(
        jax.value_and_grad(lambda params, window: loss_sum(params, window, TINY, chunk=16, partition=place)[0]),
        in_shardings=(inputs.params(), batch),
        out_shardings=(inputs.sharding(), inputs.params()),
    )


def collectives(place: Partition | None, inputs: Partition, what: str) -> Counter[str]:
    """How often the compiled program communicates, by kind."""
    text = run(place, inputs, what).lower(parameters.abstract(TINY), WINDOW_BT1).compile().as_text()
    kinds = "all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter"
    return Counter(re.findall(rf" ({kinds})(?:-start)?\(", text))


def test_activations_stay_on_the_rules_where_the_compiler_alone_would_move_them() -> None:
    place = place_on(2, 2, 2)
    tokens_and_params = (parameters.abstract(TINY), WINDOW_BT1)
    logits = {
        name: run(partition, place, "forward").lower(*tokens_and_params).compile().output_shardings
        for name, partition in (("constrained", place), ("free", None))
    }
    assert logits["constrained"].is_equivalent_to(place.sharding("batch", "length", "logits"), 3)
    assert not logits["free"].is_equivalent_to(place.sharding("batch", "length", "logits"), 3)
    constrained, free = collectives(place, place, "gradient"), collectives(None, place, "gradient")
    assert constrained["all-to-all"] == constrained["collective-permute"] == 0
    assert free["all-to-all"] > 0
    assert constrained.total() < free.total()


def test_data_parallel_gradients_are_all_reduced_and_fsdp_kernels_gathered() -> None:
    data, fsdp = (collectives(place, place, "gradient") for place in (place_on(8, 1, 1), place_on(1, 8, 1)))
    assert set(data) == {"all-reduce"}
    assert fsdp["all-gather"] > 0


def test_other_rules_compile_to_another_program() -> None:
    usual, replicated = place_on(2, 2, 2), place_on(2, 2, 2, Rules(embed=(), heads=(), mlp=(), vocab=(), logits=()))
    assert collectives(usual, usual, "gradient") != collectives(replicated, replicated, "gradient")
    # The same inputs: what changes is what the model pins.
    elsewhere = place_on(2, 2, 2, Rules(batch=("data",), length=("fsdp",)))
    assert collectives(usual, usual, "gradient") != collectives(elsewhere, usual, "gradient")


@pytest.mark.parametrize(
    ("config", "batch", "sizes", "message"),
    [
        (
            ModelConfig(n_embd=48, n_head=6, n_layer=1),
            8,
            (1, 2, 4),
            "heads: 6: should be a multiple of the mesh's tensor (4)"
            "; mesh.tensor can be 1, 2, 3, 6 here; mesh.fsdp does not cut heads",
        ),
        (
            ModelConfig(n_embd=60, n_head=6, n_layer=1),
            8,
            (1, 8, 1),
            "embed: 60: should be a multiple of the mesh's fsdp (8)",
        ),
        (TINY, 6, (2, 2, 2), "batch: 6: should be a multiple of the mesh's data (2) x fsdp (2)"),
        (TINY, 4, (8, 1, 1), "batch: 4: should be a multiple of the mesh's data (8) x fsdp (1)"),
    ],
)
def test_sizes_that_the_mesh_does_not_divide_are_refused(
    config: ModelConfig, batch: int, sizes: tuple[int, int, int], message: str
) -> None:
    with pytest.raises(GPT2JaxError) as caught:
        place_on(*sizes).check(config, batch)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("tensor", "refused"), [(2, "heads: 25"), (4, "heads: 25"), (8, "heads: 25"), (5, "vocab: 50304")]
)
def test_the_25_heads_of_gpt2_xl_are_refused_with_the_way_out(tensor: int, refused: str) -> None:
    """5 divides the heads, but not the 128 n rows of the token table: this model is for fsdp."""
    xl, devices = ModelConfig(**preset("gpt2-xl")), jax.devices()[:tensor]  # type: ignore[arg-type]
    place = Partition(make_mesh(MeshConfig(data=1, tensor=tensor), devices))
    with pytest.raises(GPT2JaxError) as caught:
        place.check(xl)
    over = f"tensor ({tensor})" + (" x fsdp (1)" if refused.startswith("vocab") else "")
    advice = "mesh.tensor can be 1 here; mesh.fsdp does not cut heads"
    assert str(caught.value) == f"{refused}: should be a multiple of the mesh's {over}; {advice}"
    for fsdp in (2, 4, 8):
        place_on(1, fsdp, 1).check(xl)
    place_on(1, 1, 8).check(ModelConfig(**preset("gpt2-medium")))  # type: ignore[arg-type]


def test_sizes_that_the_mesh_divides_are_accepted() -> None:
    for sizes in MESHES:
        place_on(*sizes).check(TINY, 8)
        place_on(*sizes).check(TINY)
    place_on(1, 8, 1).check(ModelConfig())


@pytest.mark.parametrize(
    ("config", "sizes"),
    [
        (MeshConfig(), (8, 1, 1)),
        (MeshConfig(data=2, fsdp=-1), (2, 4, 1)),
        (MeshConfig(data=-1, fsdp=2, tensor=4), (1, 2, 4)),
        (MeshConfig(data=2, fsdp=2, tensor=2), (2, 2, 2)),
    ],
)
def test_minus_one_takes_the_rest_of_the_devices(config: MeshConfig, sizes: tuple[int, int, int]) -> None:
    mesh = make_mesh(config)
    assert mesh.axis_names == AXES
    assert tuple(mesh.shape.values()) == sizes


@pytest.mark.parametrize(
    ("config", "written"),
    [
        (MeshConfig(data=4), "data=4, fsdp=1, tensor=1"),
        (MeshConfig(data=16), "data=16, fsdp=1, tensor=1"),
        (MeshConfig(data=-1, tensor=3), "data=-1, fsdp=1, tensor=3"),
        (MeshConfig(data=16, fsdp=-1), "data=16, fsdp=-1, tensor=1"),
    ],
)
def test_sizes_that_do_not_make_up_the_devices_are_refused(config: MeshConfig, written: str) -> None:
    with pytest.raises(GPT2JaxError) as caught:
        make_mesh(config)
    assert str(caught.value) == f"mesh: {written}: should multiply to the number of devices, which is 8"


def test_a_mesh_can_be_of_some_devices() -> None:
    mesh = make_mesh(MeshConfig(data=2), jax.devices()[6:])
    assert list(mesh.devices.flat) == jax.devices()[6:]


def test_a_partition_is_hashable() -> None:
    assert hash(place_on(2, 2, 2)) == hash(place_on(2, 2, 2))
    assert place_on(2, 2, 2) == place_on(2, 2, 2)
    assert place_on(2, 2, 2) != place_on(2, 2, 2, Rules(embed=()))


def test_the_state_is_as_large_as_its_parts() -> None:
    state = abstract_state(Config(model=TINY), place_on(2, 2, 2))
    assert isinstance(state, TrainState)
    assert state.step.dtype == jnp.int32
    leaves = jax.tree.leaves((state.params, state.opt_state))
    floats = sum(leaf.size for leaf in leaves if leaf.dtype == jnp.float32)
    assert floats == 3 * sum(leaf.size for leaf in jax.tree.leaves(parameters.abstract(TINY)))


@dataclasses.dataclass(frozen=True)
class FakeChip:
    """What the placing of a mesh looks at."""

    id: int
    coords: tuple[int, int, int]
    slice_index: int = 0
    process_index: int = 0
    core_on_chip: int = 0
    platform: str = "tpu"
    device_kind: str = "TPU v5 lite"


def chips(width: int, height: int, slices: int = 1) -> list[FakeChip]:
    return [
        FakeChip(number, (x, y, 0), part)
        for number, (part, y, x) in enumerate(itertools.product(range(slices), range(height), range(width)))
    ]


def test_each_axis_of_a_mesh_gets_whole_rings_of_the_torus() -> None:
    mesh = arrange(chips(16, 16), (16, 16, 1))
    for axis in (0, 1):
        ring = np.moveaxis(mesh, axis, 0)[:, 3, 0]
        varying = [len({chip.coords[side] for chip in ring}) for side in (0, 1)]
        assert sorted(varying) == [1, 16]
    # In the order of their numbers the chips of a side of eight would snake through the torus.
    square = arrange(chips(8, 8), (4, 16, 1))
    sides = {tuple(len({chip.coords[side] for chip in square[row, :, 0]}) for side in (0, 1)) for row in range(4)}
    assert sides <= {(2, 8), (8, 2), (4, 4)}
    assert {chip.id for chip in square.ravel()} == set(range(64))


def test_data_goes_across_slices_and_the_rest_stays_inside() -> None:
    mesh = arrange(chips(4, 4, slices=2), (4, 8, 1))
    inside = [{chip.slice_index for chip in mesh[row].ravel()} for row in range(4)]
    assert inside == [{0}, {0}, {1}, {1}]
    with pytest.raises(GPT2JaxError, match=r"^mesh.data: 1: should be a multiple of the number of slices, which is 2$"):
        arrange(chips(4, 4, slices=2), (1, 32, 1))


def test_an_axis_that_is_no_product_of_the_torus_gets_parts_of_rings() -> None:
    cube = [FakeChip(n, (n // 16, n // 4 % 4, n % 4)) for n in range(64)]
    cube = [dataclasses.replace(chip, device_kind="TPU v5") for chip in cube]
    assert arrange(cube, (8, 8, 1)).shape == (8, 8, 1)


def test_gpus_of_a_node_stay_together() -> None:
    """And, though JAX numbers nodes as slices, fsdp may go across them."""
    gpus = [FakeChip(n, (0, 0, 0), n // 8, n // 8, platform="gpu", device_kind="NVIDIA H100") for n in range(16)]
    mesh = arrange(gpus, (2, 4, 2))
    assert [{gpu.process_index for gpu in mesh[row].ravel()} for row in range(2)] == [{0}, {1}]
    assert arrange(gpus, (1, 16, 1)).shape == (1, 16, 1)
