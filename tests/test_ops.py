"""The written gradients of dense products, layer norm and GELU against derived ones; scores."""

import math
import re
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax.test_util import check_grads

from gpt2jax import ops
from gpt2jax.model import FEW_STATES, logits
from gpt2jax.ops import FEW_ROWS, gelu, layer_norm, product, scores, turned_product
from tests.helpers import count_primitive, distance

# The four dense layers of a block, and the forms that query, key and value come in.
PRODUCTS = ["btd,dchk->btchk", "btd,dchk->cbhtk", "bhtk,hkd->btd", "btd,df->btf", "btf,fd->btd"]
SIZES = {"b": 2, "t": 24, "d": 16, "c": 3, "h": 2, "k": 8, "f": 64}


def operands(einsum: str) -> tuple[jax.Array, jax.Array, jax.Array]:
    """States, kernel and the gradient of what they make."""
    (left, right), out = einsum.split("->")[0].split(","), einsum.split("->")[1]
    keys = jax.random.split(jax.random.key(0), 3)
    x, kernel, grad = (
        jax.random.normal(key, [SIZES[axis] for axis in axes])
        for key, axes in zip(keys, (left, right, out), strict=True)
    )
    return x, kernel, grad


@pytest.mark.parametrize("einsum", PRODUCTS)
class TestProduct:
    def test_its_written_gradient_is_the_derived_one(self, einsum: str) -> None:
        x, kernel, grad = operands(einsum)
        found_out, found = jax.vjp(lambda x, kernel: product(einsum, x, kernel), x, kernel)
        wanted_out, wanted = jax.vjp(lambda x, kernel: jnp.einsum(einsum, x, kernel), x, kernel)
        assert (found_out == wanted_out).all()
        for one, other, none in zip(found(grad), wanted(grad), wanted(grad[::-1]), strict=True):
            assert one.dtype == other.dtype
            assert distance(one, other) < 1e-5
            assert distance(one, none) > 1e-2

    def test_a_large_kernel_is_multiplied_as_a_matrix(self, einsum: str, monkeypatch: pytest.MonkeyPatch) -> None:
        x, kernel, grad = operands(einsum)

        def turned() -> tuple[int, Any]:
            """How often an array is turned around, and what comes out."""

            def backward(x: jax.Array, kernel: jax.Array, grad: jax.Array) -> Any:
                out, pull = jax.vjp(lambda x, kernel: product(einsum, x, kernel), x, kernel)
                return out, *pull(grad)

            compiled = jax.jit(backward).lower(x, kernel, grad).compile()
            return str(compiled.as_text()).count(" transpose("), compiled(x, kernel, grad)

        small, wanted = turned()
        monkeypatch.setattr(ops, "LARGE_KERNEL", kernel.size)
        large, found = turned()
        for one, other in zip(found, wanted, strict=True):
            assert distance(one, other) < 1e-5
            assert distance(one, other[::-1]) > 1e-2
        if einsum in ("btd,dchk->cbhtk", "bhtk,hkd->btd"):  # Which has axes between its rows.
            assert large == small > 0
        else:
            assert large == 0 < small
        monkeypatch.setattr(ops, "LARGE_KERNEL", kernel.size + 1)
        assert turned()[0] == small

    @pytest.mark.parametrize("large", [True, False])
    def test_a_kernel_that_is_held_has_no_gradient(
        self, einsum: str, large: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As beside adapters: none is computed, to be thrown away."""
        x, kernel, _ = operands(einsum)
        monkeypatch.setattr(ops, "LARGE_KERNEL", kernel.size + 1 - large)

        def by_states(x: jax.Array, kernel: jax.Array) -> jax.Array:
            return jax.grad(lambda x: product(einsum, x, kernel).sum())(x)

        def by_both(x: jax.Array, kernel: jax.Array) -> Any:
            return jax.grad(lambda x, kernel: product(einsum, x, kernel).sum(), (0, 1))(x, kernel)

        assert count_primitive("dot_general", by_states, x, kernel) == 2
        assert count_primitive("dot_general", by_both, x, kernel) > 2

    def test_on_cpu_no_product_of_a_small_kernel_is_of_a_transpose(self, einsum: str) -> None:
        """That is, none sums over the first axis of its left side."""
        x, kernel, grad = operands(einsum)

        def slow_products(function: Any) -> int:
            def by_kernel(x: jax.Array, kernel: jax.Array, grad: jax.Array) -> jax.Array:
                return jax.vjp(lambda kernel: function(x, kernel), kernel)[1](grad)[0]

            return str(jax.jit(by_kernel).lower(x, kernel, grad).compile().as_text()).count("lhs_contracting_dims={0}")

        assert slow_products(lambda x, kernel: product(einsum, x, kernel)) == 0
        if einsum == "btd,df->btf":  # Of others it turns the larger side instead.
            assert slow_products(lambda x, kernel: jnp.einsum(einsum, x, kernel)) == 1


@pytest.mark.parametrize("einsum", PRODUCTS)
class TestTurnedProduct:
    """Of a kernel whose outputs come first."""

    @pytest.mark.parametrize("shape", [(1, 1), (3, 1), (2, 24), (2, 40)])
    def test_it_is_that_of_the_kernel(self, einsum: str, shape: tuple[int, int]) -> None:
        """For one state, a few, and more than :data:`FEW_ROWS`; whichever comes first, both are matrices."""
        (left, right), out = einsum.split("->")[0].split(","), einsum.split("->")[1]
        sizes = SIZES | dict(zip("bt", shape, strict=True))
        x, kernel = (
            jax.random.normal(jax.random.key(key), [sizes[axis] for axis in axes])
            for key, axes in enumerate((left, right))
        )
        ins = sum(axis in left for axis in right)
        turned = jnp.moveaxis(kernel, range(ins), range(-ins, 0))
        compiled = jax.jit(turned_product, static_argnums=0).lower(einsum, x, turned).compile()
        wanted, found = jnp.einsum(einsum, x, kernel), compiled(x, turned)
        assert found.shape == wanted.shape == tuple(sizes[axis] for axis in out)
        assert distance(found, wanted) < 1e-5
        assert distance(found[..., ::-1], wanted) > 1e-2
        count, width = shape[0] * shape[1], kernel.size // math.prod(sizes[axis] for axis in right[:ins])
        order = (width, count) if 1 < count <= FEW_ROWS else (count, width)
        dots = re.findall(r"f32\[([\d,]+)\]\S* dot\(", compiled.as_text() or "")
        assert dots == [",".join(map(str, order))] if count > 1 else len(dots) <= 1  # One state is no matrix.


class TestScores:
    @pytest.mark.parametrize("rows", [8, 200])
    def test_they_are_those_of_the_plain_product(self, rows: int) -> None:
        """Of a table that is smaller than the states, and of a larger one."""
        x_BTD, table_VD = (
            jax.random.normal(jax.random.key(key), shape) for key, shape in ((0, (2, 9, 16)), (1, (rows, 16)))
        )
        wanted_BTV = jnp.einsum("btd,vd->btv", x_BTD, table_VD)
        found_BTV = jax.jit(scores)(x_BTD, table_VD)
        assert found_BTV.shape == (2, 9, rows)
        assert distance(found_BTV, wanted_BTV) < 1e-5
        assert distance(found_BTV, wanted_BTV[:, ::-1]) > 1e-2
        assert scores(x_BTD.astype(jnp.bfloat16), table_VD.astype(jnp.bfloat16)).dtype == jnp.float32

    def test_on_cpu_the_larger_side_comes_first(self) -> None:
        def made(function: Any, rows: int, dtype: Any = jnp.float32) -> list[str]:
            arrays = jnp.ones((2, 9, 16), dtype), jnp.ones((rows, 16), dtype)
            return re.findall(r"f32\[([\d,]+)\]\S* dot\(", jax.jit(function).lower(*arrays).compile().as_text() or "")

        assert made(scores, 200) == ["200,18"]
        assert made(scores, 8) == ["18,8"]
        assert made(scores, 200, jnp.bfloat16) == ["18,200"]  # Which is not Eigen's.
        # Twin: written plainly, the states do.
        assert made(lambda x, table: jnp.einsum("btd,vd->btv", x, table), 200) == ["18,200"]

    def test_the_models_head_puts_it_first_for_few_states_alone(self) -> None:
        def made(batch: int) -> list[str]:
            arrays = {"wte": jnp.ones((200, 16))}, jnp.ones((batch, 1, 16))
            return re.findall(r"f32\[([\d,]+)\]\S* dot\(", jax.jit(logits).lower(*arrays).compile().as_text() or "")

        assert made(FEW_STATES) == [f"200,{FEW_STATES}"]
        assert made(FEW_STATES + 1) == [f"{FEW_STATES + 1},200"]

    def test_they_have_the_plain_products_gradients(self) -> None:
        def gradients(function: Any) -> Any:
            x_BTD, table_VD = (
                jax.random.normal(jax.random.key(key), shape) for key, shape in ((0, (2, 3, 16)), (1, (200, 16)))
            )
            weight_BTV = jax.random.normal(jax.random.key(2), (2, 3, 200))
            return jax.jit(jax.grad(lambda *xs: jnp.sum(weight_BTV * function(*xs)), argnums=(0, 1)))(x_BTD, table_VD)

        wanted = gradients(lambda x, table: jnp.einsum("btd,vd->btv", x, table))
        assert distance(gradients(scores), wanted) < 1e-5
        assert distance(gradients(lambda x, table: scores(x, table[::-1])), wanted) > 1e-2


class TestLayerNorm:
    def naive(self, x_BTD: jax.Array, scale_D: jax.Array, bias_D: jax.Array, epsilon: float) -> jax.Array:
        mean_BT1 = jnp.mean(x_BTD, axis=-1, keepdims=True)
        variance_BT1 = jnp.mean((x_BTD - mean_BT1) ** 2, axis=-1, keepdims=True)
        return (x_BTD - mean_BT1) / jnp.sqrt(variance_BT1 + epsilon) * scale_D[None, None] + bias_D[None, None]

    def test_its_written_gradient_is_the_derived_one(self) -> None:
        keys = jax.random.split(jax.random.key(0), 4)
        # Small numbers, so that epsilon counts.
        x_BTD, out_BTD = (0.01 * jax.random.normal(key, (3, 5, 8)) + 0.02 for key in keys[:2])
        scale_D, bias_D = (jax.random.normal(key, (8,)) for key in keys[2:])

        @jax.jit
        def errors() -> list[jax.Array]:
            value, pull = jax.vjp(lambda *args: layer_norm(*args, 1e-5), x_BTD, scale_D, bias_D)
            found = [value, *pull(out_BTD)]
            result = []
            for epsilon in (1e-5, 1e-6):
                value, pull = jax.vjp(
                    lambda x, scale, bias, eps=epsilon: self.naive(x, scale, bias, eps), x_BTD, scale_D, bias_D
                )
                wanted = [value, *pull(out_BTD)]
                result.append(
                    jnp.stack([jnp.max(abs(a - b)) / jnp.max(abs(b)) for a, b in zip(found, wanted, strict=True)])
                )
            return result

        right, other_epsilon = errors()
        assert right.max() < 2e-6
        assert (other_epsilon[:3] > 1e-3).all()  # The bias's gradient does not know epsilon.

    def test_its_gradient_is_that_of_small_differences(self) -> None:
        x_BTD = jax.random.normal(jax.random.key(0), (2, 2, 6))
        scale_D, bias_D = jnp.linspace(0.5, 1.5, 6), jnp.linspace(-1.0, 1.0, 6)
        check_grads(lambda *args: layer_norm(*args, 1e-5), (x_BTD, scale_D, bias_D), order=1, modes=["rev"])


class TestGelu:
    @pytest.mark.parametrize(("dtype", "limit"), [(jnp.float32, 5e-6), (jnp.bfloat16, 2e-2)])
    def test_its_written_gradient_is_the_derived_one(self, dtype: Any, limit: float) -> None:
        x = jnp.linspace(-6, 6, 241).astype(dtype)
        found = jax.grad(lambda x: gelu(x).astype(jnp.float32).sum())(x)
        exact = jnp.linspace(-6, 6, 241).astype(dtype).astype(jnp.float32)
        wanted = jax.grad(lambda x: jax.nn.gelu(x, approximate=True).sum())(exact)
        other = jax.grad(lambda x: jax.nn.gelu(1.05 * x, approximate=True).sum())(exact)
        assert found.dtype == dtype
        assert distance(found, wanted) < limit
        assert distance(found, other) > 2 * limit
