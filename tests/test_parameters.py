"""The table of parameters and what derives from it."""

import dataclasses
import math
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpt2jax import parameters
from gpt2jax.config import ModelConfig, from_mapping
from gpt2jax.errors import GPT2JaxError
from gpt2jax.model import GPT2
from tests.helpers import TINY, by_path

Recipe = Literal["openai", "gpt2-paper", "human-preferences"]

init = jax.jit(parameters.init, static_argnames="config")


@pytest.mark.parametrize(
    ("name", "count", "flops"),
    [
        ("gpt2", 124_439_808, 8.55e8),
        ("gpt2-medium", 354_823_168, 2.425e9),
        ("gpt2-large", 774_030_080, 5.20e9),
        ("gpt2-xl", 1_557_611_200, 1.028e10),
    ],
)
def test_released_models_have_their_known_counts(name: str, count: int, flops: float) -> None:
    config = from_mapping({"model": name}, "here").model
    assert parameters.count(config) == count
    assert parameters.train_flops_per_token(config, 1024) == pytest.approx(flops, rel=1e-3)


def test_count_leaves_out_the_padding_alone() -> None:
    leaves = jax.tree.leaves(parameters.abstract(TINY))
    assert sum(leaf.size for leaf in leaves) - parameters.count(TINY) == (384 - 257) * 64


def test_paths_and_foreign_names_are_distinct() -> None:
    for column in ("path", "openai", "huggingface"):
        names = [getattr(parameter, column) for parameter in parameters.TABLE]
        assert len(set(names)) == len(names) == 16
    for parameter in parameters.TABLE:
        assert ("{i}" in parameter.openai) == ("{i}" in parameter.huggingface) == parameter.stacked


def test_weight_decay_is_for_kernels_and_embeddings() -> None:
    decayed = {parameter.path for parameter in parameters.TABLE if parameter.decay}
    assert decayed == {"wte", "wpe"} | {
        f"h/{name}/kernel" for name in ("attn/c_attn", "attn/c_proj", "mlp/c_fc", "mlp/c_proj")
    }


@pytest.mark.parametrize("config", [TINY, ModelConfig()], ids=["tiny", "gpt2"])
def test_linens_own_init_makes_the_tables_tree(config: ModelConfig) -> None:
    tokens_BT = jnp.zeros((1, 4), jnp.int32)
    made = jax.eval_shape(lambda key: GPT2(config).init(key, tokens_BT, True), jax.random.key(0))
    assert list(made) == ["params"]
    assert by_path(made["params"]) == by_path(parameters.abstract(config))


@pytest.mark.parametrize("recipe", get_args(Recipe))
@pytest.mark.parametrize("by", ["table", "linen"])
def test_fresh_parameters_have_the_released_statistics(
    recipe: Literal["openai", "gpt2-paper", "human-preferences"], by: str
) -> None:
    config = ModelConfig(n_vocab=300, n_ctx=256, n_embd=64, n_head=4, n_layer=4, init=recipe)
    if by == "table":
        params = init(jax.random.key(0), config)
    else:
        tokens_BT = jnp.zeros((1, 4), jnp.int32)
        params = jax.jit(GPT2(config).init, static_argnums=2)(jax.random.key(0), tokens_BT, True)["params"]
    for path, leaf in by_path(params).items():
        assert leaf.dtype == jnp.float32
        if path.endswith("scale"):
            assert (leaf == 1).all()
        elif path.endswith("bias"):
            assert (leaf == 0).all()
        else:
            values = np.asarray(leaf[:300] if path == "wte" else leaf)
            std = 0.01 if path == "wpe" else 0.02
            residual = path.endswith("c_proj/kernel")
            if recipe == "gpt2-paper" and residual:
                std /= math.sqrt(8)
            if recipe == "human-preferences" and path.endswith("kernel"):
                std = 1 / math.sqrt((256 if path == "h/mlp/c_proj/kernel" else 64) * (4 if residual else 1))
            assert values.std() == pytest.approx(std, rel=0.03)
            assert abs(values.mean()) < 4 * std / math.sqrt(values.size)
            if path.startswith("h/"):  # Each layer its own numbers.
                assert np.abs(np.corrcoef(values.reshape(4, -1)) - np.eye(4)).max() < 0.1
    assert (params["wte"][300:] == 0).all()
    assert params["wte"].shape == (384, 64)


def test_the_two_initialisations_differ_in_residual_kernels_alone() -> None:
    openai = init(jax.random.key(0), dataclasses.replace(TINY, init="openai"))
    paper = init(jax.random.key(0), dataclasses.replace(TINY, init="gpt2-paper"))
    for path, leaf in by_path(paper).items():
        assert bool((leaf == by_path(openai)[path]).all()) == (not path.endswith("c_proj/kernel")), path


def test_fresh_parameters_are_a_function_of_the_key() -> None:
    first, again, other = (init(jax.random.key(seed), TINY) for seed in (0, 0, 1))
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), first, again))
    random = [parameter.path for parameter in parameters.TABLE if parameter.init not in ("ones", "zeros")]
    for path in random:
        assert not (by_path(first)[path] == by_path(other)[path]).all(), path


def test_check_lists_everything_missing_unknown_and_misshapen() -> None:
    params = parameters.abstract(TINY)
    parameters.check(params, TINY)

    del params["ln_f"]["scale"]
    del params["h"]["mlp"]["c_fc"]["bias"]
    params["lm_head"] = jax.ShapeDtypeStruct((384, 64), jnp.float32)
    params["h"]["attn"]["masked_bias"] = jax.ShapeDtypeStruct((2,), jnp.float32)
    params["wpe"] = jax.ShapeDtypeStruct((31, 64), jnp.float32)
    params["h"]["attn"]["c_attn"]["kernel"] = jax.ShapeDtypeStruct((2, 64, 192), jnp.float32)
    with pytest.raises(GPT2JaxError) as caught:
        parameters.check(params, TINY)
    line = str(caught.value)
    assert "\n" not in line
    assert set(line.removeprefix("parameters: ").split("; ")) == {
        "ln_f/scale is missing",
        "h/mlp/c_fc/bias is missing",
        "lm_head is unknown",
        "h/attn/masked_bias is unknown",
        "wpe has shape (31, 64) instead of (32, 64)",
        "h/attn/c_attn/kernel has shape (2, 64, 192) instead of (2, 64, 3, 8, 8)",
    }


def test_unstacked_parameters_are_slices_of_the_stacked_ones() -> None:
    params = init(jax.random.key(0), TINY)
    unstacked = parameters.unstack(params, TINY)
    assert len(unstacked["h"]) == 2
    for layer, block in enumerate(unstacked["h"]):
        assert jax.tree.all(jax.tree.map(lambda a, b, i=layer: bool((a == b[i]).all()), block, params["h"]))
    assert unstacked["wte"] is params["wte"]


def test_turned_kernels_have_their_outputs_first() -> None:
    params = init(jax.random.key(0), TINY)
    turned = parameters.turn(params)
    for row, of in zip(parameters.TURNED, parameters.TABLE, strict=True):
        leaf, wanted = parameters.at(turned, row), parameters.at(params, of)
        assert leaf.shape == parameters.shape(row, TINY)
        ins, axes = of.inputs, "lwxyz"[: wanted.ndim]
        assert (
            leaf == jnp.einsum(f"{axes}->l{axes[1 + ins :]}{axes[1 : 1 + ins]}" if ins else f"{axes}->{axes}", wanted)
        ).all()
        assert (row == of) == (ins == 0)
    attention = turned["h"]["attn"]
    assert set(attention["c_attn"]) == {"turned", "bias"}
    assert attention["c_attn"]["turned"].shape == (2, 3, 8, 8, 64)
    assert attention["c_proj"]["turned"].shape == (2, 64, 8, 8)
    assert turned["h"]["mlp"]["c_fc"]["turned"].shape == (2, 256, 64)
