"""Weights for the tests of this folder: golden files of other programs, and ways to compare and to damage them."""

import shutil
from pathlib import Path
from typing import Any, get_args

import jax
import numpy as np

from gpt2jax import parameters
from gpt2jax.config import ModelConfig
from gpt2jax.parameters import Params
from gpt2jax.weights.convert import convert
from gpt2jax.weights.sources import load
from gpt2jax.weights.weights import Format, HeldWeights, Origin
from tests.helpers import by_path

GOLDEN = Path(__file__).parents[1] / "golden" / "weights"
FIXTURES = Path(__file__).parents[1] / "fixtures"
FORMATS: tuple[Format, ...] = get_args(Format)

GOLDEN_CONFIG = ModelConfig(n_vocab=20, n_ctx=8, n_embd=8, n_head=2, n_layer=2)


def same(left: Params, right: Params) -> bool:
    """Whether two trees of parameters hold the same bits."""
    a, b = by_path(left), by_path(right)
    return a.keys() == b.keys() and all(
        np.asarray(a[path]).dtype == np.asarray(b[path]).dtype
        and np.asarray(a[path]).tobytes() == np.asarray(b[path]).tobytes()
        for path in a
    )


def reference() -> Params:
    """The parameters of the golden model, by way of the plainest of its files."""
    return load(GOLDEN / "safetensors").params


def held(config: ModelConfig, seed: int = 0, encoding: Any = None) -> HeldWeights:
    """Random weights, every parameter of them, in memory."""
    rng = np.random.default_rng(seed)

    def leaf(parameter: parameters.Parameter) -> jax.Array:
        array = rng.standard_normal(parameters.shape(parameter, config), dtype=np.float32)
        if parameter.axes[0] == "vocab":
            array[config.n_vocab :] = 0.0
        return jax.numpy.asarray(array)

    return HeldWeights(Origin("held", "memory", config, encoding), parameters.tree(leaf))


def write(weights: HeldWeights, folder: Path, to: Format, **options: Any) -> Path:
    """``weights`` in a form, below ``folder``."""
    target = folder / (f"{to}.bin" if to == "llmc" else to)
    convert(weights, target, to, progress=False, **options)
    return target


def copied(source: Path, tmp_path: Path) -> Path:
    """A copy of a golden folder, to be damaged."""
    return Path(shutil.copytree(source, tmp_path / source.name))


def flip(path: Path, at: int) -> None:
    """Flip one bit of the byte at ``at`` (from the end when negative)."""
    raw = bytearray(path.read_bytes())
    raw[at] ^= 1
    path.write_bytes(raw)


def params_of(path: Path) -> Params:
    return load(path).params
