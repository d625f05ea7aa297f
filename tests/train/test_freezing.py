"""Parameters that are frozen stay the same bits, and nothing is kept for them."""

from typing import Any

import jax
import numpy as np
import pytest

from gpt2jax import parameters
from gpt2jax.config import Config, OptimizerConfig, TrainingConfig
from gpt2jax.errors import GPT2JaxError
from gpt2jax.train.freezing import frozen_rows
from gpt2jax.train.step import abstract_state, init_state, make_train_step
from tests.helpers import TINY, by_path, place_on, random_tokens

PATHS = [row.path for row in parameters.TABLE]


def make(optimizer: str = "adamw", **training: Any) -> Config:
    return Config(
        model=TINY,
        optimizer=OptimizerConfig(name=optimizer, learning_rate=1e-2, warmup_steps=0),  # type: ignore[arg-type]
        training=TrainingConfig(loss_chunk=16, **training),
    )


@pytest.mark.parametrize(
    ("patterns", "frozen"),
    [
        ((), []),
        (("wte",), ["wte"]),
        (("h/attn/*",), [path for path in PATHS if path.startswith("h/attn/")]),
        (("h/*",), [path for path in PATHS if path.startswith("h/")]),
        (("*/bias", "wpe"), ["wpe", *(path for path in PATHS if path.endswith("/bias"))]),
        (("w?e",), ["wte", "wpe"]),
    ],
)
def test_patterns_are_paths_of_the_table(patterns: tuple[str, ...], frozen: list[str]) -> None:
    assert frozen_rows(make(freeze=patterns)) == set(frozen)


@pytest.mark.parametrize(
    ("training", "message"),
    [
        ({"freeze": ("wtf",)}, r"training\.freeze: 'wtf': is no parameter's path \(nearest: wte\)"),
        ({"freeze": ("h/attm/*",)}, r"training\.freeze: 'h/attm/\*': .* \(nearest: h/attn/\*\)"),
        ({"freeze": ("*",)}, "nothing is left to train"),
        ({"freeze_layers": 3}, r"training\.freeze_layers: 3: should be at most model\.n_layer \(2\)"),
        ({"freeze": ("w*", "ln_f/*"), "freeze_layers": 2}, "nothing is left to train"),
    ],
)
def test_what_cannot_be_frozen_is_refused(training: dict[str, Any], message: str) -> None:
    with pytest.raises(GPT2JaxError, match=message):
        frozen_rows(make(**training))


@pytest.mark.parametrize("optimizer", ["adamw", "muon", "lion"])
@pytest.mark.parametrize("sizes", [(1, 1, 1), (2, 2, 2)])
def test_what_is_frozen_stays_the_same_bits_and_the_rest_learns(sizes: tuple[int, int, int], optimizer: str) -> None:
    config, place = make(optimizer, freeze=("wte", "h/attn/*"), freeze_layers=1), place_on(*sizes)
    state, step = init_state(config, place), make_train_step(config, place)
    # Minus zero is a bit pattern too, which adding zero would lose.
    state.params["h"]["ln_1"]["bias"] = -state.params["h"]["ln_1"]["bias"]
    before = by_path(jax.device_get(state.params))
    for seed in range(3):
        state, metrics = step(state, random_tokens(seed, 1, 8, 33))
    assert float(metrics["skipped"]) == 0
    for path, after in by_path(jax.device_get(state.params)).items():
        whole = path == "wte" or path.startswith("h/attn/")
        if whole:
            assert after.tobytes() == before[path].tobytes(), path
        elif path.startswith("h/"):
            assert after[0].tobytes() == before[path][0].tobytes(), path
            assert not np.array_equal(after[1], before[path][1]), path  # Twin: the block above learns.
        else:
            assert not np.array_equal(after, before[path]), path


def test_no_state_is_kept_for_what_is_frozen_whole() -> None:
    place = place_on(1, 1, 1)
    sizes = {path: leaf.size for path, leaf in by_path(parameters.abstract(TINY)).items()}

    def moments(config: Config) -> int:
        leaves = jax.tree.leaves(abstract_state(config, place).opt_state)
        return sum(leaf.size for leaf in leaves if leaf.ndim)

    assert moments(make()) == 2 * sum(sizes.values())
    left = sum(size for path, size in sizes.items() if path != "wte" and not path.startswith("h/attn/"))
    assert moments(make(freeze=("wte", "h/attn/*"))) == 2 * left
    assert moments(make(freeze_layers=2)) == 2 * sum(size for path, size in sizes.items() if path[:2] != "h/")
    assert moments(make(freeze_layers=1)) == 2 * sum(sizes.values())


def test_frozen_gradients_do_not_count_in_the_norm_that_is_clipped() -> None:
    place, windows_ABT1 = place_on(1, 1, 1), random_tokens(0, 1, 8, 33)
    norms = {}
    for name, training in (("all", {}), ("frozen", {"freeze": ("h/*",)}), ("block", {"freeze_layers": 1})):
        config = make(log_norms=True, **training)
        _, metrics = make_train_step(config, place)(init_state(config, place), windows_ABT1)
        norms[name] = {key: float(value) for key, value in metrics.items()}
    apart = [norms["all"][f"grad_norm/{path}"] ** 2 for path in PATHS if not path.startswith("h/")]
    assert norms["frozen"]["grad_norm"] == pytest.approx(sum(apart) ** 0.5, rel=1e-5)
    assert norms["frozen"]["grad_norm"] < norms["block"]["grad_norm"] < norms["all"]["grad_norm"]
