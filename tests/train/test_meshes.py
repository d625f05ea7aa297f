"""The same numbers on any mesh: loss, gradients and updates are those of one device, to the rounding of float32.

That parameters start as the same bits is in tests/test_partition.py. A distance is a leaf's largest difference over its
largest value; no limit is above five times what was measured.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpt2jax.config import Config, MeshConfig, OptimizerConfig, TrainingConfig
from gpt2jax.errors import GPT2JaxError
from gpt2jax.parameters import Params
from gpt2jax.partition import Partition, Rules, init_params
from gpt2jax.train import step as step_module
from gpt2jax.train.objective import loss_sum
from gpt2jax.train.step import init_state, make_eval_step, make_place, make_train_step
from tests.helpers import MESHES, TINY, by_path, place_on, random_tokens, relative_distance

# Two micro-batches of 8 sequences. Row r of the 16 counts 2 r + 1 of its 32 targets, so that no two rows, and no two
# devices or micro-batches, count as many.
WINDOWS_ABT1 = random_tokens(0, 2, 8, 33)
RANKS_RT = np.random.default_rng(1).permuted(np.tile(np.arange(32), (16, 1)), axis=1)
MASK_ABT = jnp.asarray(np.less(RANKS_RT, 2 * np.arange(16)[:, None] + 1).reshape(2, 8, 32), jnp.float32)
MASKS = {"all": jnp.ones((2, 8, 32), jnp.float32), "some": MASK_ABT}


@pytest.fixture(scope="module")
def fresh() -> Params:
    """Fresh parameters, off the devices."""
    params: Params = jax.device_get(init_params(jax.random.key(0), TINY, place_on(1, 1, 1)))
    return params


def gradient(place: Partition) -> Any:
    """Jitted ((sum of losses, sum of weights), gradient of the first) of parameters, windows and weights."""

    def weighted(params: Params, window_BT1: jax.Array, weights_BT: jax.Array) -> tuple[jax.Array, jax.Array]:
        return loss_sum(params, window_BT1, TINY, chunk=16, weights_BT=weights_BT, partition=place)

    batch, scalar = place.sharding("batch", None), place.sharding()
    return jax.jit(
        jax.value_and_grad(weighted, has_aux=True),
        in_shardings=(place.params(), batch, batch),
        out_shardings=((scalar, scalar), place.params()),
    )


def mean(parts: list[Any]) -> tuple[Any, Params]:
    """Loss and gradient of several batches together: summed, and divided once by all that was counted."""
    (total, count), grads = functools.reduce(functools.partial(jax.tree.map, np.add), jax.device_get(parts))
    return total / count, jax.tree.map(lambda grad: grad / count, grads)


def mean_of_means(parts: list[Any]) -> tuple[Any, Params]:
    """What it should not be: every batch divided by its own count, and the mean of those."""
    return mean([((loss, np.float32(1)), grads) for loss, grads in (mean([part]) for part in parts)])


def nearest(left: Any, right: Any) -> float:
    """The relative distance of the leaves that are nearest to each other."""
    return min(map(relative_distance, jax.tree.leaves(left), jax.tree.leaves(right)))


@pytest.fixture(scope="module")
def one_batch(fresh: Params) -> dict[str, tuple[Any, Params]]:
    """Loss and gradient by one device of all 16 sequences at once, with each mask."""
    of = gradient(place_on(1, 1, 1))
    return {
        name: mean([of(fresh, WINDOWS_ABT1.reshape(16, 33), mask_ABT.reshape(16, 32))])
        for name, mask_ABT in MASKS.items()
    }


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("sizes", [(1, 1, 1), *MESHES])
def test_loss_and_gradients_are_those_of_one_device_and_one_batch(
    sizes: tuple[int, int, int], name: str, fresh: Params, one_batch: dict[str, tuple[Any, Params]]
) -> None:
    place = place_on(*sizes)
    params, of = jax.device_put(fresh, place.params()), gradient(place)
    parts = [of(params, *batch) for batch in zip(WINDOWS_ABT1, MASKS[name], strict=True)]
    loss, grads = mean(parts)
    wanted_loss, wanted = one_batch[name]
    assert relative_distance(loss, wanted_loss) < 1e-6
    assert relative_distance(grads, wanted) < 3e-6
    # Twins: a micro-batch left out, and the mean of the means where they count unequally.
    assert nearest(mean(parts[:1])[1], wanted) > 0.5
    loss, grads = mean_of_means(parts)
    assert (relative_distance(loss, wanted_loss) > 5e-4) == (name == "some")
    assert (nearest(grads, wanted) > 0.3) == (name == "some")


@pytest.mark.parametrize("sizes", [(1, 1, 8), (2, 2, 2)])
def test_positions_cut_between_blocks_change_no_number_and_less_is_held(
    sizes: tuple[int, int, int], fresh: Params, one_batch: dict[str, tuple[Any, Params]]
) -> None:
    whole, cut = place_on(*sizes), place_on(*sizes, rules=Rules(sequence=("tensor",)))
    params, of = jax.device_put(fresh, cut.params()), gradient(cut)
    loss, grads = mean([of(params, *batch) for batch in zip(WINDOWS_ABT1, MASK_ABT, strict=True)])
    wanted_loss, wanted = one_batch["some"]
    assert relative_distance(loss, wanted_loss) < 1e-6
    assert relative_distance(grads, wanted) < 3e-6
    held = [
        gradient(place).lower(params, WINDOWS_ABT1[0], MASK_ABT[0]).compile().memory_analysis().temp_size_in_bytes
        for place in (whole, cut)
    ]
    assert held[1] < held[0]


def test_there_is_nothing_to_cut_positions_over_without_tensor() -> None:
    training = TrainingConfig(sequence_sharding=True)
    with pytest.raises(GPT2JaxError, match=r"needs mesh\.tensor above 1"):
        make_place(Config(model=TINY, mesh=MeshConfig(data=8), training=training))
    cut = make_place(Config(model=TINY, mesh=MeshConfig(data=4, tensor=2, max_whole=1.0), training=training))
    assert cut.rules.sequence == ("tensor",)


def test_the_mean_of_the_devices_means_is_another_number(
    fresh: Params, one_batch: dict[str, tuple[Any, Params]]
) -> None:
    """What eight devices with two rows each would make if each divided by its own count."""
    of = gradient(place_on(1, 1, 1))
    window_RT1, mask_RT = WINDOWS_ABT1.reshape(16, 33), MASK_ABT.reshape(16, 32)
    rows = [of(fresh, window_RT1, mask_RT * (np.arange(16) == row).astype(np.float32)[:, None]) for row in range(16)]
    assert [float(count) for (_, count), _ in rows] == [2 * row + 1 for row in range(16)]
    wanted_loss, wanted = one_batch["some"]
    loss, grads = mean(rows)
    assert relative_distance(loss, wanted_loss) < 1e-6
    assert relative_distance(grads, wanted) < 3e-6
    loss, grads = mean_of_means([jax.tree.map(jnp.add, *rows[first : first + 2]) for first in range(0, 16, 2)])
    assert relative_distance(loss, wanted_loss) > 5e-4
    assert nearest(grads, wanted) > 0.1


@pytest.mark.parametrize("sizes", [(1, 1, 1), *MESHES])
def test_the_evaluation_step_sums_unequal_counts(
    sizes: tuple[int, int, int], fresh: Params, one_batch: dict[str, tuple[Any, Params]]
) -> None:
    place = place_on(*sizes)
    params, evaluate = jax.device_put(fresh, place.params()), make_eval_step(TINY, place, 16)
    parts = np.array([evaluate(params, *batch) for batch in zip(WINDOWS_ABT1, MASK_ABT, strict=True)])
    totals_A, counts_A = parts.T
    assert counts_A.tolist() == [64, 192]
    wanted = float(one_batch["some"][0])
    assert totals_A.sum() / counts_A.sum() == pytest.approx(wanted, rel=5e-7)
    assert (totals_A / counts_A).mean() != pytest.approx(wanted, rel=5e-4)


# A large epsilon keeps Adam from making whole steps of gradients that are but rounding; a large rate, so that what the
# parameters were does not hide in its rounding what was added to them.
SETTINGS = Config(
    model=TINY,
    optimizer=OptimizerConfig(learning_rate=1.0, warmup_steps=0, epsilon=1e-3, clip_norm=0.0),
    training=TrainingConfig(loss_chunk=16),
)
LIMITS = {"/params/": 2e-5, "/mu/": 3e-6, "/nu/": 5e-6}
SEQUENCES_RT1 = random_tokens(2, 32, 33)


def update(params: Params, sizes: tuple[int, int, int], micro_batches: int) -> dict[str, Any]:
    """State and metrics, by path, after one step with the same 32 sequences in so many micro-batches."""
    place = place_on(*sizes)
    state = init_state(SETTINGS, place, jax.device_put(params, place.params()))
    return by_path(
        jax.device_get(make_train_step(SETTINGS, place)(state, SEQUENCES_RT1.reshape(micro_batches, -1, 33)))
    )


def assert_same_update(found: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Parameters, both moments and metrics."""
    assert found.keys() == wanted.keys()
    for path, leaf in wanted.items():
        limit = next((limit for part, limit in LIMITS.items() if part in path), 4e-7)
        assert relative_distance(found[path], leaf) < limit, path


@pytest.fixture(scope="module")
def one_update(fresh: Params) -> dict[str, Any]:
    return update(fresh, (1, 1, 1), 1)


@pytest.mark.parametrize(
    ("sizes", "micro_batches"),
    [(sizes, 1) for sizes in MESHES]
    + [(sizes, parts) for sizes in ((1, 1, 1), (2, 2, 2), (4, 2, 1)) for parts in (2, 4)],
)
def test_an_update_is_that_of_one_device_and_one_batch(
    sizes: tuple[int, int, int], micro_batches: int, fresh: Params, one_update: dict[str, Any]
) -> None:
    assert_same_update(update(fresh, sizes, micro_batches), one_update)


def some(*args: Any, **kwargs: Any) -> tuple[jax.Array, jax.Array]:
    """The objective, of the targets below their row's first token: rows and micro-batches count unequally."""
    window_BT1 = args[1]
    return loss_sum(*args, **kwargs | {"weights_BT": (window_BT1[:, 1:] < window_BT1[:, :1]).astype(jnp.float32)})


def divided_early(*args: Any, **kwargs: Any) -> tuple[jax.Array, jax.Array]:
    total, count = some(*args, **kwargs)
    return total / count, jnp.ones_like(count)


def undivided(*args: Any, **kwargs: Any) -> tuple[jax.Array, jax.Array]:
    total, count = loss_sum(*args, **kwargs)
    return total, jnp.ones_like(count)


def nearest_moments(left: dict[str, Any], right: dict[str, Any]) -> float:
    return min(relative_distance(left[path], leaf) for path, leaf in right.items() if "/mu/" in path)


def test_micro_batches_that_count_unequally_make_the_update_of_one_batch(
    fresh: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows without a mask count every target; here the objective does not."""
    monkeypatch.setattr(step_module, "loss_sum", some)
    one = update(fresh, (1, 1, 1), 1)
    assert_same_update(update(fresh, (4, 2, 1), 4), one)
    # Twin: divided in every micro-batch.
    monkeypatch.setattr(step_module, "loss_sum", divided_early)
    assert nearest_moments(update(fresh, (1, 1, 1), 4), one) > 0.1


def test_gradients_that_were_not_divided_make_another_update(
    fresh: Params, one_update: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The twin of the updates above."""
    monkeypatch.setattr(step_module, "loss_sum", undivided)
    summed = update(fresh, (1, 1, 1), 4)
    assert nearest_moments(summed, one_update) > 1
    with pytest.raises(AssertionError, match="/params/"):
        assert_same_update(summed, one_update)
